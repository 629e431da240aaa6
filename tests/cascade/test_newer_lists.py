"""A newer list of public servers reaches nodes that run: what they hold stays, what they turn to is of the new list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cascade_world import ALL_WAYS, EPOCH, HOP, Options, exchange, virtual

from warpgate.config import Config
from warpgate.core import server_lists, servers_in_use
from warpgate.core.context import Sources
from warpgate.core.node import Node
from warpgate.events import AddressChanged, Event, ServerFailed, ServerListFetched, ServerListTaken
from warpgate.lab.spec import NatSpec
from warpgate.model.endpoint import Endpoint
from warpgate.model.identity import Identity
from warpgate.model.server_list import parse_list, signed
from warpgate.services.defaults import ListKeys
from warpgate_testing.internet import MemoryInternet, PathSpec
from warpgate_testing.servers import MemoryBroker, MemoryBrokers, MemoryStun

KEY, STRANGER = Identity.generate(), Identity.generate()
PLACE = "https://lists.example.com/servers.toml"
OLD = tuple(f"mqtt://203.0.113.{number}:1883" for number in (11, 12))
NEW = tuple(f"mqtt://203.0.114.{number}:1883" for number in (11, 12))
NOBODY = tuple(f"mqtt://203.0.115.{number}:1883" for number in (11, 12))
OLD_STUN, NEW_STUN, NO_STUN = "203.0.113.1:3478", "203.0.114.1:3478", "203.0.115.1:3478"
# By then a place was asked, and the user's other processes have looked.
TAKEN_OVER = server_lists.FIRST_HIGH + server_lists.LOOK_AGAIN


def text(sequence: int, brokers: tuple[str, ...] = NEW, stun: str = NEW_STUN, expires: str = "2099-01-01") -> bytes:
    return f"sequence = {sequence}\nexpires = {expires}\nbrokers = {list(brokers)}\nstun = ['{stun}']\n".encode()


class Land:
    """Two nodes of one user's behind NATs, without settings; the package has list 5, of old servers."""

    def __init__(self) -> None:
        self.internet = MemoryInternet(seed=5, path=PathSpec(delay=HOP))
        self.brokers = {url: MemoryBroker(url, one_way=HOP) for url in (*OLD, *NEW)}
        self.place: bytes = b""
        self.events: dict[str, list[Event]] = {"a": [], "b": []}
        self.stun: list[MemoryStun] = []
        for number, text_ in enumerate((OLD_STUN, NEW_STUN)):
            at = Endpoint.parse(text_)
            self.stun.append(MemoryStun(self.internet.host(f"stun {number}", str(at.ip)), at, None))
        self.a, self.b = self._node("a", 1), self._node("b", 2)

    def _node(self, name: str, number: int) -> Node:
        router = self.internet.router(name, f"198.51.100.{number}", NatSpec())
        return Node(
            Config(identity=name, port_map=False),
            network=self.internet.host(f"{name}'s", f"192.168.{number}.2", behind=router),
            brokers=MemoryBrokers(*self.brokers.values()),
            observer=self.events[name].append,
            sources=Sources(wall_clock=lambda: EPOCH + asyncio.get_running_loop().time()),
        )

    def said(self, kind: type[Event]) -> dict[str, int]:
        return {name: sum(isinstance(event, kind) for event in events) for name, events in self.events.items()}

    def homes(self) -> list[set[str]]:
        return [{broker.url for broker in node.status().brokers} for node in (self.a, self.b)]

    def reached_at(self) -> list[object]:
        addresses = [node.address for node in (self.a, self.b)]
        return [(a.brokers, [(at.reflexive, at.udp, at.tcp) for at in a.attachments]) for a in addresses]

    def lists(self) -> list[int]:
        return [node.status().server_list for node in (self.a, self.b)]

    def take(self, body: bytes) -> None:
        """As when it was fetched and found good."""
        for node in (self.a, self.b):
            node._run.take_list(parse_list(body))

    async def meet(self, options: Options) -> None:
        pipe = await self.a.connect(self.b.address, **options)
        await exchange(pipe, await self.b.accept())
        await pipe.close()


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPGATE_DATA", str(tmp_path))
    ours = parse_list(text(5, OLD, OLD_STUN))
    for module in (server_lists, servers_in_use):
        monkeypatch.setattr(module, "public_servers", lambda: ours)
    monkeypatch.setattr(server_lists, "list_keys", lambda: ListKeys((KEY.public_key,), (PLACE,)))


@asynccontextmanager
async def land(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Land]:
    """Both nodes are up and know their NATs."""
    here = Land()

    async def fetch(network: object, asked: str, trust: object) -> bytes:
        return here.place

    monkeypatch.setattr(server_lists, "fetch_list", fetch)
    async with here.a, here.b:
        await asyncio.sleep(8)
        yield here
    for stun in here.stun:
        await stun.close()
    assert here.internet.open_sockets() == ()
    assert [broker.clients for broker in here.brokers.values()] == [0] * 4


