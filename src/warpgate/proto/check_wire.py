"""The messages of connectivity checks: STUN Binding with our attributes, one session's keys (see `check`).

    request  = WG-SESSION  role(tie-breaker)  [WG-KEY  [WG-MODE]  [WG-WANTED]]  WG-NONCE  [WG-ECHO]
               WG-PLUGIN  [USE-CANDIDATE | WG-CLOSE]
    answer   = WG-SESSION  role  WG-NONCE  XOR-MAPPED-ADDRESS  [USE-CANDIDATE]
    refusal  = WG-SESSION  role  ERROR-CODE (403 and why), to a first check alone

all followed by MESSAGE-INTEGRITY-SHA256 under HMAC-SHA256(session key, "udp check"). WG-KEY goes along until the peer
been heard, and with it WG-MODE (1) when the pipe is to be a stream, and WG-WANTED (`model/wanted.py`) unless nothing
in particular is wanted of the peer.

WG-NONCE is a function of the endpoint that the message goes to, under a secret of its sender's. WG-ECHO gives back the
nonce that came from the very endpoint that the message goes to, so it shows that its sender receives there: a forged
source address never brings one.
"""

from __future__ import annotations

import hashlib
import hmac

from warpgate.errors import AuthenticationError, DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Mode
from warpgate.model.identity import PUBLIC_KEY_SIZE, SESSION_SIZE
from warpgate.model.text import is_plugin_name
from warpgate.model.wanted import ANYTHING, Wanted
from warpgate.proto.stun import (
    BINDING,
    Attribute,
    Attributes,
    AttributeValue,
    ErrorCode,
    StunClass,
    StunMessage,
    decode,
    encode,
    raw_values,
    verify,
)

# Values of WG-MODE; a datagram pipe's checks carry none.
_MODES = {1: Mode.STREAM, 2: Mode.PATH}
NONCE_SIZE = 16
FORBIDDEN = 403  # RFC 8656 section 19
# Header, WG-SESSION, role, ERROR-CODE with padding and without its reason, MESSAGE-INTEGRITY-SHA256.
REFUSAL_OVERHEAD = 20 + 20 + 12 + 11 + 36
# As they are in a message, for what is looked at before it is decoded.
_REQUEST = BINDING.to_bytes(2, "big")
_SESSION, _KEY, _MODE = Attribute.WG_SESSION.value, Attribute.WG_KEY.value, Attribute.WG_MODE.value
_CONTROLLING, _USE_CANDIDATE = Attribute.ICE_CONTROLLING.value, Attribute.USE_CANDIDATE.value


def session_of(data: bytes) -> bytes | None:
    """The session id in a STUN message, None when it carries none (or is no STUN message)."""
    session = (raw_values(data) or {}).get(_SESSION)
    return session if session is not None and len(session) == SESSION_SIZE else None


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a check of an unknown session claims: worth one key agreement to find out."""

    session: bytes
    public_key: bytes
    mode: Mode


def introduction_of(data: bytes) -> Introduction:
    """From a first check of the controlling side; DecodeError when it is none.

    It looks at no more than the claim: anybody can send these, and `open` reads the rest of those that are proved.
    """
    values = raw_values(data)
    if values is None or data[:2] != _REQUEST or _CONTROLLING not in values or _USE_CANDIDATE in values:
        raise DecodeError("not the first check of a session")
    session, public_key = values.get(_SESSION, b""), values.get(_KEY, b"")
    if len(session) != SESSION_SIZE or len(public_key) != PUBLIC_KEY_SIZE:
        raise DecodeError("not the first check of a session")
    mode = _MODES.get(int.from_bytes(values.get(_MODE, b"")[:1], "big"), Mode.DATAGRAM)
    return Introduction(session, public_key, mode)


def verify_introduction(data: bytes, session_key: bytes) -> Wanted:
    """What is wanted by who made the first check: AuthenticationError unless with this session's key, DecodeError when
    the rest cannot be read.
    """
    verify(data, _check_key(session_key))
    message = decode(data)
    _plugin_of(message)
    return Wanted.decode(message.raw(Attribute.WG_WANTED) or b"")


def refusal_of(data: bytes, session_key: bytes, reason: str) -> bytes:
    """The answer to a first check whose sender may have no pipe: an error response, no longer than the check was."""
    request = decode(data)
    room = max(0, len(data) - REFUSAL_OVERHEAD)
    short = reason.encode()[:room].decode(errors="ignore")
    attributes: Attributes = (
        (Attribute.WG_SESSION, request.raw(Attribute.WG_SESSION) or b""),
        (Attribute.ICE_CONTROLLED, request.number(Attribute.ICE_CONTROLLING) or 0),
        (Attribute.ERROR_CODE, ErrorCode(FORBIDDEN, short)),
    )
    answer = StunMessage(BINDING, StunClass.ERROR, request.transaction_id, attributes)
    return encode(answer, key=_check_key(session_key))


def _check_key(session_key: bytes) -> bytes:
    return hmac.digest(session_key, b"udp check", hashlib.sha256)


@dataclass(frozen=True, slots=True)
class OpenedCheck:
    """An authenticated message of the peer's. `echoed`: it gives back the nonce that we sent to where it came from."""

    message: StunMessage
    plugin: str  # "" in an answer
    echoed: bool

    @property
    def nonce(self) -> bytes | None:
        return self.message.raw(Attribute.WG_NONCE)

    @property
    def chooses(self) -> bool:
        """A nomination, or the acknowledgement of one."""
        return Attribute.USE_CANDIDATE in self.message


