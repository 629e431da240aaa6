"""Everything that can be set, in one frozen value; each default has its reason beside it.

Nothing here reads files or the environment unless asked to: `Config.from_user`.

A value of the wrong kind is a ConfigError that names its setting, when the value is made: most would otherwise fail
later and elsewhere, and some never (a text is a sequence of its letters).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import field, fields, replace
from importlib import import_module
from typing import Any, Self

from warpgate.errors import ConfigError
from warpgate.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Budgets:
    """What one node may cost its router and its peers, whoever asks."""

    # Home routers hold a few thousand sessions; one user's died of 5-6 thousand (EasyTier issue 289).
    random_probes_per_second: float = 100.0
    new_mappings_per_peer: int = 2048
    new_mappings_window: float = 600.0
    # A peer that forwards connections opens a pipe for each; whoever wants more can keep one open.
    offers_per_peer_per_minute: int = 600
    sessions_at_once: int = 256
    # Each offer makes us send at most 8 x 12 checks and 8 SYNs, to whatever its sender claims to be.
    offers_per_second: float = 20.0
    offers_at_once: float = 100.0
    # Searches for peers that came by themselves, left a durable pipe open and cannot be reached: each costs what an
    # offer of theirs would.
    searches_per_second: float = 5.0
    searches_at_once: float = 64.0
    # TCP connections of strangers that have not said a valid HELLO yet, and for how long, and how much.
    unauthenticated_connections: int = 128
    hello_patience: float = 5.0
    # TCP links whose peer has proved its key and that wait to be nominated, of all sessions; 8 of each at most.
    unchosen_links: int = 128
    # First checks and HELLOs from unknown keys: each costs 0.3 ms from the kernel on, half of it the key agreement
    # (decompressing the point, ECDH, HKDF); bench/attacks measures 30 % of a core.
    introductions_per_second: float = 1000.0
    # Relayed endpoints that are tried on a peer's word, which may be a third party's: each gets seven checks of 200
    # bytes or one dialling at most, so whoever asks, a victim gets less than 4 kB a second.
    relay_targets_per_second: float = 2.5
    # Allocations on relays at once, pipes included: no more than sessions.
    relay_allocations: int = 256

    def __post_init__(self) -> None:
        _check_kinds(self)


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in seconds."""

    start_patience: float = (
        1.5  # what Node.start() waits at most for servers: a program that starts must not hang offline
    )
    # How long direct strategies go first when a relay is ready: a punch is through by then, or has to guess.
    relay_patience: float = 1.0
    # The same while a port is searched for, as a plain pipe stays on what it begins on: at 100 probes a second with
    # 256 sockets 86 % of all searches are over by then.
    search_patience: float = 5.0
    # A user gives up about then; full-range birthday probing needs 10 s for 98 %. Up to twice that for a peer that
    # answers slowly: TLS over a TCP relay and two satellites takes 22.5 s.
    attempt_timeout: float = 20.0
    # A check or SYN volley: retransmission offsets. The first gap is longer than the jitter of a good path, then
    # doubling (noq: base RTT/10, doubling, cap 2 s). At 10 % loss each way, 12 sends fail together 1 in 10^8.
    check_offsets: tuple[float, ...] = (0.0, 0.03, 0.08, 0.16, 0.3, 0.5, 0.8, 1.2, 1.8, 2.6, 3.8, 5.5)
    # A message again while nothing shows that it arrived (not before its answer could be here twice over). MQTT runs
    # over TCP, whose timer doubles with each loss; a repetition behind a lost segment makes TCP notice it at once.
    offer_offsets: tuple[float, ...] = (0.25, 0.6, 1.2, 2.0, 3.0, 6.0, 10.0)
    # An answer that only acknowledges is held back this long: a first volley that succeeds makes it needless.
    answer_delay: float = 0.25
    # One that corrects what the peer knows of our NAT, where a direct link may come without it: a first volley over a
    # round trip of 50 ms is through by then (once the offer is there, TCP takes up to two).
    correction_delay: float = 0.1
    consent_silence: float = 15.0  # RFC 7675 asks every 5 s; conntrack keeps an unreplied mapping for 30 s
    consent_timeout: float = 30.0  # RFC 7675 section 5.1
    outage_patience: float = 3600.0  # a durable connection whose peer cannot be reached for so long is over
    # Mapping keepalive: below the shortest common lifetime of 30 s, jittered like Tailscale's.
    keepalive_low: float = 20.0
    keepalive_high: float = 26.0
    broker_timeout: float = 5.0  # for each of TCP, TLS, MQTT CONNECT and SUBSCRIBE: two satellites answer after 2.5 s
    # A session that nothing was nominated in ends after this: an attempt lasts 20 s, and its last volley is answered.
    responder_patience: float = 25.0
    # Seconds (whole) that port mappings are asked for, and renewed at half of it. RFC 6886 recommends 7200; with
    # this, a router that forgot its mappings (a restart) has them back within 10 minutes.
    port_map_lease: int = 1200

    def __post_init__(self) -> None:
        _check_kinds(self)