def test_nodes_that_run_take_a_newer_list_and_nothing_that_they_hold_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with land(monkeypatch) as here:
            pipes = []
            for options in (*(way.values[0] for way in ALL_WAYS),):
                pipe = await here.a.connect(here.b.address, **options)
                pipes.append((pipe, await here.b.accept()))
            before, news = here.reached_at(), here.said(AddressChanged)
            here.place = signed(text(9), KEY)
            await asyncio.sleep(TAKEN_OVER)
            assert here.said(ServerListTaken) == {"a": 1, "b": 1}
            assert sum(here.said(ServerListFetched).values()) == 1, "one process fetched it for both"
            assert here.lists() == [9, 9]
            assert here.reached_at() == before
            more = here.said(AddressChanged)
            assert all(more[name] <= news[name] + 1 for name in news), "the NAT's fingerprint has one more sample"
            for pipe, other in pipes:
                await exchange(pipe, other)
            asked = here.stun[0].asked
            await asyncio.sleep(300)
            assert here.stun[0].asked == asked, "servers that have gone are left alone"
            assert here.stun[1].asked > 50
            for url in OLD:
                here.brokers[url].kill()
            await asyncio.sleep(5)
            assert here.homes() == [set(NEW), set(NEW)]
            for way in ALL_WAYS:
                await here.meet(way.values[0])
            for pipe, other in pipes:
                await exchange(pipe, other)

    virtual(main, limit=40_000)


@pytest.mark.parametrize(
    "there",
    [
        signed(text(9), STRANGER),
        signed(text(9), KEY).replace(b"203.0.114.11", b"203.0.115.11"),
        signed(text(9, expires="2027-01-13"), KEY),
        signed(text(4), KEY),
        signed(text(9, ()), KEY),
        signed(text(9).replace(f"'{NEW_STUN}'".encode(), b""), KEY),
        signed(text(9, ("mqtt://192.168.1.1:1883",)), KEY),
        b"",
    ],
    ids=["stranger", "altered", "expired", "older", "no brokers", "no STUN", "inside", "empty"],
)
def test_nothing_is_taken_from_a_list_that_is_not_good(monkeypatch: pytest.MonkeyPatch, there: bytes) -> None:
    async def main() -> None:
        async with land(monkeypatch) as here:
            here.place = there
            before = here.homes()
            await asyncio.sleep(TAKEN_OVER)
            assert here.said(ServerListTaken) == {"a": 0, "b": 0}
            assert sum(here.said(ServerFailed).values()) == 1, "the place, by the one that asked"
            assert here.lists() == [5, 5]
            assert here.homes() == before
            assert here.stun[1].asked == 0
            await here.meet({})

    virtual(main, limit=40_000)


def test_the_same_list_again_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with land(monkeypatch) as here:
            here.place = signed(text(5), KEY)
            await asyncio.sleep(TAKEN_OVER)
            assert here.said(ServerListTaken) == {"a": 0, "b": 0}
            for number in (7, 6, 7, 5):
                here.take(text(number, NOBODY if number < 7 else NEW))
            assert here.said(ServerListTaken) == {"a": 1, "b": 1}
            assert here.lists() == [7, 7]

    virtual(main, limit=40_000)


def test_with_a_list_of_dead_servers_nodes_stay_where_they_are_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with land(monkeypatch) as here:
            before = here.homes(), [at.reflexive for at in here.b.address.attachments]
            here.place = signed(text(9, NOBODY, NO_STUN), KEY)
            await asyncio.sleep(TAKEN_OVER)
            assert here.lists() == [9, 9]
            for url in OLD:  # an hour without any
                here.brokers[url].kill()
            await asyncio.sleep(3600)
            for url in OLD:
                here.brokers[url].revive()
            await asyncio.sleep(120)
            assert (here.homes(), [at.reflexive for at in here.b.address.attachments]) == before
            await here.meet({})
            here.take(text(10))
            await asyncio.sleep(30)
            assert here.lists() == [10, 10]
            assert here.homes() == before[0], "they live"
            await here.meet({})

    virtual(main, limit=40_000)


@pytest.mark.parametrize("way", ALL_WAYS)
def test_a_list_that_comes_in_the_middle_of_a_connect_costs_it_nothing(
    monkeypatch: pytest.MonkeyPatch, way: Options
) -> None:
    async def seconds(moment: float | None) -> float:
        async with land(monkeypatch) as here:
            if moment is not None:
                asyncio.get_running_loop().call_later(moment, here.take, text(9))
            began = asyncio.get_running_loop().time()
            pipe = await here.a.connect(here.b.address, **way)
            took = asyncio.get_running_loop().time() - began
            await exchange(pipe, await here.b.accept())
            await asyncio.sleep(30)
            assert here.lists() == ([5, 5] if moment is None else [9, 9])
        return took

    undisturbed = virtual(lambda: seconds(None))
    for steps in range(8):
        assert virtual(lambda steps=steps: seconds(steps * HOP / 2)) == pytest.approx(undisturbed)  # type: ignore[misc]


def test_what_the_settings_name_stays_and_the_rest_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with land(monkeypatch) as here:
            here.b._config = Config(identity="b", port_map=False, brokers=OLD)
            await here.b.close()
            await here.b.start()
            here.place = signed(text(9), KEY)
            await asyncio.sleep(TAKEN_OVER)
            assert here.lists() == [9, 9]
            for url in OLD:
                here.brokers[url].kill()
            await asyncio.sleep(30)
            assert here.homes() == [set(NEW), set()]
            asked = here.stun[0].asked
            await asyncio.sleep(300)
            assert here.stun[0].asked == asked

    virtual(main, limit=40_000)
