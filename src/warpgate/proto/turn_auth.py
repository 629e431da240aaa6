"""Long-term credentials, client side (RFC 8489 section 9.2): from the server's challenge to sealed requests.

Rules:

* The first request goes out without credentials; the 401 brings realm, nonce, and perhaps password algorithms.
* A server that offers SHA-256 (section 14.11) gets it, and from then on MESSAGE-INTEGRITY-SHA256 only. One that
  does not, gets the MD5 key and MESSAGE-INTEGRITY of RFC 5389: that is still most of them.
* A nonce that says "password algorithms" (the cookie of section 9.2.1) in an answer without that attribute was
  tampered with: no request is sealed for it (bid-down protection).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import unicodedata

from warpgate.errors import AuthenticationError
from warpgate.model.turn_server import Credentials
from warpgate.proto.stun import (
    Attribute,
    Attributes,
    AttributeValue,
    Integrity,
    PasswordAlgorithm,
    StunMessage,
    encode,
    verify,
)

NONCE_COOKIE = b"obMatJos2"
# Section 18.1: "Bit 0 is the rightmost bit" of the 24 that follow the cookie in base64.
PASSWORD_ALGORITHMS_BIT = 1
MAX_NONCE = 763  # section 14.10: fewer than 128 characters, at most 763 bytes


class LongTermAuth:
    """One client's credentials at one server. Before the first challenge `seal` adds nothing."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._key: bytes | None = None
        self._integrity = Integrity.SHA1
        self._attributes: Attributes = ()
        self.nonce = b""

    @property
    def ready(self) -> bool:
        """Whether the server has told what it needs."""
        return self._key is not None

    def challenged(self, answer: StunMessage) -> None:
        """Take over what a 401 or 438 says; AuthenticationError when nothing can be made of it."""
        realm, nonce = answer.text(Attribute.REALM), answer.raw(Attribute.NONCE)
        if realm is None or not nonce or len(nonce) > MAX_NONCE:
            raise AuthenticationError("the server asks for a log-in, but sends no realm and nonce")
        offered = answer.get(Attribute.PASSWORD_ALGORITHMS)
        if offered is None and _promises_algorithms(nonce):
            raise AuthenticationError("somebody removed the password algorithms from the server's answer")
        self.nonce = nonce
        user, password = self._credentials.user, opaque_string(self._credentials.password)
        attributes: list[tuple[int, AttributeValue]] = [
            (Attribute.USERNAME, user),
            (Attribute.REALM, realm),
            (Attribute.NONCE, nonce),
        ]
        algorithm = PasswordAlgorithm.MD5
        if isinstance(offered, tuple):
            known = [number for number in (PasswordAlgorithm.SHA256, PasswordAlgorithm.MD5) if number in offered]
            if not known:
                raise AuthenticationError(f"the server wants password algorithms {offered}, which we do not know")
            algorithm = known[0]
            attributes += [
                (Attribute.PASSWORD_ALGORITHMS, offered),
                (Attribute.PASSWORD_ALGORITHM, algorithm),
            ]
        self._integrity = Integrity.SHA1 if offered is None else Integrity.SHA256
        self._attributes = tuple(attributes)
        self._key = long_term_key(user, realm, password, algorithm)

    def seal(self, message: StunMessage) -> bytes:
        """The request's bytes, with credentials and integrity once challenged."""
        if self._key is None:
            return encode(message)
        complete = StunMessage(
            message.method, message.cls, message.transaction_id, message.attributes + self._attributes
        )
        return encode(complete, key=self._key, integrity=self._integrity)

    def check(self, data: bytes) -> None:
        """AuthenticationError unless the answer proves the key."""
        if self._key is None:
            raise AuthenticationError("an answer before any log-in")
        verify(data, self._key, self._integrity)


def long_term_key(user: str, realm: str, password: str, algorithm: PasswordAlgorithm) -> bytes:
    """RFC 8489 sections 18.5.1.1 and 18.5.1.2."""
    text = f"{user}:{realm}:{password}".encode()
    if algorithm is PasswordAlgorithm.SHA256:
        return hashlib.sha256(text).digest()
    return hashlib.md5(text, usedforsecurity=False).digest()


def opaque_string(text: str) -> str:
    """RFC 8265 section 4.2: spaces become U+0020, then NFC."""
    spaced = "".join(" " if unicodedata.category(char) == "Zs" else char for char in text)
    return unicodedata.normalize("NFC", spaced)


def _promises_algorithms(nonce: bytes) -> bool:
    if not nonce.startswith(NONCE_COOKIE):
        return False
    try:
        features = base64.b64decode(nonce[len(NONCE_COOKIE) : len(NONCE_COOKIE) + 4], validate=True)
    except binascii.Error:
        return False
    return len(features) == 3 and bool(features[2] & PASSWORD_ALGORITHMS_BIT)
