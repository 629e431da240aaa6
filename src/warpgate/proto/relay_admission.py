"""Who may use a relay of ours: long-term credentials (RFC 8489 section 9.2), server side, without state before log-in.

Rules:

* A nonce is made of the time and of a MAC over the time and the client's address: whoever comes back with one has
  received our answer, and nothing was kept for those who did not. It holds for `NONCE_LIFETIME`, at its address alone.
* The nonce is judged before the integrity: a flood with invented ones costs one MAC each.
* Passwords are those of the TURN REST API: the user name holds the Unix time at which it expires. The time is judged
  at the log-in that makes an allocation; what is relayed since then goes on, as long as it is refreshed.
* A client may log in by SHA-256 or, without a word about algorithms, by the MD5 of RFC 5389 (section 9.2.4).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import field

from warpgate.errors import AuthenticationError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.turn_server import password_of
from warpgate.proto.stun import (
    Attribute,
    Attributes,
    Integrity,
    PasswordAlgorithm,
    StunMessage,
    integrity_of,
    verify,
)
from warpgate.proto.turn_auth import NONCE_COOKIE, PASSWORD_ALGORITHMS_BIT, long_term_key, opaque_string

REALM = "warpgate"
# Section 9.2.4 leaves it to the server, RFC 8656 section 5 wants at most an hour. A client pays one round trip for it.
NONCE_LIFETIME = 1800
MAC_SIZE = 9
ALGORITHMS = (PasswordAlgorithm.SHA256, PasswordAlgorithm.MD5)
# Clocks of clients run a little ahead or behind; credentials are made for a day.
CLOCK_SKEW = 300


class Refused(Exception):
    """The error code that the request gets; `challenge` with what a log-in needs."""

    def __init__(self, code: int, *, challenge: bool = False) -> None:
        super().__init__(str(code))
        self.code = code
        self.challenge = challenge


@dataclass(frozen=True, slots=True)
class Login:
    """A proved user: `key` seals the answer with `integrity`."""

    user: str
    key: bytes = field(repr=False)
    integrity: Integrity


class Admission:
    """`secret` is the group's; `salt` (random bytes) makes the nonces ours; the clock gives Unix seconds."""

    def __init__(self, secret: str, *, salt: bytes, wall_clock: Callable[[], float]) -> None:
        self._secret = secret
        self._salt = salt
        self._wall_clock = wall_clock

    def challenge(self, host: str) -> Attributes:
        """What an unsigned request is told."""
        return (
            (Attribute.REALM, REALM),
            (Attribute.NONCE, self.nonce(host)),
            (Attribute.PASSWORD_ALGORITHMS, ALGORITHMS),
        )

    def nonce(self, host: str) -> bytes:
        """Section 9.2.1: the cookie and the features, then what we make of it."""
        made = int(self._wall_clock()).to_bytes(6, "big")
        features = base64.b64encode(bytes((0, 0, PASSWORD_ALGORITHMS_BIT)))
        return NONCE_COOKIE + features + base64.urlsafe_b64encode(made + self._mac(made, host))

    def judge(self, message: StunMessage, data: bytes, host: str) -> Login:
        """The user of a request that came from this address; Refused."""
        signed = integrity_of(data)
        if signed is None:
            raise Refused(401, challenge=True)
        user, realm, nonce = (
            message.text(Attribute.USERNAME),
            message.text(Attribute.REALM),
            message.raw(Attribute.NONCE),
        )
        if user is None or realm is None or nonce is None:
            raise Refused(400)
        if not self._fresh(nonce, host):
            raise Refused(438, challenge=True)
        algorithm = _algorithm(message, signed)
        password = opaque_string(password_of(user, self._secret))
        key = long_term_key(user, REALM, password, algorithm)
        try:
            verify(data, key, signed)
        except AuthenticationError:
            raise Refused(401, challenge=True) from None
        if realm != REALM:
            raise Refused(401, challenge=True)
        return Login(user, key, signed)

    def expired(self, user: str) -> bool:
        """Whether the time in a user name is over; so is one that holds none."""
        expires = user.partition(":")[0]
        if not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
            return True
        return int(expires) + CLOCK_SKEW < self._wall_clock()

    def _fresh(self, nonce: bytes, host: str) -> bool:
        text = nonce[len(NONCE_COOKIE) + 4 :]
        try:
            made, mac = (packed := base64.urlsafe_b64decode(text))[:6], packed[6:]
        except ValueError:
            return False
        if not hmac.compare_digest(mac, self._mac(made, host)):
            return False
        return 0 <= self._wall_clock() - int.from_bytes(made, "big") < NONCE_LIFETIME

    def _mac(self, made: bytes, host: str) -> bytes:
        return hmac.digest(self._salt, made + host.encode(), hashlib.sha256)[:MAC_SIZE]


def _algorithm(message: StunMessage, signed: Integrity) -> PasswordAlgorithm:
    """Section 9.2.4: both attributes or none; the list must be ours, or somebody has shortened it on the way."""
    listed, chosen = message.get(Attribute.PASSWORD_ALGORITHMS), message.number(Attribute.PASSWORD_ALGORITHM)
    if listed is None and chosen is None:
        return PasswordAlgorithm.MD5
    if listed != ALGORITHMS or chosen not in ALGORITHMS or signed is not Integrity.SHA256:
        raise Refused(400)
    return PasswordAlgorithm(chosen)
