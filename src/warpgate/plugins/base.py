"""What a strategy is, and everything it may touch; docs/writing-a-plugin.md tells it step by step.

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

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import ClassVar, TypeVar

import msgspec

from warpgate.errors import AttemptFailed, ConfigError
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.model.text import MAX_PLUGIN_NAME as NAME_LIMIT
from warpgate.model.text import is_plugin_name
from warpgate.net.link import Link
from warpgate.plan.counting import being_measured
from warpgate.plan.targets import Pair, pairs
from warpgate.plugins.attempt import Attempt, RandomPunch, Relay

__all__ = [
    "ENTRY_POINTS",
    "NAME_LIMIT",
    "REGISTRY",
    "UNKNOWN_SIGNAL_DELAY",
    "Attempt",
    "Broken",
    "Plugin",
    "RandomPunch",
    "Registry",
    "Relay",
    "outward",
    "register",
    "registered_names",
    "signal_delay",
]

ENTRY_POINTS = "warpgate.plugins"
# Brokers without a measured round trip: what two far ends over a busy public broker need, in seconds.
UNKNOWN_SIGNAL_DELAY = 0.15
KNOWING_STEP = 0.05
KNOWING_STEPS = 20


def signal_delay(attempt: Attempt) -> float:
    """Seconds that a signal to the peer should need, as well as that is known."""
    return UNKNOWN_SIGNAL_DELAY if attempt.signal_delay is None else attempt.signal_delay


async def fingerprinted(attempt: Attempt) -> None:
    """Returns when it is known what the NAT before us is like, or will not be known within a second."""
    for _ in range(KNOWING_STEPS):
        if not being_measured(attempt.local):
            break
        await asyncio.sleep(KNOWING_STEP)


def outward(attempt: Attempt, transport: Transport) -> tuple[Endpoint, ...]:
    """Our listening endpoints, one an interface, on the interfaces that face the peer's side of the internet."""
    facing = {pair.base.ip: pair.base for pair in attempt.pairs(transport) if not pair.nearby}
    if facing:
        return tuple(facing.values())
    outside = (at.host_endpoint(transport) for at in attempt.local.attachments if not at.host.is_loopback)
    return tuple(endpoint for endpoint in outside if endpoint is not None)


class Plugin(ABC):
    """One traversal strategy. Everything suitable starts in the same tick; each half runs on an object of its own."""

    name: ClassVar[str]  # what users choose it by; at most 32 bytes
    transports: ClassVar[frozenset[Transport]]  # what its links may run over
    message_type: ClassVar[type | None] = None  # of all messages, both ways; None: it sends none
    needs_signal: ClassVar[bool] = True  # False: works without any broker
    relays: ClassVar[bool] = False  # its links run over somebody else's machine: direct ones are preferred

    @classmethod
    def unsuitable(cls, local: NodeAddress, remote: NodeAddress) -> str | None:
        """Why this strategy cannot work between these two, or None. Pure; UNKNOWN never rules anything out."""
        return None

    @staticmethod
    def open_pairs(local: NodeAddress, remote: NodeAddress, transport: Transport) -> tuple[Pair, ...]:
        """Our sockets x the peer's endpoints that are known to accept a stranger; for `unsuitable`."""
        return tuple(pair for pair in pairs(local, remote, transport) if pair.open)

    @abstractmethod
    async def initiate(self, attempt: Attempt) -> Link:
        """The side that called connect. Returns a link of `attempt`'s, or raises AttemptFailed with the reason."""

    async def respond(self, attempt: Attempt) -> Link:
        """The other half; strategies that need none never signal, so only a strange peer asks for theirs."""
        raise AttemptFailed(f"{self.name} has no responding half")


@dataclass(frozen=True, slots=True)
class Broken:
    """An installed plugin that cannot be used: its entry point, its package, and why."""

    entry: str
    package: str
    reason: str