def _plugin_of(message: StunMessage) -> str:
    """DecodeError when there is a name and it cannot be a plugin's."""
    plugin = message.text(Attribute.WG_PLUGIN) or ""
    if plugin and not is_plugin_name(plugin):
        raise DecodeError(f"{plugin!r} in a check is no name of a plugin")
    return plugin


class CheckCodec:
    """Packs and opens the messages of one side of one session. `introduction`: our public key, initiator only."""

    __slots__ = ("_controlling", "_introduction", "_key", "_mode", "_secret", "_session", "_wanted")

    def __init__(
        self,
        controlling: bool,
        session: bytes,
        key: bytes,
        secret: bytes,
        introduction: bytes | None = None,
        mode: Mode = Mode.DATAGRAM,
        wanted: Wanted = ANYTHING,
    ) -> None:
        """`key`: the session's. `secret`: 32 random bytes of this side's alone, new for each session."""
        self._controlling = controlling
        self._session = session
        self._key = _check_key(key)
        self._secret = secret
        self._introduction = introduction
        self._mode = mode
        self._wanted = wanted.encode()

    def nonce(self, remote: Endpoint) -> bytes:
        """16 bytes, ours for this endpoint of the peer's: whoever gives them back receives there."""
        return hmac.digest(self._secret, str(remote).encode(), hashlib.sha256)[:NONCE_SIZE]

    def request(
        self,
        transaction_id: bytes,
        plugin: str,
        remote: Endpoint,
        *flags: Attribute,
        echo: bytes | None = None,
        introduce: bool = False,
    ) -> bytes:
        """A check to `remote`; with USE_CANDIDATE a nomination. `echo`: the nonce that came from there."""
        attributes: list[tuple[int, AttributeValue]] = [(Attribute.WG_SESSION, self._session), self._role()]
        if self._introduction is not None and introduce:
            attributes.append((Attribute.WG_KEY, self._introduction))
            attributes += [(Attribute.WG_MODE, number) for number, mode in _MODES.items() if mode is self._mode]
            if self._wanted:
                attributes.append((Attribute.WG_WANTED, self._wanted))
        attributes.append((Attribute.WG_NONCE, self.nonce(remote)))
        if echo is not None:
            attributes.append((Attribute.WG_ECHO, echo))
        attributes.append((Attribute.WG_PLUGIN, plugin))
        attributes += [(flag, True) for flag in flags]
        return encode(StunMessage(BINDING, StunClass.REQUEST, transaction_id, tuple(attributes)), key=self._key)

    def answer(self, transaction_id: bytes, remote: Endpoint, *, chosen: bool = False) -> bytes:
        """The success response to a request that came from `remote`; `chosen`: the pair is the nominated one."""
        attributes: Attributes = (
            (Attribute.WG_SESSION, self._session),
            self._role(),
            (Attribute.WG_NONCE, self.nonce(remote)),
            (Attribute.XOR_MAPPED_ADDRESS, remote),
        )
        if chosen:
            attributes += ((Attribute.USE_CANDIDATE, True),)
        return encode(StunMessage(BINDING, StunClass.SUCCESS, transaction_id, attributes), key=self._key)

    def open(self, data: bytes, remote: Endpoint) -> OpenedCheck:
        """What came from `remote`. DecodeError: of another session; AuthenticationError: not the peer's."""
        message = decode(data)
        if message.method != BINDING or message.raw(Attribute.WG_SESSION) != self._session:
            raise DecodeError("not a check of this session")
        verify(data, self._key)
        expected = Attribute.ICE_CONTROLLED if self._controlling else Attribute.ICE_CONTROLLING
        if expected not in message:
            raise AuthenticationError("a check reflected to its sender")
        if self._controlling and message.cls is StunClass.REQUEST and Attribute.USE_CANDIDATE in message:
            raise AuthenticationError("a nomination from the wrong side")
        echo = message.raw(Attribute.WG_ECHO)
        echoed = echo is not None and hmac.compare_digest(echo, self.nonce(remote))
        return OpenedCheck(message, _plugin_of(message), echoed)

    def _role(self) -> tuple[Attribute, int]:
        role = Attribute.ICE_CONTROLLING if self._controlling else Attribute.ICE_CONTROLLED
        return role, int.from_bytes(self._session[:8], "big")
