"""Plugins by name: what may be registered, and what is chosen."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar
from zipfile import ZipFile

import pytest

from warpgate.errors import AttemptFailed, ConfigError
from warpgate.model.endpoint import Transport
from warpgate.net.link import Link
from warpgate.plugins import registry as registry_module
from warpgate.plugins.base import Attempt, Plugin
from warpgate.plugins.registry import MAX_PLUGIN_NAME, REGISTRY, Registry, register, registered_names


class Mine(Plugin):
    name: ClassVar[str] = "mine"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP})

    async def initiate(self, attempt: Attempt) -> Link:
        raise NotImplementedError


def named(name: str) -> type[Plugin]:
    return type("Named", (Mine,), {"name": name})


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry point of an installed package "pigeons"."""

    name: str
    load: Callable[[], object]
    value: str = "pigeons:Mine"

    @property
    def dist(self) -> SimpleNamespace:
        return SimpleNamespace(name="pigeons", version="1.0")


def test_the_built_in_ones_come_first_and_always_in_the_same_order() -> None:
    registry = Registry()
    registry.add(Mine)
    names = list(registry.all())
    assert names[:2] == ["direct", "reverse"]
    assert {"udp_punch", "tcp_punch"} < set(names)
    assert names[-1] == "mine"
    assert list(Registry().all()) == names[:-1]


def test_a_selection_keeps_its_order_and_names_each_once() -> None:
    registry = Registry()
    assert [plugin.name for plugin in registry.select(["tcp_punch", "direct", "tcp_punch"])] == [
        "tcp_punch",
        "direct",
    ]
    assert [plugin.name for plugin in registry.select(None)] == list(registry.all())
    assert registry.select([]) == ()


def test_an_unknown_name_is_told_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown plugin 'direkt'; there are: direct, reverse"):
        Registry().select(["direct", "direkt"])


