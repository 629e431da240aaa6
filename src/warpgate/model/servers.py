"""How people write outside servers: URLs of brokers and name servers, STUN servers, parsed into values.

A broker's text form is the canonical URL that `model.broker.BrokerRef` carries in an address.
"""

from __future__ import annotations

import re
from dataclasses import field
from ipaddress import ip_address
from urllib.parse import quote, unquote_to_bytes

from warpgate.errors import ConfigError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Transport

# IANA service names mqtt, secure-mqtt; stun (RFC 8489 section 18.6).
MQTT_PORT = 1883
MQTTS_PORT = 8883
STUN_PORT = 3478
HTTP_PORT = 80
HTTPS_PORT = 443

# Whether it is MQTT in a WebSocket, over TLS, and the port where none is named.
_BROKER_SCHEMES = {
    "mqtt": (False, False, MQTT_PORT),
    "mqtts": (False, True, MQTTS_PORT),
    "ws": (True, False, HTTP_PORT),
    "wss": (True, True, HTTPS_PORT),
}
USUAL_PATH = "/mqtt"  # of an MQTT broker's WebSocket; most serve it there
# What an address carries of it has to be short; brokers have /, /mqtt or /ws.
LONGEST_PATH = 64
_HTTP_SCHEMES = {"http": False, "https": True}
_PATH = re.compile(r"(/([A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+)*")  # RFC 3986 section 3.3, the unreserved characters
# RFC 1123 section 2.1 with the underscores that are seen in the field; the last label is not a number.
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*", re.ASCII)
_SHOWN = 80
LONGEST_LOGIN = 256


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """`host` is a name in lower case or a literal address without brackets; `path` that of a WebSocket, None for MQTT
    itself. `login` (user, password) is ours to use; it is no part of the text, which goes into addresses.
    """

    host: str
    port: int
    tls: bool
    path: str | None = None
    login: tuple[str, str] | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        scheme = "mqtt" if self.path is None else "ws"
        return f"{scheme}{'s' if self.tls else ''}://{bracketed(self.host)}:{self.port}{self.path or ''}"

    @property
    def with_login(self) -> str:
        """The text with the log-in in it, for those who may see that."""
        if self.login is None:
            return str(self)
        login = ":".join(quote(word, safe="") for word in self.login)
        return str(self).replace("://", f"://{login}@", 1)

    @property
    def authority(self) -> str:
        """As in a Host field (RFC 9110 section 7.2)."""
        return _authority(self.host, self.port, self.tls)

    @classmethod
    def parse(cls, text: str) -> BrokerUrl:
        """From `mqtt[s]://[user:password@]host[:port]`, or `ws[s]://...[/path]`; anything else: ConfigError."""
        scheme, separator, rest = text.strip().partition("://")
        known = _BROKER_SCHEMES.get(scheme.lower())
        if not separator or known is None:
            raise ConfigError(
                f"{_hidden(text)} is not a broker URL: it starts with mqtt:// or mqtts://, ws:// or wss://"
            )
        web, tls, usual_port = known
        login, rest = split_login(rest, text)
        shown = f"{scheme}://{rest}"
        path = None
        if web:
            authority, slash, path = rest.partition("/")
            rest, path = authority, slash + path if slash else USUAL_PATH
            if _PATH.fullmatch(path.rstrip("/")) is None or "//" in path or len(path) > LONGEST_PATH:
                raise ConfigError(f"{_shown(shown)}: a WebSocket's path has at most {LONGEST_PATH} plain characters")
        host, port = host_and_port(rest, shown, usual_port)
        return cls(host, port, tls, path, login)


@dataclass(frozen=True, slots=True)
class StunServer:
    """`transport` is the one it is known to serve, None when both are worth a try. `by_service`: no port was named, so
    the domain's SRV records say where it is, and if they say nothing it is at the usual port (RFC 8489 section 8).
    """

    host: str
    port: int
    transport: Transport | None = None
    by_service: bool = False

    def __str__(self) -> str:
        suffix = "" if self.transport is None else f"?transport={self.transport.value}"
        return f"{place_text(self.host, self.port, by_service=self.by_service)}{suffix}"

    @property
    def services(self) -> tuple[StunServer, ...]:
        """One for each of the domain's services that may be elsewhere than the other."""
        if not self.by_service or self.transport is not None:
            return (self,)
        return tuple(StunServer(self.host, self.port, transport, by_service=True) for transport in Transport)

    def serves(self, transport: Transport) -> bool:
        return self.transport in (None, transport)

    @classmethod
    def parse(cls, text: str) -> StunServer:
        """From `host[:port][?transport=udp|tcp]`, also with the `stun:` of RFC 7064; raises ConfigError."""
        rest = text.strip()
        scheme, _, after = rest.partition(":")
        if scheme.lower() == "stun" and not after.partition("?")[0].isdigit():  # else a host of that name
            rest = after
        authority, question, query = rest.partition("?")
        if "://" in authority:
            raise ConfigError(f"{_shown(text)} is not a STUN server: write host:port, without a scheme")
        host, port = host_and_port(authority, text, STUN_PORT)
        by_service = names_domain(authority)
        if not question:
            return cls(host, port, None, by_service)
        key, _, value = query.lower().partition("=")
        if key != "transport" or value not in ("udp", "tcp"):
            raise ConfigError(f"{_shown(text)}: after '?' comes transport=udp or transport=tcp, nothing else")
        return cls(host, port, Transport(value), by_service)


