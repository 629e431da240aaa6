"""The handshake on a TCP link, sans-I/O: both ends prove their keys, then the initiator nominates.

This file owns what is on the wire before the user's bytes. It must not know sockets, which session a HELLO
belongs to, or where keys come from: nonces and session keys are arguments.

    message  = "WG2"  type(1)  length(2) of body  body  MAC(32)
    HELLO    = type 1, body: session(16) role(1) public key(33) nonce(16) mode(1) plugin(1 + n, UTF-8)  [wanted]
    WELCOME  = type 2, body: nonce(16)
    NOMINATE = type 3, body: empty
    REFUSED  = type 4, body: why(1 to 200, UTF-8)

Every MAC is HMAC-SHA256 under the session key, over a label, what was heard, and the message up to the MAC:

    HELLO       "tcp hello"     message
    WELCOME     "tcp welcome"   the HELLO's nonce, role(1) of the WELCOME's sender, message
    NOMINATE    "tcp nominate"  the initiator's nonce, the responder's nonce, message
    REFUSED     "tcp refused"   the HELLO's nonce, role(1) of the REFUSED's sender, message

Rules:

* A dialler sends HELLO at once; an acceptor answers WELCOME. In a simultaneous open (RFC 9293 section 3.5)
  both are diallers and the HELLOs cross: the peer's HELLO, in the same session and of the opposite role, then
  is the proof, and there is no WELCOME. So each side sends exactly one of the two.
* An acceptor that knows the initiator, and has not what it wants, says REFUSED instead, and hangs up.
* Then the initiator, and nobody else, sends NOMINATE, on one link only. The responder is silent till then.
* What follows NOMINATE, either way, is the user's, byte for byte; where the initiator wants it so (mode 2 of its
  HELLO, or its offer), it is TLS.
* What is wanted of the responder (`model/wanted.py`) is in the HELLO of an initiator alone, and only if it is anything.
* A recording of HELLO gets an answer but never a nomination, whose MAC covers both nonces. A HELLO that is
  reflected to its sender has the wrong role; a WELCOME carries its sender's role under the MAC.
"""

from __future__ import annotations

import enum
import hmac
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from warpgate.errors import AuthenticationError, DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Mode
from warpgate.model.identity import PUBLIC_KEY_SIZE, SESSION_SIZE
from warpgate.model.text import MAX_PLUGIN_NAME, is_plugin_name, printable
from warpgate.model.wanted import ANYTHING, LARGEST, Wanted

NONCE_SIZE = 16
# Whoever sends more than 1 KiB before a valid HELLO is cut off. A HELLO has at most 180 bytes.
MAX_UNPROVED = 1024

HEADER_SIZE = 6
MAX_REASON = 200  # bytes of UTF-8

_MAGIC = b"WG2"
_MAC_SIZE = 32
_HELLO_FIXED = SESSION_SIZE + 1 + PUBLIC_KEY_SIZE + NONCE_SIZE + 1 + 1
# Modes of a TCP link: a stream as it is, TLS on it from the nomination on, or a path of a connection.
_STREAM, _SECURE, _PATH = 1, 2, 3


class Role(enum.IntEnum):
    """Who called connect (RFC 8445: the controlling agent), and the other."""

    INITIATOR = 1
    RESPONDER = 2

    @property
    def opposite(self) -> Role:
        return Role.RESPONDER if self is Role.INITIATOR else Role.INITIATOR


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """An acceptor heard a HELLO, not proved yet: find the session key and call `prove`, or drop the link."""

    session: bytes
    role: Role
    key: bytes
    nonce: bytes
    mode: Mode
    plugin: str
    secure: bool = False
    wanted: Wanted = ANYTHING


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The other end holds the session key. `role`, `peer_key`, `nonce` and `plugin` are the peer's.

    `secure`: the initiator's HELLO says that TLS follows its nomination.
    """

    session: bytes
    role: Role
    peer_key: bytes
    nonce: bytes
    mode: Mode
    plugin: str
    secure: bool = False


@dataclass(frozen=True, slots=True)
class Nominated:
    """The initiator chose this link; what `leftover` returns is the user's."""


HandshakeEvent = HelloReceived | Authenticated | Nominated


class Type(enum.IntEnum):
    HELLO = 1
    WELCOME = 2
    NOMINATE = 3
    REFUSED = 4


