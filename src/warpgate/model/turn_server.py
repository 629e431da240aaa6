"""How people write TURN servers, with the credentials that these always ask for.

    turn:USER:PASSWORD@HOST[:PORT][?transport=udp|tcp|tls]
    turn-secret:SECRET@HOST[:PORT][?transport=udp|tcp|tls]
    turn-key:URL@HOST[:PORT][?transport=udp|tcp|tls]

URL is that of a `warpgate serve` which gives credentials to the node ids that it lets in (`proto/relay_ticket.py`).
User, password, secret and URL may be percent-encoded (a colon in a user name must be, and the marks of a URL). `turns:`
stands for transport=tls. A server without a transport is tried over UDP and TCP. A name without a port is a domain: its
SRV records `_turn._udp`, `_turn._tcp`, `_turns._tcp` say where the servers are, and else the usual port (RFC 5928).
"""

from __future__ import annotations

import base64
import enum
import hashlib
import hmac
from dataclasses import field, replace
from urllib.parse import unquote_to_bytes

from warpgate.errors import ConfigError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.servers import NameServerUrl, host_and_port, names_domain, place_text

# IANA service names turn and turns (RFC 8656 section 5).
TURN_PORT = 3478
TURNS_PORT = 5349
MAX_USERNAME = 508  # bytes (RFC 8489 section 14.3)
MAX_PASSWORD = 512
# draft-uberti-behave-turn-rest section 2.2 recommends a day. An allocation keeps the name it was made with (RFC 8656
# section 7.3, error 441), so this also bounds a relayed pipe's life on servers that look at the time again.
SECRET_LIFETIME = 86400
_SECRET_USER = "warpgate"
_SCHEMES = {
    "turn": "USER:PASSWORD",
    "turns": "USER:PASSWORD",
    "turn-secret": "SECRET",
    "turn-key": "URL",
}


class TurnTransport(enum.Enum):
    """How client and server talk; peers are reached over UDP or TCP whatever it is."""

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class Credentials:
    """For the long-term mechanism (RFC 8489 section 9.2); the password never shows."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TurnServer:
    """`transport` None: whichever works. Exactly one of `login`, `secret` and `desk` (where a node gets a log-in by its
    key) is set; the first two do not show. `by_service`: no port was named, as of `StunServer` (RFC 5928).
    """

    host: str
    port: int
    transport: TurnTransport | None
    login: Credentials | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    desk: NameServerUrl | None = None
    by_service: bool = False

    def __str__(self) -> str:
        suffix = "" if self.transport is None else f"?transport={self.transport.value}"
        return f"turn:{place_text(self.host, self.port, by_service=self.by_service)}{suffix}"

    def credentials(self, unix_time: float, name: str = _SECRET_USER) -> Credentials:
        """What to log in with now; made of the shared secret where there is one (TURN REST API), by this name: coturn
        counts what a user takes by it.
        """
        if self.login is not None:
            return self.login
        return time_limited(self.secret or "", int(unix_time) + SECRET_LIFETIME, name)

    @classmethod
    def parse(cls, text: str) -> TurnServer:
        """Raises ConfigError; its message never shows the credentials."""
        scheme, colon, rest = text.strip().partition(":")
        scheme = scheme.lower()
        if not colon or scheme not in _SCHEMES:
            raise ConfigError("a TURN server is written turn:USER:PASSWORD@HOST:PORT?transport=udp, tcp or tls")
        userinfo, at, place = rest.rpartition("@")
        shown = f"{scheme}:...@{place}"
        if not at or not userinfo:
            raise ConfigError(f"{shown[:80]!r} names no credentials: write {_form(scheme)}")
        transport, place = _transport(place, shown, scheme)
        host, port = host_and_port(place, shown, TURNS_PORT if transport is TurnTransport.TLS else TURN_PORT)
        found = cls(host, port, transport, by_service=names_domain(place))
        if scheme == "turn-secret":
            return replace(found, secret=_decoded(userinfo, shown))
        if scheme == "turn-key":
            return replace(found, desk=NameServerUrl.parse(_decoded(userinfo, shown)))
        user, colon, password = userinfo.partition(":")
        if not (user and colon and password):
            raise ConfigError(f"{shown[:80]!r} needs a user and a password: write {_form(scheme)}")
        login = Credentials(_decoded(user, shown), _decoded(password, shown))
        if len(login.user.encode()) > MAX_USERNAME:
            raise ConfigError(f"{shown[:80]!r}: a user name has at most {MAX_USERNAME} bytes")
        return replace(found, login=login)


def time_limited(secret: str, expires: int, name: str) -> Credentials:
    """Valid until the Unix time `expires` (draft-uberti-behave-turn-rest section 2.2, as coturn and others do it)."""
    user = f"{expires}:{name}"
    return Credentials(user, password_of(user, secret))


def password_of(user: str, secret: str) -> str:
    """The one that belongs to a time-limited user name."""
    return base64.b64encode(hmac.digest(secret.encode(), user.encode(), hashlib.sha1)).decode("ascii")


def _transport(place: str, shown: str, scheme: str) -> tuple[TurnTransport | None, str]:
    host, question, query = place.partition("?")
    implied = TurnTransport.TLS if scheme == "turns" else None
    if not question:
        return implied, host
    key, _, value = query.lower().partition("=")
    names = [transport.value for transport in TurnTransport]
    if key != "transport" or value not in names:
        raise ConfigError(f"{shown[:80]!r}: after '?' comes transport=udp, transport=tcp or transport=tls")
    if scheme == "turns" and value == "tcp":  # RFC 7065 section 3.1: TLS over TCP
        return implied, host
    if scheme == "turns" and value == "udp":
        raise ConfigError(f"{shown[:80]!r}: DTLS (turns over udp) is not supported")
    return TurnTransport(value), host


def _decoded(text: str, shown: str) -> str:
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeError:  # as percent-encoded bytes, or as they are: a shell passes any (PEP 383)
        raise ConfigError(f"{shown[:80]!r}: the credentials are not UTF-8") from None
    if not decoded.isprintable() or len(decoded.encode()) > MAX_PASSWORD:
        raise ConfigError(f"{shown[:80]!r}: the credentials hold control characters, or are too long")
    return decoded


def _form(scheme: str) -> str:
    return f"{scheme}:{_SCHEMES[scheme]}@HOST:PORT"
