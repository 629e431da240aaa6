"""Plugin names and reasons that a peer chooses, at the doors of HELLO, of checks and of signals."""

from __future__ import annotations

import hmac

import msgspec
import pytest

from warpgate.errors import DecodeError
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Mode
from warpgate.model.identity import Identity
from warpgate.proto.check_wire import CheckCodec, verify_introduction
from warpgate.proto.hello import Handshake, Role
from warpgate.proto.signals import Signal, SignalKind, decode_signal, encode_signal
from warpgate.proto.stun import ErrorCode

HOSTILE = ["\x1b]0;t\x07\x1b[2J", "direct\nwarpgate: fine", "a\u202eb", "a b", "a,b", "\x9b2J"]
KEY, SESSION, NONCE = b"k" * 32, b"s" * 16, b"n" * 16
PLACE = Endpoint.of("192.0.2.1", 1)
PUBLIC = Identity.generate().public_key


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hello(name: str) -> None:
    honest = Handshake.dial(
        role=Role.INITIATOR,
        session=SESSION,
        session_key=KEY,
        public_key=PUBLIC,
        peer_key=PUBLIC,
        nonce=NONCE,
        plugin="x" * len(name.encode()),
    ).data_to_send()
    message = honest[: -len(name.encode()) - 32] + name.encode()
    acceptor = Handshake.accept(NONCE)
    with pytest.raises(DecodeError, match="no name of a plugin"):
        acceptor.receive(message + hmac.digest(KEY, b"tcp hello" + message, "sha256"))


@pytest.mark.parametrize("name", HOSTILE)
def test_checks(name: str) -> None:
    initiator = CheckCodec(True, SESSION, KEY, 2 * NONCE, PUBLIC, Mode.DATAGRAM)
    data = initiator.request(b"t" * 12, name, PLACE, introduce=True)
    with pytest.raises(DecodeError, match="no name of a plugin"):
        verify_introduction(data, KEY)
    with pytest.raises(DecodeError, match="no name of a plugin"):
        CheckCodec(False, SESSION, KEY, 2 * NONCE).open(data, PLACE)


def signal_with(**changes: object) -> bytes:
    signal = Signal(SignalKind.REFUSAL, SESSION, 1, 1.0, NodeAddress(PUBLIC).encode())
    return encode_signal(msgspec.structs.replace(signal, **changes))


@pytest.mark.parametrize("name", HOSTILE)
def test_offers(name: str) -> None:
    """Packed by hand: our own side does not even make such a message."""
    fields = msgspec.msgpack.decode(signal_with())
    fields[5] = [[name, b""]]
    with pytest.raises(DecodeError, match="no name of a plugin"):
        decode_signal(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize("reason", HOSTILE)
def test_the_reason_of_a_refusal_is_read_as_one_plain_line(reason: str) -> None:
    assert decode_signal(signal_with(reason=reason)).reason.isprintable()


def test_the_reason_of_a_stun_error() -> None:
    assert str(ErrorCode(401, "\x1b[2J\nhi")) == "401 \\x1b[2J\\nhi"
    assert str(ErrorCode(401)) == "401"