class Registry:
    """Plugins by name: the built-in ones, what `@register` was applied to, and installed entry points."""

    def __init__(self) -> None:
        self._plugins: dict[str, type[Plugin]] = {}
        self._packages: dict[str, str] = {}
        self._broken: list[Broken] = []
        self._loaded = False

    def add(self, plugin: type[Plugin]) -> None:
        """ConfigError for a class that is no complete plugin, and for a name that another one has."""
        if not (isinstance(plugin, type) and issubclass(plugin, Plugin)):
            raise ConfigError(f"{plugin!r} is no plugin: it is not derived from Plugin")
        faults = list(_faults(plugin))
        if faults:
            raise ConfigError(f"{plugin!r} is no plugin: {'; '.join(faults)}")
        if self._plugins.setdefault(plugin.name, plugin) is not plugin:
            raise ConfigError(f"two plugins are called {plugin.name!r}")

    def all(self) -> dict[str, type[Plugin]]:
        """Every usable plugin by name, entry points loaded on first use.

        One that is installed and does not load is left out, see `broken`; ConfigError when what the program itself
        registered has the name of a built-in one.
        """
        if not self._loaded:
            self._loaded = True
            from warpgate.plugins.builtin import BUILTIN  # noqa: PLC0415 - they import this module

            registered, self._plugins = self._plugins, {plugin.name: plugin for plugin in BUILTIN}
            for plugin in registered.values():
                self.add(plugin)
            for entry in metadata.entry_points(group=ENTRY_POINTS):
                self._load(entry)
        return dict(self._plugins)

    def _load(self, entry: metadata.EntryPoint) -> None:
        package = _package(entry)
        before = set(self._plugins)
        try:
            found = entry.load()
            if isinstance(found, type):
                self.add(found)
            elif set(self._plugins) == before:
                raise ConfigError(f"{entry.value} is neither a plugin nor a module that registers one")
        except Exception as error:  # noqa: BLE001 - importing somebody else's code may raise anything
            self._broken.append(Broken(entry.name, package, f"{type(error).__name__}: {error}"))
        for name in set(self._plugins) - before:
            self._packages[name] = package

    @property
    def broken(self) -> tuple[Broken, ...]:
        """Installed plugins that did not load."""
        self.all()
        return tuple(self._broken)

    def package_of(self, name: str) -> str:
        """The installed distribution that brought this plugin, "" for the others."""
        self.all()
        return self._packages.get(name, "")

    def select(self, names: Sequence[str] | None) -> tuple[type[Plugin], ...]:
        """The named plugins, or all. ConfigError names an unknown one and lists what there is."""
        plugins = self.all()
        for name in names or ():
            if name not in plugins:
                broken = (f"; {one.entry} does not load: {one.reason}" for one in self._broken)
                raise ConfigError(
                    f"unknown plugin {name!r}; there are: {', '.join(plugins)}{''.join(broken)}"
                )
        return (
            tuple(plugins.values())
            if names is None
            else tuple(plugins[name] for name in dict.fromkeys(names))
        )


def _faults(plugin: type[Plugin]) -> Iterator[str]:
    """What is missing or wrong in a plugin's class; the core relies on the rest."""
    name = getattr(plugin, "name", None)
    if not isinstance(name, str) or not 1 <= len(name.encode()) <= NAME_LIMIT:
        yield f"its name, {name!r}, must have 1 to {NAME_LIMIT} bytes"
    elif not is_plugin_name(name):
        yield f"its name, {name!r}, holds a comma, a space or what cannot be printed"
    transports = getattr(plugin, "transports", None)
    if not isinstance(transports, frozenset) or not transports or not transports <= frozenset(Transport):
        yield f"its transports, {transports!r}, are no frozenset of Transport"
    for half in ("initiate", "respond"):
        if not inspect.iscoroutinefunction(getattr(plugin, half)):
            yield f"{half} is no `async def`"
    if inspect.isabstract(plugin):
        yield f"it does not define {', '.join(sorted(plugin.__abstractmethods__))}"
    message = plugin.message_type
    if message is not None and not (isinstance(message, type) and _decodable(message)):
        yield f"its message_type, {message!r}, is no class that can be decoded, such as a frozen dataclass"


def _decodable(message: type) -> bool:
    try:
        return not isinstance(msgspec.inspect.type_info(message), msgspec.inspect.CustomType)
    except (TypeError, NameError):  # annotations that mean nothing
        return False


def _package(entry: metadata.EntryPoint) -> str:
    distribution = entry.dist
    return "an unknown package" if distribution is None else f"{distribution.name} {distribution.version}"


REGISTRY = Registry()
_P = TypeVar("_P", bound=type[Plugin])


def register(plugin: _P) -> _P:
    """Class decorator: make a strategy known by its name."""
    REGISTRY.add(plugin)
    return plugin


def registered_names() -> tuple[str, ...]:
    """Names for `--via`."""
    return tuple(REGISTRY.all())
