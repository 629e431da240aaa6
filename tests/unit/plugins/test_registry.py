"""Plugins by name: what may be registered, and what is chosen."""

from __future__ import annotations

from typing import ClassVar

import pytest

from warpgate.errors import AttemptFailed, ConfigError
from warpgate.model.endpoint import Transport
from warpgate.net.link import Link
from warpgate.plugins import base
from warpgate.plugins.base import NAME_LIMIT, REGISTRY, Attempt, Plugin, Registry, register, registered_names


class Mine(Plugin):
    name: ClassVar[str] = "mine"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP})

    async def initiate(self, attempt: Attempt) -> Link:
        raise NotImplementedError


def named(name: str) -> type[Plugin]:
    return type("Named", (Mine,), {"name": name})


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


@pytest.mark.parametrize("name", ["", "x" * (NAME_LIMIT + 1), "ü" * (NAME_LIMIT // 2 + 1)])
def test_names_travel_so_they_are_bounded(name: str) -> None:
    with pytest.raises(ConfigError, match="must have 1 to 32 bytes"):
        Registry().add(named(name))
    Registry().add(named("ü" * (NAME_LIMIT // 2)))


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
    monkeypatch.setattr(base, "REGISTRY", registry)
    assert register(Mine) is Mine
    assert registry.all()["mine"] is Mine
    assert "mine" not in REGISTRY.all()
    assert "mine" in registered_names()


def test_installed_entry_points_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Entry:
        @staticmethod
        def load() -> type[Plugin]:
            return Mine

    def entry_points(group: str) -> list[type[Entry]]:
        asked.append(group)
        return [Entry]

    monkeypatch.setattr(base.metadata, "entry_points", entry_points)
    registry = Registry()
    assert registry.all()["mine"] is Mine
    registry.all()
    assert asked == ["warpgate.plugins"]


async def test_a_plugin_without_a_responding_half_says_so() -> None:
    with pytest.raises(AttemptFailed, match="mine has no responding half"):
        await Mine().respond(None)  # type: ignore[arg-type]
    assert Mine.unsuitable(None, None) is None  # type: ignore[arg-type]