@pytest.mark.parametrize("name", ["", "x" * (MAX_PLUGIN_NAME + 1), "ü" * (MAX_PLUGIN_NAME // 2 + 1)])
def test_names_travel_so_they_are_bounded(name: str) -> None:
    with pytest.raises(ConfigError, match="must have 1 to 32 bytes"):
        Registry().add(named(name))
    Registry().add(named("ü" * (MAX_PLUGIN_NAME // 2)))


def test_a_plugin_without_a_name_is_refused() -> None:
    class Nameless(Mine):
        name = None  # type: ignore[assignment]

    with pytest.raises(ConfigError):
        Registry().add(Nameless)


def test_two_of_one_name_are_refused_but_one_may_be_added_twice() -> None:
    registry = Registry()
    registry.add(Mine)
    registry.add(Mine)
    with pytest.raises(ConfigError, match="two plugins are called 'mine'"):
        registry.add(named("mine"))


def test_the_decorator_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    monkeypatch.setattr(registry_module, "REGISTRY", registry)
    assert register(Mine) is Mine
    assert registry.all()["mine"] is Mine
    assert "mine" not in REGISTRY.all()
    assert "mine" in registered_names()


def test_installed_entry_points_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []

    def installed() -> list[Entry]:
        asked.append(None)
        return [Entry("mine", lambda: Mine)]

    monkeypatch.setattr(registry_module, "_installed", installed)
    registry = Registry()
    assert registry.all()["mine"] is Mine
    assert (registry.package_of("mine"), registry.package_of("direct")) == ("pigeons 1.0", "")
    registry.all()
    assert (asked, registry.broken) == ([None], ())


def write_package(folder: Path, entries: str, suffix: str = "dist-info") -> None:
    written = folder / f"{folder.name}-1.0.{suffix}"
    written.mkdir(parents=True)
    (written / "entry_points.txt").write_text(entries)
    (written / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {folder.name}\nVersion: 1.0\n")


OURS = "[console_scripts]\na = b:c\n\n[warpgate.plugins]\nmine = pigeons:Mine\n"
FIND = (
    "import sys; sys.path += sys.argv[1:]; from warpgate.plugins.registry import _installed;"
    "print([entry.name for entry in _installed()], 'importlib.metadata' in sys.modules)"
)


def found(*places: Path) -> str:
    program = [sys.executable, "-c", FIND, *map(str, places)]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout.strip()


def test_packages_are_looked_through_only_where_one_has_our_group(tmp_path: Path) -> None:
    write_package(tmp_path / "other", "[console_scripts]\na = b:c\n")
    write_package(tmp_path / "ours", OURS)
    write_package(tmp_path / "old", OURS.replace("mine", "old"), "egg-info")
    with ZipFile(tmp_path / "pigeons.zip", "w") as archive:
        archive.writestr("pigeons-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: pigeons\nVersion: 1.0\n")
        archive.writestr("pigeons-1.0.dist-info/entry_points.txt", OURS.replace("mine", "zipped"))
    assert found(tmp_path / "other", tmp_path / "absent") == "[] False"
    assert found(tmp_path / "other", tmp_path / "ours") == "['mine'] True"
    assert found(tmp_path / "old") == "['old'] True"
    assert found(tmp_path / "pigeons.zip") == "['zipped'] True"


def test_a_frozen_program_s_packages_are_asked_of_its_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen:
        def find_spec(self, *_: object) -> None:
            return None

        def find_distributions(self, context: object) -> Iterator[Distribution]:
            yield Packed()

    class Packed(Distribution):
        def read_text(self, filename: str) -> str | None:
            return {"entry_points.txt": OURS, "METADATA": "Name: packed"}.get(filename)

        def locate_file(self, path: object) -> Path:
            return Path("/nowhere")

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Frozen()])
    assert "mine" in [entry.name for entry in registry_module._installed()]


class TestBroken:
    """A package that somebody installed must not keep the others from working."""

    def loaded(self, monkeypatch: pytest.MonkeyPatch, load: Callable[[], object]) -> Registry:
        monkeypatch.setattr(registry_module, "_installed", lambda: [Entry("theirs", load)])
        registry = Registry()
        assert "direct" in registry.all()
        return registry

    @pytest.mark.parametrize(
        ("found", "says"),
        [
            (Plugin, "it does not define initiate"),
            (int, "not derived from Plugin"),
            (asyncio, "neither a plugin nor a module that registers one"),
            (named("direct"), "two plugins are called 'direct'"),
        ],
    )
    def test_what_is_no_plugin(self, monkeypatch: pytest.MonkeyPatch, found: object, says: str) -> None:
        registry = self.loaded(monkeypatch, lambda: found)
        (broken,) = registry.broken
        assert (broken.entry, broken.package) == ("theirs", "pigeons 1.0")
        assert says in broken.reason
        assert registry.all()["direct"] is not found

    def test_one_that_cannot_be_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def load() -> object:
            raise ImportError("no module named coo")

        registry = self.loaded(monkeypatch, load)
        assert registry.broken[0].reason == "ImportError: no module named coo"
        with pytest.raises(ConfigError, match="theirs does not load: ImportError: no module named coo"):
            registry.select(["theirs"])

    def test_a_module_may_register_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry_module, "_installed", lambda: [Entry("theirs", load)])
        registry = Registry()

        def load() -> object:
            registry.add(Mine)
            return asyncio  # a module

        assert registry.all()["mine"] is Mine
        assert (registry.package_of("mine"), registry.broken) == ("pigeons 1.0", ())


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"name": "a,b"}, "holds a comma"),
        ({"name": "a b"}, "a space"),
        ({"name": "a\n"}, "cannot be printed"),
        ({"transports": {Transport.TCP}}, "no frozenset of Transport"),
        ({"transports": frozenset()}, "no frozenset of Transport"),
        ({"initiate": lambda self, attempt: None}, "initiate is no `async def`"),
        ({"respond": lambda self, attempt: None}, "respond is no `async def`"),
        ({"message_type": list[int]}, "no class that can be decoded"),
        ({"message_type": Registry}, "no class that can be decoded"),
    ],
)
def test_what_the_core_relies_on_is_checked_at_once(members: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Registry().add(type("Wrong", (Mine,), members))


def test_a_program_cannot_replace_a_built_in_plugin_by_accident() -> None:
    registry = Registry()
    registry.add(named("direct"))
    with pytest.raises(ConfigError, match="two plugins are called 'direct'"):
        registry.all()


async def test_a_plugin_without_a_responding_half_says_so() -> None:
    with pytest.raises(AttemptFailed, match="mine has no responding half"):
        await Mine().respond(None)  # type: ignore[arg-type]
    assert Mine.unsuitable(None, None) is None  # type: ignore[arg-type]
