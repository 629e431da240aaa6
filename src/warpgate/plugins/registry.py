"""Which strategies there are: the built-in ones, what `@register` was applied to, and installed entry points."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from warpgate.errors import ConfigError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Transport
from warpgate.model.text import MAX_PLUGIN_NAME, is_plugin_name
from warpgate.plugins.base import Plugin
from warpgate.plugins.builtin import BUILTIN

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "warpgate.plugins"


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
            registered, self._plugins = self._plugins, {plugin.name: plugin for plugin in BUILTIN}
            for plugin in registered.values():
                self.add(plugin)
            for entry in _installed():
                self._load(entry)
        return dict(self._plugins)

    def _load(self, entry: EntryPoint) -> None:
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
        if isinstance(names, str):
            raise ConfigError(f"plugins must be a list of names, such as [{names!r}], not the text {names!r}")
        if names is not None and not isinstance(names, Sequence | Set):
            raise ConfigError(f"plugins must be a list of names or None, not {names!r}")
        plugins = self.all()
        for name in names or ():
            if name not in plugins:
                broken = (f"; {one.entry} does not load: {one.reason}" for one in self._broken)
                raise ConfigError(f"unknown plugin {name!r}; there are: {', '.join(plugins)}{''.join(broken)}")
        return tuple(plugins.values()) if names is None else tuple(plugins[name] for name in dict.fromkeys(names))


def _installed() -> Iterable[EntryPoint]:
    """`importlib.metadata` takes 20 ms and 1.2 MB: it is loaded where some package has our group, or may have it."""
    if not (_finds_elsewhere() or any(map(_names_us, sys.path))):
        return ()
    from importlib.metadata import entry_points  # noqa: PLC0415

    return entry_points(group=ENTRY_POINTS)


def _finds_elsewhere() -> bool:
    """Whether packages are found by other means than folders: a frozen program's, a tool's."""
    return any(hasattr(finder, "find_distributions") for finder in sys.meta_path if finder is not PathFinder)


def _names_us(place: str) -> bool:
    """Whether a package in this folder has plugins; for an archive, whether it could."""
    folder = Path(place)
    if folder.is_file():
        return True
    try:
        written = (*folder.glob("*.dist-info/entry_points.txt"), *folder.glob("*.egg-info/entry_points.txt"))
        return any(ENTRY_POINTS.encode() in file.read_bytes() for file in written)
    except OSError:  # not for us to read
        return False


def _faults(plugin: type[Plugin]) -> Iterator[str]:
    """What is missing or wrong in a plugin's class; the core relies on the rest."""
    name = getattr(plugin, "name", None)
    if not isinstance(name, str) or not 1 <= len(name.encode()) <= MAX_PLUGIN_NAME:
        yield f"its name, {name!r}, must have 1 to {MAX_PLUGIN_NAME} bytes"
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


def _package(entry: EntryPoint) -> str:
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