@dataclass(frozen=True, slots=True)
class NameServerUrl:
    """`path` is what comes before `/v1/names/...`: "" or "/some/prefix", without a slash at its end."""

    host: str
    port: int
    tls: bool
    path: str = ""

    def __str__(self) -> str:
        return f"http{'s' if self.tls else ''}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        """As in a Host field (RFC 9110 section 7.2)."""
        return _authority(self.host, self.port, self.tls)

    @classmethod
    def parse(cls, text: str) -> NameServerUrl:
        """From `http://host[:port][/prefix]` or `https://...`; anything else: ConfigError."""
        scheme, separator, rest = text.strip().partition("://")
        tls = _HTTP_SCHEMES.get(scheme.lower())
        if not separator or tls is None:
            raise ConfigError(f"{_shown(text)} is not an http:// or https:// URL")
        authority, slash, path = rest.partition("/")
        path = (slash + path).rstrip("/")
        if _PATH.fullmatch(path) is None:
            raise ConfigError(f"{_shown(text)}: a name server's URL ends with its path (no query, no fragment)")
        host, port = host_and_port(authority, text, HTTPS_PORT if tls else HTTP_PORT)
        return cls(host, port, tls, path)


def list_place(text: str) -> NameServerUrl:
    """Where a list of servers is, from `https://host[:port]/path`. ConfigError."""
    url = NameServerUrl.parse(text)
    if not url.tls:
        raise ConfigError(f"{_shown(text)}: lists of servers are fetched over https alone")
    return url


def host_and_port(rest: str, text: str, default_port: int) -> tuple[str, int]:
    """Host and port (RFC 3986 section 3.2, without userinfo) of what is left of `text`."""
    if "@" in rest:
        raise ConfigError(f"{_hidden(text)} holds credentials: servers that ask for a log-in are not supported")
    if any(mark in rest for mark in "/?#"):
        raise ConfigError(f"{_shown(text)}: nothing may follow the port (no path, query or fragment)")
    if rest.startswith("["):
        host, bracket, port = rest[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ConfigError(f"{_shown(text)}: write IPv6 addresses as [address]:port")
        return _literal(host, text), _port(port[1:] if port else None, text, default_port)
    host, colon, port = rest.partition(":")
    if ":" in port:
        raise ConfigError(f"{_shown(text)}: write IPv6 addresses as [address]:port")
    if not host:
        raise ConfigError(f"{_shown(text)} names no host")
    return _host(host.lower(), text), _port(port if colon else None, text, default_port)


def _host(host: str, text: str) -> str:
    if host.rpartition(".")[2].isdigit():  # RFC 1123 section 2.1: then it must be an address in dotted decimal
        return _literal(host, text)
    if _NAME.fullmatch(host) is None:
        raise ConfigError(f"{_shown(text)}: {host[:_SHOWN]!r} is neither a host name nor an IP address")
    return host


def _literal(host: str, text: str) -> str:
    try:
        ip = ip_address(host)
    except ValueError:
        raise ConfigError(f"{_shown(text)}: {host[:_SHOWN]!r} is not an IP address") from None
    if ip.version == 6 and ip.scope_id is not None:
        raise ConfigError(f"{_shown(text)}: an address with a zone means nothing to other machines")
    return str(Endpoint.of(ip, 0).ip)  # an IPv4-mapped address is the IPv4 address


def _port(port: str | None, text: str, default: int) -> int:
    if port is None:
        return default
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ConfigError(f"{_shown(text)}: the port must be a number from 1 to 65535, not {port[:_SHOWN]!r}")
    return int(port)


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def names_domain(authority: str) -> bool:
    """Whether it is a name without a port: a domain, whose services may be anywhere."""
    return ":" not in authority and not authority.rpartition(".")[2].isdigit()


def place_text(host: str, port: int, *, by_service: bool) -> str:
    return host if by_service else f"{bracketed(host)}:{port}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _hidden(text: str) -> str:
    """Passwords do not belong into error messages and logs."""
    return _shown("...@" + text.rpartition("@")[2] if "@" in text else text)


def _authority(host: str, port: int, tls: bool) -> str:
    usual = port == (HTTPS_PORT if tls else HTTP_PORT)
    return bracketed(host) if usual else f"{bracketed(host)}:{port}"


def split_login(rest: str, text: str) -> tuple[tuple[str, str] | None, str]:
    """User and password (RFC 3986 section 3.2.1, percent-encoded where need be), and what follows them."""
    userinfo, at, place = rest.rpartition("@")
    if not at:
        return None, rest
    user, colon, password = userinfo.partition(":")
    try:
        login = unquote_to_bytes(user).decode(), unquote_to_bytes(password).decode()
    except UnicodeError:
        raise ConfigError(f"{_hidden(text)}: user and password must be UTF-8") from None
    if not (user and colon) or max(map(len, login)) > LONGEST_LOGIN or not "".join(login).isprintable():
        raise ConfigError(
            f"{_hidden(text)}: before '@' come user:password, with {LONGEST_LOGIN} characters each at most"
        )
    return login, place
