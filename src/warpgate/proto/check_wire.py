"""The messages of connectivity checks: STUN Binding with our attributes, one session's keys (see `check`).

    request  = WG-SESSION  role(tie-breaker)  [WG-KEY  [WG-MODE]]  WG-NONCE  WG-PLUGIN  [USE-CANDIDATE | WG-CLOSE]
    answer   = WG-SESSION  role  WG-NONCE  XOR-MAPPED-ADDRESS

all followed by MESSAGE-INTEGRITY-SHA256. WG-KEY goes along until the peer has been heard, and with it WG-MODE (1)
when the pipe is to be a stream. A request with
USE-CANDIDATE is authenticated under HMAC-SHA256(session key, "nominate" + initiator's nonce + responder's nonce).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from warpgate.errors import AuthenticationError, DecodeError, ProtocolError
from warpgate.model.endpoint import Endpoint, Mode
from warpgate.model.text import is_plugin_name
from warpgate.proto.stun import (
    BINDING,
    Attribute,
    AttributeValue,
    StunClass,
    StunMessage,
    decode,
    encode,
    verify,
)

STREAM = 1  # value of WG-MODE; a datagram pipe's checks carry none


def session_of(data: bytes) -> bytes | None:
    """The session id in a STUN message, None when it carries none (or is no STUN message)."""
    try:
        return decode(data).raw(Attribute.WG_SESSION)
    except DecodeError:
        return None


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a check of an unknown session claims: worth one key agreement to find out."""

    session: bytes
    public_key: bytes
    plugin: str
    mode: Mode


def introduction_of(data: bytes) -> Introduction:
    """From a first check of the controlling side; DecodeError when it is none."""
    message = decode(data)
    session, public_key = message.raw(Attribute.WG_SESSION), message.raw(Attribute.WG_KEY)
    if message.cls is not StunClass.REQUEST or session is None or public_key is None:
        raise DecodeError("not the first check of a session")
    if Attribute.ICE_CONTROLLING not in message or Attribute.USE_CANDIDATE in message:
        raise DecodeError("not the first check of a session")
    mode = Mode.STREAM if message.number(Attribute.WG_MODE) == STREAM else Mode.DATAGRAM
    return Introduction(session, public_key, _plugin_of(message), mode)


@dataclass(frozen=True, slots=True)
class OpenedCheck:
    """An authenticated message of the peer's."""

    message: StunMessage
    nominating: bool
    plugin: str  # "" in an answer

    @property
    def nonce(self) -> bytes | None:
        return self.message.raw(Attribute.WG_NONCE)


def _plugin_of(message: StunMessage) -> str:
    """DecodeError when there is a name and it cannot be a plugin's."""
    plugin = message.text(Attribute.WG_PLUGIN) or ""
    if plugin and not is_plugin_name(plugin):
        raise DecodeError(f"{plugin!r} in a check is no name of a plugin")
    return plugin


@dataclass(frozen=True, slots=True)
class CheckCodec:
    """Packs and opens the messages of one side of one session. `introduction`: our public key, initiator only."""

    controlling: bool
    session: bytes
    key: bytes
    nonce: bytes
    introduction: bytes | None = None
    mode: Mode = Mode.DATAGRAM

    def request(
        self, transaction_id: bytes, plugin: str, peer_nonce: bytes | None, *flags: Attribute
    ) -> bytes:
        """A check; with USE_CANDIDATE among the flags a nomination (ProtocolError without the peer's nonce)."""
        attributes: list[tuple[int, AttributeValue]] = [(Attribute.WG_SESSION, self.session), self._role()]
        if self.introduction is not None and peer_nonce is None:
            attributes.append((Attribute.WG_KEY, self.introduction))
            if self.mode is Mode.STREAM:
                attributes.append((Attribute.WG_MODE, STREAM))
        attributes += [(Attribute.WG_NONCE, self.nonce), (Attribute.WG_PLUGIN, plugin)]
        attributes += [(flag, True) for flag in flags]
        key = self.key
        if Attribute.USE_CANDIDATE in flags:
            if peer_nonce is None:
                raise ProtocolError("nothing heard from the peer yet: nothing to nominate")
            key = self._nomination_key(initiator=self.nonce, responder=peer_nonce)
        return encode(StunMessage(BINDING, StunClass.REQUEST, transaction_id, tuple(attributes)), key=key)

    def answer(self, transaction_id: bytes, remote: Endpoint) -> bytes:
        """The success response to a request that came from `remote`."""
        attributes: tuple[tuple[int, AttributeValue], ...] = (
            (Attribute.WG_SESSION, self.session),
            self._role(),
            (Attribute.WG_NONCE, self.nonce),
            (Attribute.XOR_MAPPED_ADDRESS, remote),
        )
        return encode(StunMessage(BINDING, StunClass.SUCCESS, transaction_id, attributes), key=self.key)

    def open(self, data: bytes) -> OpenedCheck:
        """DecodeError when it is not of this session, AuthenticationError when it does not prove the peer's key."""
        message = decode(data)
        if message.method != BINDING or message.raw(Attribute.WG_SESSION) != self.session:
            raise DecodeError("not a check of this session")
        nominating = message.cls is StunClass.REQUEST and Attribute.USE_CANDIDATE in message
        nonce = message.raw(Attribute.WG_NONCE)
        if nominating:
            if nonce is None or self.controlling:
                raise AuthenticationError("a nomination from the wrong side")
            verify(data, self._nomination_key(initiator=nonce, responder=self.nonce))
        else:
            verify(data, self.key)
        expected = Attribute.ICE_CONTROLLED if self.controlling else Attribute.ICE_CONTROLLING
        if expected not in message:
            raise AuthenticationError("a check reflected to its sender")
        return OpenedCheck(message, nominating, _plugin_of(message))

    def _role(self) -> tuple[Attribute, int]:
        role = Attribute.ICE_CONTROLLING if self.controlling else Attribute.ICE_CONTROLLED
        return role, int.from_bytes(self.session[:8], "big")

    def _nomination_key(self, *, initiator: bytes, responder: bytes) -> bytes:
        return hmac.digest(self.key, b"nominate" + initiator + responder, hashlib.sha256)