class State(enum.Enum):
    DIALLED = "our HELLO is out"
    LISTENING = "waiting for a HELLO"
    UNPROVED = "a HELLO waits for prove()"
    CONTROLLING = "authenticated; nominating is ours"
    CONTROLLED = "authenticated; nominating is the peer's"
    NOMINATED = "the stream is the user's"
    REFUSED = "refused"


class Refused(AuthenticationError):
    """The peer knows us, and will not have this session: the message is its reason."""


_BODY_SIZES: Mapping[Type, tuple[int, int]] = MappingProxyType({
    Type.HELLO: (_HELLO_FIXED, _HELLO_FIXED + MAX_PLUGIN_NAME + LARGEST),
    Type.WELCOME: (NONCE_SIZE, NONCE_SIZE),
    Type.NOMINATE: (0, 0),
    Type.REFUSED: (1, MAX_REASON),
})  # fmt: skip


class Handshake:
    """One end of one TCP link, from connect or accept to the user's first byte.

    `receive` what came, send what `data_to_send` returns, take `next_event` until None. Errors are final:
    close the link. After nomination `leftover` returns the bytes that are the user's.
    """

    __slots__ = ("_buffer", "_events", "_hello", "_nonce", "_outbox", "_peer_nonce", "_session_key", "_state")

    def __init__(self, state: State, hello: HelloReceived | None, session_key: bytes, nonce: bytes) -> None:
        if len(nonce) != NONCE_SIZE:
            raise ValueError(f"a nonce has {NONCE_SIZE} bytes, this one {len(nonce)}")
        self._state = state
        self._hello = hello  # what the peer said (accepting) or must be like (dialling: session, role, key)
        self._session_key = session_key
        self._nonce = nonce
        self._peer_nonce = b""
        self._buffer = bytearray()
        self._outbox = bytearray()
        self._events: deque[HandshakeEvent] = deque()

    @classmethod
    def dial(
        cls,
        *,
        role: Role,
        session: bytes,
        session_key: bytes,
        public_key: bytes,
        peer_key: bytes,
        nonce: bytes,
        plugin: str = "",
        secure: bool = False,
        wanted: Wanted = ANYTHING,
        mode: Mode = Mode.STREAM,
    ) -> Handshake:
        """We dialled: `role` and `public_key` are ours, `nonce` is 16 fresh random bytes. HELLO is queued.

        `secure`: TLS is to follow the nomination. `wanted` is an initiator's to say. `mode`: STREAM or PATH.
        """
        expected = HelloReceived(session, role.opposite, peer_key, b"", mode, plugin, secure)
        handshake = cls(State.DIALLED, expected, session_key, nonce)
        body = _pack_hello(HelloReceived(session, role, public_key, nonce, mode, plugin, secure, wanted))
        handshake._send(Type.HELLO, body, b"tcp hello")
        return handshake

    @classmethod
    def accept(cls, nonce: bytes) -> Handshake:
        """Somebody dialled us. The session is learnt from the HELLO, hence `prove`."""
        return cls(State.LISTENING, None, b"", nonce)

    @property
    def state(self) -> State:
        return self._state

    def receive(self, data: bytes) -> None:
        """Bytes from the peer. Raises DecodeError or AuthenticationError: then the link is worthless."""
        self._buffer += data
        self._advance()

    def data_to_send(self) -> bytes:
        """What to send now; b"" when nothing."""
        data = bytes(self._outbox)
        self._outbox.clear()
        return data

    def next_event(self) -> HandshakeEvent | None:
        return self._events.popleft() if self._events else None

    def prove(self, session_key: bytes) -> None:
        """Answer HelloReceived: AuthenticationError unless the HELLO's MAC fits this key. Queues WELCOME."""
        hello = self._hello
        if self._state is not State.UNPROVED or hello is None:
            raise RuntimeError(f"nothing to prove: {self._state.value}")
        message, mac = self._take(HEADER_SIZE + len(_pack_hello(hello)))
        self._session_key = session_key
        self._check(mac, b"tcp hello", message)
        if self._buffer:
            raise DecodeError("bytes behind the HELLO before it was answered")
        role = hello.role.opposite
        self._send(Type.WELCOME, self._nonce, b"tcp welcome" + hello.nonce + bytes((role,)))
        self._authenticated(hello)

    def refuse(self, reason: str) -> None:
        """Instead of what `prove` has queued, to an initiator that it has proved: the reason. Hang up then."""
        hello = self._hello
        if self._state is not State.CONTROLLED or hello is None or not self._outbox:
            raise RuntimeError(f"too late to refuse: {self._state.value}")
        self._outbox.clear()
        self._events.clear()
        body = reason.encode()[:MAX_REASON].decode(errors="ignore").encode()
        self._send(Type.REFUSED, body, b"tcp refused" + hello.nonce + bytes((hello.role.opposite,)))
        self._state = State.REFUSED

    def nominate(self) -> None:
        """Initiator only, once authenticated: this is the link. Queues NOMINATE; user bytes may follow it."""
        if self._state is not State.CONTROLLING:
            raise RuntimeError(f"cannot nominate: {self._state.value}")
        self._send(Type.NOMINATE, b"", b"tcp nominate" + self._nonce + self._peer_nonce)
        self._state = State.NOMINATED

    def leftover(self) -> bytes:
        """Bytes received behind the handshake: the user's. Taken once; only after nomination."""
        if self._state is not State.NOMINATED:
            raise RuntimeError(f"no user bytes yet: {self._state.value}")
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _advance(self) -> None:
        while self._state not in (State.UNPROVED, State.NOMINATED) and (found := self._complete()):
            self._HANDLERS[self._state, found[0]](self, found[1])
        if self._state is not State.NOMINATED and len(self._buffer) > MAX_UNPROVED:
            raise DecodeError(f"{len(self._buffer)} bytes before the handshake is over ({self._state.value})")

    def _complete(self) -> tuple[Type, int] | None:
        """Type and body size of the message that has come whole; refuses wrong ones as early as possible."""
        buffer = self._buffer
        if buffer[:3] != _MAGIC[: len(buffer)]:
            raise DecodeError(f"the peer does not speak warpgate: {bytes(buffer[:8])!r}")
        if len(buffer) < 4:
            return None
        kind = buffer[3]
        if (self._state, kind) not in self._HANDLERS:
            raise DecodeError(f"message type {kind} is not allowed here ({self._state.value})")
        if len(buffer) < HEADER_SIZE:
            return None
        size = buffer[4] << 8 | buffer[5]
        low, high = _BODY_SIZES[Type(kind)]
        if not low <= size <= high:
            raise DecodeError(f"{Type(kind).name} with a body of {size} bytes, {low} to {high} are allowed")
        return (Type(kind), size) if len(buffer) >= HEADER_SIZE + size + _MAC_SIZE else None

    def _on_hello(self, size: int) -> None:
        # Left in the buffer until the session key is known.
        self._hello = _parse_hello(bytes(self._buffer[HEADER_SIZE : HEADER_SIZE + size]))
        self._state = State.UNPROVED
        self._events.append(self._hello)

    def _on_crossing_hello(self, size: int) -> None:
        message, mac = self._take(HEADER_SIZE + size)
        self._check(mac, b"tcp hello", message)
        hello, expected = _parse_hello(message[HEADER_SIZE:]), self._expected
        if (hello.session, hello.key) != (expected.session, expected.key):
            raise AuthenticationError("the peer's HELLO is of another session or key")
        if hello.role is not expected.role:
            raise AuthenticationError(f"both ends of the link claim to be the {hello.role.name.lower()}")
        self._authenticated(hello)

    def _on_welcome(self, size: int) -> None:
        message, mac = self._take(HEADER_SIZE + size)
        expected = self._expected
        self._check(mac, b"tcp welcome" + self._nonce + bytes((expected.role,)), message)
        self._authenticated(replace(expected, nonce=message[HEADER_SIZE:]))

    def _on_refused(self, size: int) -> None:
        message, mac = self._take(HEADER_SIZE + size)
        self._check(mac, b"tcp refused" + self._nonce + bytes((self._expected.role,)), message)
        self._state = State.REFUSED
        raise Refused(printable(message[HEADER_SIZE:].decode(errors="replace")))

    def _on_nominate(self, size: int) -> None:
        message, mac = self._take(HEADER_SIZE + size)
        self._check(mac, b"tcp nominate" + self._peer_nonce + self._nonce, message)
        self._state = State.NOMINATED
        self._events.append(Nominated())

    @property
    def _expected(self) -> HelloReceived:
        if self._hello is None:
            raise RuntimeError("only a dialler expects a certain peer")
        return self._hello

    def _authenticated(self, peer: HelloReceived) -> None:
        self._peer_nonce = peer.nonce
        self._state = State.CONTROLLING if peer.role is Role.RESPONDER else State.CONTROLLED
        self._events.append(
            Authenticated(peer.session, peer.role, peer.key, peer.nonce, peer.mode, peer.plugin, peer.secure)
        )

    def _take(self, size: int) -> tuple[bytes, bytes]:
        """The next message up to its MAC, and the MAC."""
        message, mac = bytes(self._buffer[:size]), bytes(self._buffer[size : size + _MAC_SIZE])
        del self._buffer[: size + _MAC_SIZE]
        return message, mac

    def _send(self, kind: Type, body: bytes, label: bytes) -> None:
        message = _header(kind, body) + body
        self._outbox += message + self._mac(label, message)

    def _mac(self, label: bytes, message: bytes) -> bytes:
        return hmac.digest(self._session_key, label + message, "sha256")

    def _check(self, mac: bytes, label: bytes, message: bytes) -> None:
        if not hmac.compare_digest(mac, self._mac(label, message)):
            raise AuthenticationError("the handshake's MAC does not fit: another key, another session, or altered")

    # The protocol is this table: what is not in it is refused.
    _HANDLERS: Mapping[tuple[State, int], Callable[[Handshake, int], None]] = MappingProxyType({
        (State.DIALLED, Type.WELCOME): _on_welcome,
        (State.DIALLED, Type.HELLO): _on_crossing_hello,
        (State.DIALLED, Type.REFUSED): _on_refused,
        (State.LISTENING, Type.HELLO): _on_hello,
        (State.CONTROLLED, Type.NOMINATE): _on_nominate,
    })  # fmt: skip


