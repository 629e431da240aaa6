"""What two nodes say to each other over brokers: one message type, packed with msgpack as an array.

Every field is bounded, and the bounds are checked on decoding: whoever holds a key may send anything.
"""

from __future__ import annotations

import enum
import math
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from warpgate.errors import DecodeError
from warpgate.model.address import DIGEST_SIZE, MAX_ADDRESS_SIZE
from warpgate.model.identity import SESSION_SIZE
from warpgate.model.text import MAX_PLUGIN_NAME, is_plugin_name, printable
from warpgate.model.wanted import LARGEST

MAX_MESSAGES = 16
MAX_BODY = 1024
MAX_REASON = 200
MAX_TOKEN = 32
FLIGHT_PACKETS = 2  # of a client with a post-quantum key share
MAX_FLIGHT_PACKET = 1200  # RFC 9000 section 14.1: a client's first packets fill so much
UNKNOWN_HELD = -1.0
MAX_TIME = 2.0**36  # of the year 4147: clocks may be off, and what is said of them stays short

Name = Annotated[str, Meta(min_length=1, max_length=MAX_PLUGIN_NAME)]
Body = Annotated[bytes, Meta(max_length=MAX_BODY)]
FlightPacket = Annotated[bytes, Meta(max_length=MAX_FLIGHT_PACKET)]


class SignalKind(enum.IntEnum):
    OFFER = 1  # the initiator: I am trying to reach you, here is all you need
    ANSWER = 2  # the responder: what was stale, or: I am at it
    REFUSAL = 3  # the responder: no, and why
    CHALLENGE = 4  # the responder: say that again with this token, I cannot tell it from a recording
    TWIN = 5  # a process of our own key, to the others of it: who is there? (sequence 1), or: I am (0)


class PluginMessage(msgspec.Struct, frozen=True, array_like=True):
    """One plugin's payload; what `body` holds is the plugin's business."""

    name: Name
    body: Body

    def __post_init__(self) -> None:
        if not is_plugin_name(self.name):
            raise ValueError(f"{self.name!r} is no name of a plugin")


class Signal(msgspec.Struct, frozen=True, array_like=True):
    """One signal. `time` is the sender's clock in Unix seconds, `held` a duration in seconds.

    `address` is the sender's encoded NodeAddress; `known` the digest of the receiver's address that the
    sender worked with (b"": none); `acknowledges` the receiver's highest sequence up to which the sender misses
    none; `held` how long an ANSWER's offer waited here (-1: unknown); `mode` a
    Mode's value; `secure` whether the initiator wants TLS on a TCP link; `token` what makes an offer fresh whatever
    the clocks say: given out by a CHALLENGE, given back by the OFFERs that follow; `wanted` an encoded Wanted;
    `connection` for which connection a path is wanted (b"": for a new one, or for a pipe); `flight` of a new one the
    first packets of its QUIC client (none: they come by the path).
    """

    kind: SignalKind
    session: Annotated[bytes, Meta(min_length=SESSION_SIZE, max_length=SESSION_SIZE)]
    sequence: Annotated[int, Meta(ge=0, lt=2**32)]
    time: Annotated[float, Meta(ge=0, le=MAX_TIME)]
    address: Annotated[bytes, Meta(min_length=1, max_length=MAX_ADDRESS_SIZE)]
    messages: Annotated[tuple[PluginMessage, ...], Meta(max_length=MAX_MESSAGES)] = ()
    known: Annotated[bytes, Meta(max_length=DIGEST_SIZE)] = b""
    held: Annotated[float, Meta(ge=UNKNOWN_HELD)] = UNKNOWN_HELD
    mode: Annotated[str, Meta(max_length=16)] = ""
    reason: Annotated[str, Meta(max_length=MAX_REASON)] = ""
    acknowledges: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    secure: bool = False
    token: Annotated[bytes, Meta(max_length=MAX_TOKEN)] = b""
    wanted: Annotated[bytes, Meta(max_length=LARGEST)] = b""
    connection: Annotated[bytes, Meta(max_length=SESSION_SIZE)] = b""
    flight: Annotated[tuple[FlightPacket, ...], Meta(max_length=FLIGHT_PACKETS)] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.time) and math.isfinite(self.held)):
            raise ValueError("times are finite")
        if len(self.known) not in (0, DIGEST_SIZE):
            raise ValueError(f"a digest has {DIGEST_SIZE} bytes")
        if len(self.connection) not in (0, SESSION_SIZE):
            raise ValueError(f"a connection's id has {SESSION_SIZE} bytes")


def encode_signal(signal: Signal) -> bytes:
    return msgspec.msgpack.encode(signal)


def decode_signal(data: bytes) -> Signal:
    """Raises DecodeError that tells the offending field's position; fields added at the end pass.

    The reason is made printable: it is for people, and of no use to anybody else.
    """
    try:
        signal = msgspec.msgpack.decode(data, type=Signal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not a signal: {error}") from None
    return msgspec.structs.replace(signal, reason=printable(signal.reason, None)) if signal.reason else signal


def decode_body(body: bytes, kind: type[Any]) -> Any:
    """A plugin's message of this kind, its `message_type`. Raises DecodeError."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not a {kind.__name__}: {error}") from None
