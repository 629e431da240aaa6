"""What TURN providers hand out to an account: `iceServers`, in each of the shapes that it has in the field.

| who | shape |
|---|---|
| W3C WebRTC section 4.2.4 (RTCIceServer), metered | a list of {urls, username, credential} |
| Cloudflare | {iceServers: list, or one of them} |
| Twilio | {ice_servers: list with `url` as well, ttl: text} |
| Xirsys | {v: {iceServers: one with many urls}, s: "ok"} |
| Google's Network Traversal | {lifetimeDuration: "86400s", iceServers: list} |
| draft-uberti-behave-turn-rest section 2.2 | {username, password, ttl, uris} |

Values only: who asks, and how, is `services/turn_accounts.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec

from warpgate.errors import ConfigError, DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.alternating import alternating
from warpgate.model.servers import HTTPS_PORT, NameServerUrl, host_and_port, split_login
from warpgate.model.turn_server import TurnServer, TurnTransport

# Providers name 4 to 8 URLs, for each transport and some ports. All that are kept are asked for an allocation at once.
MOST_SERVERS = 32
MOST_URLS = 16
MOST_KEPT = 8
# Seconds. What is shorter could not be renewed in time, and nothing is believed for longer.
SHORTEST_LIFE = 60.0
LONGEST_LIFE = 7 * 86400.0
LONGEST_TARGET = 512
_SCHEMES = {"turn", "turns"}
_DURATION = re.compile(r"([0-9]{1,9})s?", re.ASCII)
_EXPIRES = re.compile(r"([0-9]{10})(:.*)?", re.ASCII | re.DOTALL)
_TARGET = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*", re.ASCII)  # RFC 3986 section 3.3 and 3.4


@dataclass(frozen=True, slots=True)
class IceServers:
    """`lifetime` in seconds from now on; None where nothing tells it."""

    turn: tuple[TurnServer, ...]
    lifetime: float | None = None


@dataclass(frozen=True, slots=True)
class AccountUrl:
    """Where an account's servers are told: `at.path` has the query, too. Neither that nor the log-in shows."""

    at: NameServerUrl
    login: tuple[str, str] | None = None

    def __str__(self) -> str:
        path = "/..." if self.at.path not in ("", "/") else ""
        return f"http{'s' if self.at.tls else ''}://{self.at.authority}{path}"

    @classmethod
    def parse(cls, text: str) -> AccountUrl:
        """From `https://[user:password@]host[:port][/path][?query]`; http for this machine alone. ConfigError."""
        scheme, separator, rest = text.strip().partition("://")
        if not separator or scheme.lower() not in ("http", "https"):
            raise ConfigError("a provider's account is an https:// URL that answers with its iceServers")
        end = min((place for place in map(rest.find, "/?") if place >= 0), default=len(rest))
        login, authority = split_login(rest[:end], f"{scheme}://{rest[:end]}")
        target = rest[end:]
        if _TARGET.fullmatch(target) is None or len(target) > LONGEST_TARGET:
            raise ConfigError(f"{authority[:80]!r}: what follows the host is no path and query of a URL")
        tls = scheme.lower() == "https"
        host, port = host_and_port(authority, authority, HTTPS_PORT if tls else 80)
        if not tls and host not in ("127.0.0.1", "::1", "localhost"):
            raise ConfigError(f"{authority[:80]!r}: credentials do not go by http, only by https")
        path = target if target.startswith("/") else f"/{target}"
        return cls(NameServerUrl(host, port, tls, path), login)


def parse_ice_servers(data: bytes, now: float) -> IceServers:
    """`now` in Unix seconds: user names may hold their expiry. DecodeError when there is no TURN server to use in it,
    with the reason; the message never shows credentials. STUN servers in it are passed over: those need no account.
    """
    try:
        root = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise DecodeError("the answer is not JSON") from None
    lifetime = _lifetime(root)
    found: dict[TurnServer, None] = {}
    reasons: list[str] = []
    expiries: list[float] = []
    for server in _servers(root):
        for url, user, password in _logins(server):
            try:
                found[_turn(url, user, password)] = None
            except ConfigError as error:
                reasons.append(str(error))
                continue
            if (expires := _EXPIRES.fullmatch(user)) is not None:
                expiries.append(float(expires[1]) - now)
    if not found:
        raise DecodeError(f"no TURN server in it{': ' + reasons[0] if reasons else ''}")
    lives = [life for life in (lifetime, *expiries) if life is not None]
    life = min(lives) if lives else None
    if life is not None and life < SHORTEST_LIFE:
        raise DecodeError("its credentials have expired, or are about to (is the clock right?)")
    return IceServers(_kept(tuple(found)), None if life is None else min(life, LONGEST_LIFE))


def _kept(found: tuple[TurnServer, ...]) -> tuple[TurnServer, ...]:
    """Of each transport some: what is listed last may be what gets out of a strict network."""
    by_transport: dict[TurnTransport | None, list[TurnServer]] = {}
    for server in found:
        by_transport.setdefault(server.transport, []).append(server)
    kept = frozenset(alternating(tuple(by_transport.values()))[:MOST_KEPT])
    return tuple(server for server in found if server in kept)


def _servers(root: Any) -> list[dict[str, Any]]:
    """The entries, whatever is around them."""
    if isinstance(root, dict) and isinstance(root.get("v"), dict):
        root = root["v"]
    if isinstance(root, dict):
        for key in ("iceServers", "ice_servers"):
            if key in root:
                root = root[key]
                break
    entries = root if isinstance(root, list) else [root]
    return [entry for entry in entries[:MOST_SERVERS] if isinstance(entry, dict)]


def _logins(server: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Each TURN URL of an entry with its user name and password."""
    urls = next((server[key] for key in ("urls", "uris", "url") if key in server), ())
    user, password = server.get("username"), server.get("credential", server.get("password"))
    if not (isinstance(user, str) and isinstance(password, str)):
        return
    for url in ([urls] if isinstance(urls, str) else urls if isinstance(urls, list) else ())[:MOST_URLS]:
        if isinstance(url, str) and url.partition(":")[0].lower() in _SCHEMES:
            yield url, user, password


def _turn(url: str, user: str, password: str) -> TurnServer:
    """As RFC 7065 writes them, without user and password."""
    scheme, _, rest = url.partition(":")
    if "@" in rest:
        raise ConfigError("a TURN URL of a provider's holds credentials of its own")
    try:
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    except UnicodeEncodeError:
        raise ConfigError("the credentials are not UTF-8") from None
    return TurnServer.parse(f"{scheme}:{login}@{rest}")


def _lifetime(root: Any) -> float | None:
    if not isinstance(root, dict):
        return None
    if isinstance(root.get("v"), dict):
        root = root["v"]
    for key in ("ttl", "lifetimeDuration"):
        value = root.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(min(max(value, 0), LONGEST_LIFE))
        if isinstance(value, str) and (match := _DURATION.fullmatch(value)) is not None:
            return float(match[1])
    return None