def rest_of_message(header: bytes) -> int:
    """How many bytes follow a header (6 bytes) that `receive` has let pass: who reads no more than this
    leaves the user's bytes, which may follow at once, in the socket."""
    return (header[4] << 8 | header[5]) + _MAC_SIZE


def _header(kind: Type, body: bytes) -> bytes:
    return _MAGIC + bytes((kind,)) + len(body).to_bytes(2, "big")


def _mode_of(hello: HelloReceived) -> int:
    if hello.mode is Mode.PATH:
        return _PATH
    return _SECURE if hello.secure else _STREAM


def _pack_hello(hello: HelloReceived) -> bytes:
    name = hello.plugin.encode()
    if len(name) > MAX_PLUGIN_NAME or len(hello.session) != SESSION_SIZE or len(hello.key) != PUBLIC_KEY_SIZE:
        raise ValueError(f"a HELLO with plugin {hello.plugin!r}, session {hello.session!r}, key {hello.key!r}")
    role_and_key = bytes((hello.role,)) + hello.key
    return (
        hello.session + role_and_key + hello.nonce + bytes((_mode_of(hello), len(name))) + name + hello.wanted.encode()
    )


def _parse_hello(body: bytes) -> HelloReceived:
    """`body` has at least the fixed part; DecodeError for values that do not exist."""
    role, rest = body[SESSION_SIZE], body[SESSION_SIZE + 1 :]
    key, nonce = rest[:PUBLIC_KEY_SIZE], rest[PUBLIC_KEY_SIZE : PUBLIC_KEY_SIZE + NONCE_SIZE]
    mode, size = body[_HELLO_FIXED - 2], body[_HELLO_FIXED - 1]
    name, wanted = body[_HELLO_FIXED : _HELLO_FIXED + size], Wanted.decode(body[_HELLO_FIXED + size :])
    if role not in (Role.INITIATOR, Role.RESPONDER) or mode not in (_STREAM, _SECURE, _PATH) or size != len(name):
        raise DecodeError(f"a HELLO with role {role}, mode {mode} and a plugin name of {size} bytes")
    if size > MAX_PLUGIN_NAME or (role == Role.RESPONDER and wanted != ANYTHING):
        raise DecodeError(f"a HELLO of role {role} with a plugin name of {size} bytes that wants {wanted}")
    try:
        plugin = name.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"the plugin's name in a HELLO is not UTF-8: {error}") from None
    if plugin and not is_plugin_name(plugin):
        raise DecodeError(f"{plugin!r} in a HELLO is no name of a plugin")
    return HelloReceived(
        body[:SESSION_SIZE],
        Role(role),
        key,
        nonce,
        Mode.PATH if mode == _PATH else Mode.STREAM,
        plugin,
        mode == _SECURE,
        wanted,
    )