@dataclass(frozen=True, slots=True)
class Config:
    """A node's settings. `brokers`, `stun`: None means the well-known public ones, () means none."""

    identity: str = "default"  # name of the key file in the user's data directory
    port: int | None = None  # listen port; None derives it from the identity
    brokers: tuple[str, ...] | None = None  # mqtt[s]://[user:pass@]host[:port], ws[s]://...[/path]
    stun: tuple[str, ...] | None = None  # host[:port]
    # https URLs of newer lists of public servers, for what is None above. None: those of the package; (): fetch none.
    server_lists: tuple[str, ...] | None = None
    # turn:user:pass@host:port?transport=udp|tcp|tls, or turn-secret:secret@host:port... (time-limited credentials)
    turn: tuple[str, ...] = ()
    # A provider's account: https URLs that answer with `iceServers` for a while, and the bearer token that they want.
    ice_servers: tuple[str, ...] = ()
    ice_token: str | None = field(default=None, repr=False)
    # Nodes that lend their machine as a relay (`listen --relay`): addresses or nicknames.
    relay_peers: tuple[str, ...] = ()
    # PEM; trusted for brokers and relays over TLS and https servers, besides the system's (SSL_CERT_FILE works, too).
    ca_file: str | None = None
    names: tuple[str, ...] = ()  # name servers: http(s)://host[:port][/prefix]
    # The contact book, which pins nicknames to keys. None: `known_peers` in the user's data directory; in memory for a
    # program that gives its node an identity of its own.
    known_peers: str | None = None
    interfaces: tuple[str, ...] | None = None  # only these interface names; None: all that are up
    allow: frozenset[str] | None = None  # node ids that may connect; None: anyone who proves a key
    # Whether others may connect to this node. None: if no other process accepts them with the same identity.
    accept: bool | None = None
    # Run beside the process that peers of this identity are to reach: it keeps the identity's own port, and here only
    # those get in who were given this very node's address. None: unless this node accepts others.
    beside: bool | None = None
    secure_only: bool = False  # whether peers may open only encrypted pipes: QUIC, or TLS on TCP
    durable: bool = False  # whether streams outlive the path they begin on, unless `connect` is told otherwise
    port_map: bool = True  # ask routers (PCP, NAT-PMP, UPnP) to pass connections on to the listening port
    home_brokers: int = 2  # connections kept to the fastest brokers, listed in the address
    receive_queue: int = 1024  # datagrams a pipe holds for a slow reader before it drops the newest
    timing: Timing = field(default_factory=Timing)
    budgets: Budgets = field(default_factory=Budgets)

    def __post_init__(self) -> None:
        _check_kinds(self)
        if self.port is not None and self.port > 65535:
            raise ConfigError(f"port must be a whole number from 0 (any free one) to 65535, not {self.port}")
        for text in self.allow or ():
            if _NODE_ID.fullmatch(text) is None:
                raise ConfigError(f"allow: {text!r} is no node id (26 of a-z and 2-7, see `warpgate id`)")

    @classmethod
    def from_user(cls, **settings: Any) -> Self:
        """What the `warpgate` command would use: the user's config.toml and `WARPGATE_*` variables, as in
        docs/configuration.md. `settings` are fields of this class, and count more. ConfigError names the place that
        makes no sense; a variable that begins like these and is none gives a warning.
        """
        # By name, as the facade does it: what reads files stands above this row.
        found: Self = import_module("warpgate.user_settings").user_config()
        return replace(found, **settings)


_NODE_ID = re.compile(r"[a-z2-7]{26}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _many(of: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list | tuple | set | frozenset) and all(map(of, value))


# By annotation: what a value must be, in words, and what is kept of it. Lists and sets are taken, too, and frozen.
_KINDS: dict[str, tuple[Callable[[object], bool], str, Callable[[Any], object]]] = {
    "str": (_is_text, "a text", str),
    "bool": (lambda value: isinstance(value, bool), "True or False", bool),
    "int": (_is_whole, "a whole number of 0 or more", int),
    "float": (_is_number, "a number of 0 or more", float),
    "tuple[str, ...]": (_many(_is_text), 'a tuple of texts, such as ("one", "two")', tuple),
    "frozenset[str]": (_many(_is_text), "a set of texts", frozenset),
    "tuple[float, ...]": (_many(_is_number), "a tuple of numbers", tuple),
    "Timing": (lambda value: isinstance(value, Timing), "a warpgate.Timing", lambda value: value),
    "Budgets": (lambda value: isinstance(value, Budgets), "a warpgate.Budgets", lambda value: value),
}


def _check_kinds(settings: Budgets | Timing | Config) -> None:
    for each in fields(settings):
        value = getattr(settings, each.name)
        kind, optional, _ = str(each.type).partition(" | None")
        if optional and value is None:
            continue
        is_one, words, frozen = _KINDS[kind]
        if not is_one(value):
            raise ConfigError(f"{each.name} must be {words}{' or None' if optional else ''}, not {value!r}")
        object.__setattr__(settings, each.name, frozen(value))
