"""What a strategy is, and everything it may touch.

A plugin is one file: its message (a frozen dataclass or msgspec.Struct, if it sends any) and a class:

    @register
    class Mine(Plugin):
        name = "mine"
        transports = frozenset({Transport.TCP})

        async def initiate(self, attempt: Attempt) -> Link: ...
        async def respond(self, attempt: Attempt) -> Link: ...

`initiate` runs on the side that called connect, `respond` on the other as soon as a message of this plugin arrives.
Both return an open link or raise AttemptFailed with the reason. The deadline, cleaning up, the proof of the peer's
key, the race, events and the report come from the core. Plugins never import each other.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import metadata
from typing import ClassVar, Protocol, TypeVar

from warpgate.config import Config
from warpgate.errors import AttemptFailed, ConfigError
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Family, Mode, Transport
from warpgate.net.link import Link
from warpgate.net.network import Network, TcpStream
from warpgate.plan.classify import Observation
from warpgate.plan.targets import Pair

ENTRY_POINTS = "warpgate.plugins"
# Brokers without a measured round trip: what two far ends over a busy public broker need, in seconds.
UNKNOWN_SIGNAL_DELAY = 0.15
NAME_LIMIT = 32  # bytes of UTF-8; the name travels in HELLO and in checks


class Relay(Protocol):
    """What an attempt may do with TURN servers. All that is opened is given back, unless the winning link is on it."""

    @property
    def configured(self) -> bool:
        """Whether there is any server of ours."""
        ...

    async def open_udp(self) -> tuple[Endpoint, ...]:
        """Relayed endpoints, to be used as `base` of `probe` and told to the peer. ServiceError with the reasons."""
        ...

    async def open_tcp(self) -> tuple[Endpoint, ...]:
        """Relayed endpoints that the peer may dial: its links arrive by `inbound`. ServiceError with the reasons."""
        ...

    async def dial(self, remote: Endpoint) -> TcpStream:
        """From our relay of `open_tcp` to a relayed endpoint of the peer's; for `adopt`. ServiceError, NetworkError."""
        ...

    def targets(self, family: Family, transport: Transport) -> tuple[Endpoint, ...]:
        """The peer's outside endpoints, which a relay must let in (sending there from a relayed base does so)."""
        ...

    def admit(self, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        """The peer's relayed endpoints, as far as they may be tried; AttemptFailed when none may."""
        ...


class RandomPunch(Protocol):
    """Many sockets or many ports, within the node's budgets; the only one of the node while it lasts."""

    @property
    def mappings_left(self) -> int:
        """How many more sockets or probes this peer may cost: AttemptFailed beyond."""
        ...

    def open_towards(
        self, near: Endpoint, target: Endpoint, schedule: Sequence[tuple[float, int | None]]
    ) -> None:
        """One more socket that sends to `target` at these times from now, each with a ttl (None: full).

        Closed with the session unless it wins. NetworkError when the system has no more.
        """
        ...

    async def probe(self, base: Endpoint, remote: Endpoint) -> None:
        """One check to a guessed endpoint, as soon as the node's rate allows it."""
        ...

    def close(self) -> None:
        """Nothing more is to be sent: the node may go on to its next random punch. Idempotent."""
        ...


class Attempt(Protocol):
    """One plugin's part in one connect: everything it may touch. Times are the loop's clock, seconds."""

    @property
    def session(self) -> bytes:
        """16 bytes, chosen by the initiator."""
        ...

    @property
    def initiator(self) -> bool: ...

    @property
    def local(self) -> NodeAddress: ...

    @property
    def remote(self) -> NodeAddress:
        """The peer's address; fresher when the peer has sent a fresher one."""
        ...

    @property
    def mode(self) -> Mode: ...

    @property
    def transports(self) -> frozenset[Transport]:
        """What the pipe may run over."""
        ...

    @property
    def config(self) -> Config: ...

    @property
    def network(self) -> Network: ...

    @property
    def relay(self) -> Relay: ...

    @property
    def stack(self) -> contextlib.ExitStack:
        """Closed when the plugin's part is over; what a winning link needs must be moved out before."""
        ...

    @property
    def signal_delay(self) -> float | None:
        """Estimated one-way time of a signal to the peer, measured once an answer has come; None if unknown."""
        ...

    def now(self) -> float: ...

    def note(self, text: str) -> None:
        """One line for `explain`: what was tried or learnt."""
        ...

    def signal(self, message: object) -> None:
        """Send the peer's half a message; all plugins' messages of one tick travel in one envelope.

        Delivered once, repeated until acknowledged. ProtocolError when it packs to more than 1,024 bytes.
        """
        ...

    async def receive(self) -> object:
        """The next message of the peer's half, already decoded as the plugin's `message_type`."""
        ...

    async def remote_changed(self) -> None:
        """Returns when `remote` has become another address since the last call (or since the start)."""
        ...

    def pairs(self, transport: Transport) -> tuple[Pair, ...]:
        """Our listening sockets x the peer's endpoints, as far as policy lets them be tried, best first."""
        ...

    def check_targets(self, endpoints: Sequence[Endpoint]) -> None:
        """AttemptFailed (and a refusal is counted) when these are not the peer's own, or not allowed."""
        ...

    def probe(
        self,
        base: Endpoint,
        remote: Endpoint,
        *,
        offsets: Sequence[float] | None = None,
        ttl: int | None = None,
    ) -> None:
        """Send connectivity checks from our UDP socket `base`, at these times from now; ttl for priming."""
        ...

    def occupied(self, base: Endpoint, remote: Endpoint) -> bool:
        """Whether a datagram pipe is on this pair of endpoints already. A second one needs another of our sockets."""
        ...

    async def verified(self) -> Link:
        """The next UDP link of this plugin: the peer has proved its key on it."""
        ...

    async def open_udp(self, near: Endpoint) -> Endpoint:
        """One more UDP socket for checks, on the same interface as `near`, closed with the attempt unless it wins."""
        ...

    async def reflexive(self, base: Endpoint) -> Endpoint:
        """What the outside sees of a UDP socket of `open_udp`, asked now. ServiceError when no server answers."""
        ...

    async def samples(self, base: Endpoint) -> tuple[Observation, ...]:
        """What several servers see of a UDP socket, in the order in which they were asked, now. ServiceError."""
        ...

    def random_punch(self) -> RandomPunch:
        """AttemptFailed when a budget is used up or another one is going on; over with the plugin's part."""
        ...

    async def reflexive_tcp(self, near: Endpoint) -> tuple[Endpoint, Endpoint]:
        """(local, reflexive) of a fresh TCP port on the interface of `near`; its mapping is kept open meanwhile."""
        ...

    async def dial(self, remote: Endpoint, local: Endpoint | None = None) -> Link:
        """Connect by TCP and let the peer prove its key. NetworkError, ProtocolError."""
        ...

    async def listen_tcp(self, local: Endpoint) -> None:
        """Also accept on `local` (a fresh punching port) while the attempt lasts; links arrive by `inbound`."""
        ...

    async def inbound(self) -> Link:
        """The next TCP link that the peer's half dialled to us, already proved."""
        ...

    async def adopt(self, stream: TcpStream) -> Link:
        """Let the peer prove its key on a stream that the plugin opened by its own means; we speak first."""
        ...


def signal_delay(attempt: Attempt) -> float:
    """Seconds that a signal to the peer should need, as well as that is known."""
    return UNKNOWN_SIGNAL_DELAY if attempt.signal_delay is None else attempt.signal_delay


def outward(attempt: Attempt, transport: Transport) -> tuple[Endpoint, ...]:
    """Our listening endpoints, one an interface, on the interfaces that face the peer's side of the internet."""
    facing = {pair.base.ip: pair.base for pair in attempt.pairs(transport) if not pair.nearby}
    if facing:
        return tuple(facing.values())
    outside = (at.host_endpoint(transport) for at in attempt.local.attachments if not at.host.is_loopback)
    return tuple(endpoint for endpoint in outside if endpoint is not None)


class Plugin(ABC):
    """One traversal strategy. Everything suitable starts in the same tick."""

    name: ClassVar[str]
    transports: ClassVar[frozenset[Transport]]
    message_type: ClassVar[type | None] = None
    needs_signal: ClassVar[bool] = True

    @classmethod
    def unsuitable(cls, local: NodeAddress, remote: NodeAddress) -> str | None:
        """Why this strategy cannot work between these two, or None. Pure; UNKNOWN never rules anything out."""
        return None

    @abstractmethod
    async def initiate(self, attempt: Attempt) -> Link: ...

    async def respond(self, attempt: Attempt) -> Link:
        """The other half; strategies that need none never signal, so only a strange peer asks for theirs."""
        raise AttemptFailed(f"{self.name} has no responding half")


class Registry:
    """Plugins by name: the built-in ones, what `@register` was applied to, and installed entry points."""

    def __init__(self) -> None:
        self._plugins: dict[str, type[Plugin]] = {}
        self._loaded = False

    def add(self, plugin: type[Plugin]) -> None:
        """ConfigError when the name is missing, too long, or taken by another class."""
        name = getattr(plugin, "name", "")
        if not name or len(name.encode()) > NAME_LIMIT:
            raise ConfigError(f"plugin name {name!r} must have 1 to {NAME_LIMIT} bytes")
        if self._plugins.setdefault(name, plugin) is not plugin:
            raise ConfigError(f"two plugins are called {name!r}")

    def all(self) -> dict[str, type[Plugin]]:
        """Every known plugin by name, entry points loaded on first use."""
        if not self._loaded:
            self._loaded = True
            from warpgate.plugins.builtin import BUILTIN  # noqa: PLC0415 - they import this module

            self._plugins = {plugin.name: plugin for plugin in BUILTIN} | self._plugins
            for entry in metadata.entry_points(group=ENTRY_POINTS):
                self.add(entry.load())
        return dict(self._plugins)

    def select(self, names: Sequence[str] | None) -> tuple[type[Plugin], ...]:
        """The named plugins, or all. ConfigError names an unknown one and lists what there is."""
        plugins = self.all()
        for name in names or ():
            if name not in plugins:
                raise ConfigError(f"unknown plugin {name!r}; there are: {', '.join(plugins)}")
        return (
            tuple(plugins.values())
            if names is None
            else tuple(plugins[name] for name in dict.fromkeys(names))
        )


REGISTRY = Registry()
_P = TypeVar("_P", bound=type[Plugin])


def register(plugin: _P) -> _P:
    """Class decorator: make a strategy known by its name."""
    REGISTRY.add(plugin)
    return plugin


def registered_names() -> tuple[str, ...]:
    """Names for `--via`."""
    return tuple(REGISTRY.all())
