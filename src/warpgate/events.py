"""What happened, as frozen dataclasses in the past tense, given to one observer.

`-v`, `--json`, `explain` and the tests read the same objects. `at` is the loop's clock in seconds.
"""

from __future__ import annotations

from collections.abc import Callable

from warpgate.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class NodeStarted(Event):
    node_id: str
    port: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AddressChanged(Event):
    digest: str
    attachments: int
    brokers: int


@dataclass(frozen=True, slots=True)
class MappingLearnt(Event):
    transport: str
    local: str
    mapped: str
    server: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ServerFailed(Event):
    """A STUN server, broker, relay or name server did not do its part; the node goes on without it."""

    service: str
    server: str
    reason: str


@dataclass(frozen=True, slots=True)
class ServerListFetched(Event):
    """A newer list of public servers, signed with a key of the package."""

    place: str
    sequence: int


@dataclass(frozen=True, slots=True)
class ServerListTaken(Event):
    """A newer list of public servers holds from now on, with so many of them: new servers are asked and stand in for
    dead brokers. Live brokers that are in our address stay there.
    """

    sequence: int
    brokers: int
    stun: int


@dataclass(frozen=True, slots=True)
class RelayAllocated(Event):
    """A TURN server relays for us; `transport` is how we talk to it: udp, tcp or tls."""

    server: str
    transport: str
    relayed: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class PluginBroken(Event):
    """An installed plugin that cannot be used; the node goes on without it."""

    entry: str
    package: str
    reason: str


@dataclass(frozen=True, slots=True)
class PortMapped(Event):
    """A gateway passes on what comes to `external`; `lifetime` in seconds as granted, 0: until deleted."""

    protocol: str
    gateway: str
    transport: str
    local: str
    external: str
    lifetime: float


@dataclass(frozen=True, slots=True)
class PortUnmapped(Event):
    """A mapping is gone: the lease ran out, or the network changed."""

    transport: str
    local: str
    external: str


@dataclass(frozen=True, slots=True)
class Nat64Found(Event):
    """The network's translator to IPv4 expects addresses in `prefix`."""

    prefix: str


@dataclass(frozen=True, slots=True)
class DoubleNatFound(Event):
    """The gateway maps ports at `external`, but the world sees `reflexive`: what is mapped leads nowhere."""

    local: str
    external: str
    reflexive: str


@dataclass(frozen=True, slots=True)
class BrokerConnected(Event):
    url: str
    rtt: float


@dataclass(frozen=True, slots=True)
class NameFound(Event):
    """A nickname was looked up; `server` gave the newest record, `seconds` after the question."""

    name: str
    node_id: str
    sequence: int
    server: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ContactPinned(Event):
    """A nickname was used for the first time: from now on it has to have this key."""

    name: str
    node_id: str


@dataclass(frozen=True, slots=True)
class NameRegistered(Event):
    """A name server took our record: for the first time, after the address changed, or to keep it alive."""

    name: str
    server: str
    sequence: int
    seconds: float


@dataclass(frozen=True, slots=True)
class NameReleased(Event):
    name: str
    server: str


@dataclass(frozen=True, slots=True)
class NameNotRegistered(Event):
    """A name server was not reached, or refused (`refused`); it is asked again after `retry` seconds."""

    name: str
    server: str
    reason: str
    refused: bool
    retry: float


@dataclass(frozen=True, slots=True)
class SignalSent(Event):
    kind: str
    session: str
    peer: str
    sequence: int
    brokers: int


@dataclass(frozen=True, slots=True)
class ClocksDiffer(Event):
    """A peer's clock is `ahead` seconds of ours (behind it when negative): one of the two is wrong."""

    peer: str
    ahead: float


@dataclass(frozen=True, slots=True)
class TwinFound(Event):
    """Another process runs with our key, as after a disk was cloned: `where` it says it is."""

    instance: str
    where: str


@dataclass(frozen=True, slots=True)
class PeerTwinned(Event):
    """A peer says that another node runs with its key: what names only the key may lead to either."""

    session: str
    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class SignalReceived(Event):
    kind: str
    session: str
    peer: str
    sequence: int


@dataclass(frozen=True, slots=True)
class SignalRefused(Event):
    """An envelope that was not let in, or an offer that asked for what it may not have."""

    peer: str
    reason: str
    told: bool = False  # whether its sender, who has proved its key, was told: it may open no pipe here


@dataclass(frozen=True, slots=True)
class PeerPlaced(Event):
    """Where a peer is that we connect to: by the address that we were given, later by its own. `address`: its text."""

    session: str
    peer: str
    address: str


@dataclass(frozen=True, slots=True)
class PeerSilent(Event):
    """The peer has given no sign of life, though it should have by now: `reason` says to what."""

    session: str
    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class TargetsRefused(Event):
    """Endpoints in a peer's address to which nothing is sent on its word."""

    session: str
    peer: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PluginStarted(Event):
    session: str
    plugin: str
    at: float


@dataclass(frozen=True, slots=True)
class PluginSkipped(Event):
    session: str
    plugin: str
    reason: str


@dataclass(frozen=True, slots=True)
class PluginNoted(Event):
    """One line a plugin says about what it does or learnt: what explain prints."""

    session: str
    plugin: str
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class PluginEnded(Event):
    session: str
    plugin: str
    at: float
    outcome: str  # "won", "lost", "failed", "timed out", "crashed"
    reason: str


@dataclass(frozen=True, slots=True)
class LinkVerified(Event):
    """The other end of a link proved the expected key."""

    session: str
    plugin: str
    at: float
    transport: str
    local: str
    remote: str


@dataclass(frozen=True, slots=True)
class StrangerRefused(Event):
    """A TCP connection or a check that proved no key, or not one that is welcome. `peer`: who has proved its key, and
    was told that it may open no such pipe here.
    """

    remote: str
    reason: str
    peer: str = ""


@dataclass(frozen=True, slots=True)
class PipeOpened(Event):
    session: str
    plugin: str
    peer: str
    mode: str
    transport: str
    local: str
    remote: str
    seconds: float
    secure: bool


@dataclass(frozen=True, slots=True)
class PipeEnded(Event):
    session: str
    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class PathOpened(Event):
    """A durable connection has one more way to its peer."""

    connection: str
    peer: str
    plugin: str
    transport: str
    local: str
    remote: str
    relayed: bool


@dataclass(frozen=True, slots=True)
class PathChosen(Event):
    """A durable connection goes on by this path, `seconds` after it was begun.

    `gap`: for how long the peer had not answered although something waited for it, seconds.
    """

    connection: str
    peer: str
    plugin: str
    transport: str
    local: str
    remote: str
    relayed: bool
    seconds: float
    gap: float
    reason: str


@dataclass(frozen=True, slots=True)
class PathsMissing(Event):
    """No path of a durable connection works, as far as is known: its pipes wait, and others are looked for."""

    connection: str
    peer: str


@dataclass(frozen=True, slots=True)
class PathsWork(Event):
    """One works again: `gap` seconds after the peer's last answer."""

    connection: str
    peer: str
    plugin: str
    gap: float


@dataclass(frozen=True, slots=True)
class PathLost(Event):
    """A path of a durable connection is over; pipes go on by another one, or wait."""

    connection: str
    peer: str
    plugin: str
    remote: str
    reason: str


@dataclass(frozen=True, slots=True)
class PluginReport:
    """One row of a report: what a plugin did, when (seconds after the attempt's start), and why it ended."""

    plugin: str
    outcome: str  # "won", "lost", "failed", "timed out", "crashed", "skipped"
    reason: str
    started: float | None
    ended: float | None
    notes: tuple[tuple[float, str], ...] = ()


Observer = Callable[[Event], None]
