"""The signal channel on brokers in memory and a clock of their own: what is kept, dropped, repeated, and when."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from warpgate.config import Timing
from warpgate.errors import ConfigError, NetworkError
from warpgate.events import BrokerConnected, Event, ServerFailed
from warpgate.model.broker import BrokerRef
from warpgate.model.endpoint import Endpoint
from warpgate.services.broker import BrokerLink, Judge, no_matter, not_before
from warpgate.services.signaling import GUESTS, SignalChannel
from warpgate_testing.clock import run_virtual

TOPIC = "warpgate/2/me"
A, B, C, D, E, F = (f"mqtt://{name}.example:1883" for name in "abcdef")


class MemoryLink:
    def __init__(self, world: World, url: str, topic: str, on_message: Callable[[bytes], None]) -> None:
        self.rtt = world.rtt[url]
        self.dropped = 0
        self.topic = topic
        self.on_message = on_message
        self._world = world
        self._url = url
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        world.links[url].append(self)

    def publish(self, topic: str, data: bytes) -> None:
        self._world.published.append((self._url, topic, data))
        for link in list(self._world.links[self._url]):
            if link.topic == topic:
                link.on_message(data)

    async def closed(self) -> str:
        return await asyncio.shield(self._end)

    def end(self, reason: str) -> None:
        if not self._end.done():
            self._end.set_result(reason)
            self._world.links[self._url].remove(self)

    async def close(self) -> None:
        self.end("closed on this side")


class World:
    """Brokers by URL: their round trip; how they answer can be changed at any time."""

    def __init__(self, **rtt: float) -> None:
        self.rtt = {f"mqtt://{name}.example:1883": seconds for name, seconds in rtt.items()}
        self.links: dict[str, list[MemoryLink]] = defaultdict(list)
        self.refusing: set[str] = set()
        self.silent: set[str] = set()
        self.published: list[tuple[str, str, bytes]] = []
        self.dialled: list[tuple[float, str]] = []
        self.judges: dict[str, Judge | None] = {}
        self.channels = 0

    async def connect(
        self,
        url: str,
        topic: str,
        on_message: Callable[[bytes], None],
        judge: Judge | None = None,
        on_step: Callable[[], None] = no_matter,
        on_open: Callable[[BrokerLink], None] = not_before,
    ) -> MemoryLink:
        self.judges[url] = judge
        self.dialled.append((asyncio.get_running_loop().time(), url))
        if url in self.refusing:
            raise NetworkError(f"connect to {url}: connection refused")
        for _ in range(3):
            await asyncio.sleep(1e9 if url in self.silent else self.rtt[url])
            on_step()
        return MemoryLink(self, url, topic, on_message)

    def kill(self, url: str, refusing: bool = True) -> None:
        if refusing:
            self.refusing.add(url)
        for link in list(self.links[url]):
            link.end("the broker closed the connection")

    def up(self) -> set[str]:
        return {url for url, links in self.links.items() if links}


def judged(_endpoint: Endpoint) -> str | None:
    return None


class Owner:
    """A channel and all it told."""

    def __init__(self, world: World, urls: Sequence[str], home: int = 2, topic: str = TOPIC) -> None:
        self.world = world
        self.events: list[Event] = []
        self.received: list[bytes] = []
        self.changes: list[tuple[str, ...]] = []
        self.channel = SignalChannel(
            world,
            topic,
            urls,
            home=home,
            timing=Timing(),
            on_envelope=self.received.append,
            emit=self.events.append,
            rng=random.Random(1),
            on_change=lambda: self.changes.append(self.homes),
            judge=judged,
        )

    @property
    def homes(self) -> tuple[str, ...]:
        return tuple(ref.url for ref in self.channel.brokers)

    def told(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def __aenter__(self) -> Owner:
        self.world.channels += 1
        self.channel.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        before = asyncio.get_running_loop().time()
        await self.channel.close()
        assert asyncio.get_running_loop().time() - before < 0.1
        self.world.channels -= 1
        if not self.world.channels:
            assert len(asyncio.all_tasks()) == 1, "a task outlives its channel"
            assert not self.world.up(), "a link outlives its channel"


async def pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


def test_the_fastest_are_chosen_and_the_others_let_go() -> None:
    async def story() -> None:
        world = World(a=0.08, b=0.01, c=0.05, d=0.02)
        async with Owner(world, [A, B, C, D]) as me:
            assert await me.channel.first_home(1.5)
            assert me.homes == (B, D)
            assert [ref.rtt for ref in me.channel.brokers] == [0.01, 0.02]
            await pause(1)
            assert world.up() == {B, D}
            assert me.changes == [(B, D)], "chosen once, not one by one"

    run_virtual(story())


def test_slow_and_silent_brokers_are_not_waited_for() -> None:
    async def story() -> None:
        world = World(a=0.02, b=0.03, c=1.0, d=1.0)
        world.silent = {D}
        async with Owner(world, [A, B, C, D]) as me:
            before = asyncio.get_running_loop().time()
            assert await me.channel.first_home(1.5)
            assert asyncio.get_running_loop().time() - before < 0.2
            assert me.homes == (A, B)

    run_virtual(story())


def test_with_no_choice_the_first_answer_is_a_home_at_once() -> None:
    async def story() -> None:
        world = World(a=0.5, b=0.01)
        async with Owner(world, [A, B]) as me:
            before = asyncio.get_running_loop().time()
            assert await me.channel.first_home(1.5)
            assert asyncio.get_running_loop().time() - before == pytest.approx(0.03)
            assert me.homes == (B,)
            await pause(2)
            assert me.changes == [(B,), (B, A)], "the address grows, nothing is taken from it"

    run_virtual(story())


def test_offline_the_wait_is_over_when_all_have_failed() -> None:
    async def story() -> None:
        world = World(a=1, b=1, c=1, d=1, e=1, f=1)
        world.refusing = {A, B, C, D, E, F}
        async with Owner(world, [A, B, C, D, E, F]) as me:
            before = asyncio.get_running_loop().time()
            assert not await me.channel.first_home(1.5)
            assert asyncio.get_running_loop().time() == before
            assert {event.server for event in me.told(ServerFailed)} == world.refusing

    run_virtual(story())


def test_a_broker_that_was_away_for_a_day_is_found_again() -> None:
    async def story() -> None:
        world = World(a=0.02)
        world.refusing = {A}
        async with Owner(world, [A]) as me:
            await pause(86_400)
            assert me.channel.brokers == ()
            assert [broker.url for broker in me.channel.for_address] == [A]
            world.refusing = set()
            await pause(61)
            assert me.homes == (A,)

    run_virtual(story(), limit=1e6)


def test_no_brokers_at_all() -> None:
    async def story() -> None:
        async with Owner(World(), []) as me:
            assert not await me.channel.first_home(1.5)
            assert me.channel.one_way([BrokerRef(A, 0.1)]) is None

    run_virtual(story())


def test_a_wait_has_its_limit() -> None:
    async def story() -> None:
        world = World(a=0.1)
        world.silent = {A}
        async with Owner(world, [A]) as me:
            before = asyncio.get_running_loop().time()
            assert not await me.channel.first_home(1.5)
            assert asyncio.get_running_loop().time() - before == pytest.approx(1.5)

    run_virtual(story())


def test_reserves_stand_in_for_brokers_that_fail() -> None:
    async def story() -> None:
        world = World(a=0.01, b=0.01, c=0.01, d=0.01, e=0.01, f=0.02)
        world.refusing = {A, B, C, D}
        async with Owner(world, [A, B, C, D, E, F]) as me:
            assert await me.channel.first_home(1.5)
            await pause(1)
            assert me.homes == (E, F)
            assert world.up() == {E, F}

    run_virtual(story())


def test_a_dead_home_is_replaced_and_comes_back() -> None:
    async def story() -> None:
        world = World(a=0.01, b=0.02, c=0.03)
        async with Owner(world, [A, B, C]) as me:
            await me.channel.first_home(1.5)
            await pause(1)
            world.kill(A)
            await pause(0)
            await pause(1)
            assert me.homes == (B, C)
            world.refusing.clear()
            await pause(30)
            assert me.homes == (A, B), "who holds our old address finds us again"
            assert C in world.up(), "who holds the address in between still finds us for a while"
            await pause(70)
            assert world.up() == {A, B}

    run_virtual(story())


def test_reconnecting_backs_off_with_jitter_and_resubscribes() -> None:
    async def story() -> None:
        world = World(a=0.01)
        async with Owner(world, [A]) as me:
            await me.channel.first_home(1.5)
            await pause(100)
            world.dialled.clear()
            died = asyncio.get_running_loop().time()
            world.kill(A)
            await pause(600)
            at = [moment - died for moment, _ in world.dialled]
            gaps = [later - sooner for sooner, later in zip([0.0, *at], at, strict=False)]
            assert 0.5 <= gaps[0] <= 1.0
            assert max(gaps) <= 60
            assert gaps != sorted(gaps), "jittered"
            assert 10 <= len(gaps) <= 60
            world.refusing.clear()
            await pause(61)
            world.links[A][0].publish(TOPIC, b"hello again")
            assert me.received == [b"hello again"]

    run_virtual(story())


def test_a_broker_that_hangs_up_again_and_again_is_not_hammered() -> None:
    async def story() -> None:
        world = World(a=0.001)
        async with Owner(world, [A]) as me:
            await me.channel.first_home(1.5)
            for _ in range(600):
                world.kill(A, refusing=False)
                await pause(0.5)
            assert len(world.dialled) < 40

    run_virtual(story())


class HastyWorld(World):
    """Links take messages a round trip before they are up; `asked_twice`: the broker refuses the first one."""

    def __init__(self, asked_twice: bool) -> None:
        super().__init__(a=0.1)
        self.asked_twice = asked_twice
        self.carried: list[list[bytes]] = []

    async def connect(
        self,
        url: str,
        topic: str,
        on_message: Callable[[bytes], None],
        judge: Judge | None = None,
        on_step: Callable[[], None] = no_matter,
        on_open: Callable[[BrokerLink], None] = not_before,
    ) -> MemoryLink:
        for last in (False, True) if self.asked_twice else (True,):
            await asyncio.sleep(self.rtt[url])
            link = MemoryLink(self, url, topic, on_message)
            carried: list[bytes] = []
            self.carried.append(carried)
            link.publish = lambda _topic, data, carried=carried: carried.append(data)  # type: ignore[method-assign,misc]
            on_open(link)
            await asyncio.sleep(self.rtt[url])
            if not last:
                link.end("the broker closed the connection")
        return link


@pytest.mark.parametrize("asked_twice", [False, True])
def test_a_message_leaves_when_the_link_takes_it_and_the_link_that_is_kept_has_each_once(asked_twice: bool) -> None:
    async def story() -> None:
        world = HastyWorld(asked_twice)
        async with Owner(world, [A]) as me:
            assert me.channel.publish([A], "warpgate/2/you", b"at first") == 0
            await pause(0.15)
            assert world.carried == [[b"at first"]]
            assert me.channel.publish([A], "warpgate/2/you", b"while it opens") == 0, "it is not up yet"
            await pause(1)
            assert me.channel.publish([A], "warpgate/2/you", b"then") == 1
            all_of_it = [b"at first", b"while it opens", b"then"]
            assert world.carried == ([all_of_it[:2], all_of_it] if asked_twice else [all_of_it])

    run_virtual(story())


def test_publishing_reaches_live_brokers_in_the_same_tick() -> None:
    async def story() -> None:
        world = World(a=0.01, b=0.01)
        async with Owner(world, [A, B]) as me:
            await me.channel.first_home(1.5)
            await pause(1)
            assert me.channel.publish([A, B, A], "warpgate/2/you", b"offer") == 2
            assert world.published == [(A, "warpgate/2/you", b"offer"), (B, "warpgate/2/you", b"offer")]

    run_virtual(story())


def test_a_peers_broker_gets_a_guest_link_that_carries_the_answer_too_and_goes_when_idle() -> None:
    async def story() -> None:
        world = World(a=0.01, b=0.02)
        async with Owner(world, [A]) as me, Owner(world, [B], topic="warpgate/2/you") as you:
            await pause(1)
            before = asyncio.get_running_loop().time()
            assert me.channel.publish([B], "warpgate/2/you", b"offer") == 0
            assert me.channel.publish([B], "warpgate/2/you", b"more") == 0
            await pause(0.07)
            assert you.received == [b"offer", b"more"], "sent as soon as the link was up"
            assert me.channel.one_way([BrokerRef(B, 0.06)]) == pytest.approx(0.04)
            assert you.channel.publish([B], TOPIC, b"answer") == 1
            assert me.received == [b"answer"]
            assert me.homes == (A,), "a guest is not a home"
            await pause(59)
            assert len(world.links[B]) == 2
            await pause(3)
            assert len(world.links[B]) == 1
            assert me.channel.publish([B], "warpgate/2/you", b"later") == 0
            await pause(0.07)
            assert you.received[-1] == b"later"
            assert asyncio.get_running_loop().time() - before < 70

    run_virtual(story())


def test_what_cannot_be_sent_is_told_and_dropped() -> None:
    async def story() -> None:
        world = World(a=0.01, b=0.01)
        world.refusing = {B}
        async with Owner(world, [A]) as me:
            await pause(1)
            assert me.channel.publish([B, "gopher://x"], "warpgate/2/you", b"offer") == 0
            await pause(1)
            assert {event.server for event in me.told(ServerFailed)} == {B, "gopher://x"}
            assert "refused" in next(event.reason for event in me.told(ServerFailed) if event.server == B)
            world.refusing.clear()
            assert me.channel.publish([B], "warpgate/2/you", b"again") == 0
            await pause(1)
            assert world.published == [(B, "warpgate/2/you", b"again")], "not what is stale"

    run_virtual(story())


@pytest.mark.parametrize("message", [True, False])
def test_a_message_or_a_need_cuts_the_back_off_short_but_not_below_a_second(message: bool) -> None:
    def want(owner: Owner) -> None:
        if message:
            owner.channel.publish([A], "warpgate/2/you", b"offer")
        else:
            owner.channel.hurry()

    async def story() -> None:
        world = World(a=0.01)
        async with Owner(world, [A]) as me:
            await pause(100)
            world.kill(A)
            await pause(300)
            world.refusing.clear()
            world.dialled.clear()
            want(me)
            await pause(1.1)
            assert world.up() == {A}
            assert world.published == [(A, "warpgate/2/you", b"offer")] * message
            world.kill(A)
            world.dialled.clear()
            for _ in range(100):
                want(me)
                await pause(0.1)
            assert len(world.dialled) <= 10

    run_virtual(story())


def test_a_broker_that_answers_is_waited_for_however_far_it_is() -> None:
    async def story() -> None:
        world = World(a=2.5, b=4.9, c=5.1)
        async with Owner(world, [A, B, C], home=3) as me:
            await pause(16)
            assert me.homes == (A, B)
            assert {event.server for event in me.told(ServerFailed)} == {C}

    run_virtual(story())


def test_guests_are_bounded() -> None:
    async def story() -> None:
        names = [f"g{number}" for number in range(GUESTS + 1)]
        urls = [f"mqtt://{name}.example:1883" for name in names]
        world = World(**dict.fromkeys(names, 0.01))
        async with Owner(world, []) as me:
            for url in urls:
                me.channel.publish([url], "warpgate/2/you", b"offer")
            await pause(1)
            assert len(world.up()) == GUESTS
            assert "in use" in me.told(ServerFailed)[0].reason
            await pause(5)
            me.channel.publish([urls[0]], "warpgate/2/you", b"offer")
            me.channel.publish([urls[-1]], "warpgate/2/you", b"offer")
            await pause(1)
            assert world.up() == {*urls} - {urls[1]}, "the one unused for longest made room"

    run_virtual(story())


def test_brokers_of_peers_are_judged_and_our_own_are_not() -> None:
    async def story() -> None:
        world = World(a=0.01, b=0.01)
        async with Owner(world, [A]) as me:
            await pause(1)
            me.channel.publish([A, B], "warpgate/2/you", b"offer")
            await pause(1)
            assert world.judges == {A: None, B: judged}

    run_virtual(story())


def test_signalling_time_is_that_of_the_best_common_broker() -> None:
    async def story() -> None:
        world = World(a=0.02, b=0.10)
        async with Owner(world, [A, B]) as me:
            await pause(1)
            assert me.channel.one_way([BrokerRef(A, 0.20), BrokerRef(B, 0.04)]) == pytest.approx(0.07)
            assert me.channel.one_way([BrokerRef(A, None)]) == pytest.approx(0.02)
            assert me.channel.one_way([BrokerRef(C, 0.01)]) is None

    run_virtual(story())


def test_messages_too_large_are_dropped() -> None:
    async def story() -> None:
        world = World(a=0.01)
        async with Owner(world, [A]) as me:
            await pause(1)
            for size in (4097, 4096):
                world.links[A][0].publish(TOPIC, bytes(size))
            assert [len(data) for data in me.received] == [4096]

    run_virtual(story())


def test_after_a_change_of_networks_everything_is_dialled_anew_at_once() -> None:
    async def story() -> None:
        world = World(a=0.01, b=0.01)
        async with Owner(world, [A, B]) as me:
            await pause(100)
            world.dialled.clear()
            now = asyncio.get_running_loop().time()
            me.channel.reconnect()
            await pause(0.1)
            assert world.dialled == [(now, A), (now, B)]
            assert world.up() == {A, B}
            assert me.changes[-1] == (A, B)
            assert not me.told(ServerFailed)

    run_virtual(story())


@pytest.mark.parametrize("fate", ["silent", "refusing"])
def test_a_change_of_networks_ends_the_dialling_and_the_waiting_of_before(fate: str) -> None:
    """What was begun in a network that led nowhere is not waited for in the next one."""

    async def story() -> None:
        world = World(a=0.01)
        getattr(world, fate).add(A)
        async with Owner(world, [A]) as me:
            await pause(0.2)
            getattr(world, fate).clear()
            world.dialled.clear()
            now = asyncio.get_running_loop().time()
            me.channel.publish([A], "warpgate/2/you", b"offer")
            me.channel.reconnect()
            await pause(0.1)
            assert world.dialled == [(now, A)]
            assert world.published == [(A, "warpgate/2/you", b"offer")]

    run_virtual(story())


def test_what_was_dialled_a_moment_ago_may_be_of_the_network_of_now() -> None:
    async def story() -> None:
        world = World(a=0.01, b=0.01)
        async with Owner(world, [A, B]) as me:
            await pause(100)
            world.kill(A, refusing=False)
            await pause(2)
            assert world.up() == {A, B}
            world.dialled.clear()
            me.channel.reconnect(young=3.0)
            await pause(0.1)
            assert [url for _, url in world.dialled] == [B]

    run_virtual(story())


def test_a_link_that_comes_up_in_the_tick_in_which_it_is_let_go_is_closed() -> None:
    async def story() -> None:
        world = World(a=0.05, b=0.05, c=0.01)  # c has settled it by then
        async with Owner(world, [A, B, C]) as me:
            await pause(1)
            assert world.up() == set(me.homes)
            assert len(me.homes) == 2

    run_virtual(story())


# -- another list ------------------------------------------------------------------------------------------------


def test_live_homes_stay_whatever_the_next_list_names() -> None:
    async def story() -> None:
        world = World(a=0.05, b=0.05, c=0.01, d=0.01)
        async with Owner(world, [A, B]) as me:
            await me.channel.first_home(1)
            await pause(1)
            me.channel.follow([C, D])
            await pause(600)
            assert me.homes == (A, B)
            assert world.up() == {A, B}, "nobody else is needed"
            assert len(me.changes) == 2, "the address has not changed"

    run_virtual(story())


def test_a_home_that_has_left_the_list_is_let_go_when_it_is_dead_and_another_lives() -> None:
    async def story() -> None:
        world = World(a=0.05, b=0.05, c=0.01)
        async with Owner(world, [A, B]) as me:
            await me.channel.first_home(1)
            await pause(1)
            me.channel.follow([B, C])
            world.kill(A)
            await pause(5)
            assert me.homes == (B, C)
            dialled = [url for _, url in world.dialled]
            await pause(600)
            assert [url for _, url in world.dialled] == dialled, "nobody calls A again"

    run_virtual(story())


def test_a_dead_home_that_has_left_the_list_is_let_go_at_once() -> None:
    async def story() -> None:
        world = World(a=0.05, b=0.05, c=0.01)
        async with Owner(world, [A, B, C]) as me:
            await me.channel.first_home(1)
            await pause(1)
            world.kill(A)
            await pause(5)
            assert set(me.homes) == {B, C}
            me.channel.follow([C, B])
            assert all(keeper.live for keeper in me.channel._keepers.values())
            await pause(600)
            assert set(me.homes) == {B, C}

    run_virtual(story())


def test_with_a_list_of_dead_brokers_a_node_stays_at_its_homes_and_returns_to_them() -> None:
    async def story() -> None:
        world = World(a=0.05, b=0.05)
        world.refusing = {C, D}
        async with Owner(world, [A, B]) as me:
            await me.channel.first_home(1)
            await pause(1)
            me.channel.follow([C, D])
            for home in (A, B):
                world.kill(home)
            await pause(120)
            assert me.homes == ()
            world.refusing = {C, D}
            await pause(70)
            assert set(me.homes) == {A, B}
            me.channel.reconnect()
            await pause(1)
            assert set(me.homes) == {A, B}

    run_virtual(story())


def test_a_shorter_list_makes_no_home_a_guest_and_a_longer_one_fills_what_lacks() -> None:
    async def story() -> None:
        world = World(a=0.05, b=0.05, c=0.01)
        async with Owner(world, [A, B]) as me:
            await me.channel.first_home(1)
            await pause(1)
            me.channel.follow([C])
            await pause(200)
            assert set(me.homes) == {A, B}
            world.kill(A)
            await pause(5)
            assert me.homes == (B, C)
        async with Owner(world, [C]) as me:
            await me.channel.first_home(1)
            assert me.homes == (C,)
            me.channel.follow([C, B])
            await pause(1)
            assert me.homes == (C, B)

    run_virtual(story())


def test_a_node_that_reaches_nobody_goes_to_the_brokers_of_the_next_list() -> None:
    async def story() -> None:
        world = World(c=0.05, d=0.05)
        world.refusing, world.silent = {A}, {B}
        async with Owner(world, [A, B]) as me:
            await pause(20)
            me.channel.follow([C, D])
            await pause(1)
            assert set(me.homes) == {C, D}
            assert world.up() == {C, D}
            await pause(100)
            calls = len(world.dialled)
            await pause(600)
            assert len(world.dialled) == calls, "the list of before is called no more"

    run_virtual(story())


def test_an_offer_that_waits_for_a_broker_goes_out_though_that_leaves_the_list() -> None:
    """A connect in the middle of the change: the broker is the peer's, and was a candidate of ours."""

    async def story() -> None:
        world = World(a=0.2, b=0.2, c=0.01, d=0.01)
        async with Owner(world, [A, B]) as me, Owner(world, [A], topic="warpgate/2/you") as you:
            await pause(0.1)
            me.channel.publish([A], "warpgate/2/you", b"offer")
            me.channel.follow([C, D])
            await pause(1)
            assert you.received == [b"offer"]
            assert set(me.homes) == {C, D}
            await pause(100)
            assert world.links[A][0].topic == "warpgate/2/you"
            assert len(world.links[A]) == 1

    run_virtual(story())


def test_events_tell_of_connections() -> None:
    async def story() -> None:
        async with Owner(World(a=0.01), [A]) as me:
            await me.channel.first_home(1)
            assert me.told(BrokerConnected) == [BrokerConnected(A, 0.01)]

    run_virtual(story())


def test_nonsense_is_refused_before_anything_starts() -> None:
    async def story() -> None:
        with pytest.raises(ConfigError):
            Owner(World(), ["gopher://a.example"])

    run_virtual(story())


@pytest.mark.parametrize("moment", [0.0, 0.005, 0.0299, 0.03, 0.0301, 0.04, 0.06, 0.1, 1.0])
def test_closing_at_any_moment_leaves_nothing_behind(moment: float) -> None:
    async def story() -> None:
        world = World(a=0.01, b=0.02, c=0.01, d=0.01)
        world.silent, world.refusing = {C}, {D}
        async with Owner(world, [A, B, C, D]) as me:
            me.channel.publish([E], "warpgate/2/you", b"offer") if moment > 0.05 else None
            world.rtt[E] = 0.02
            await pause(moment)

    run_virtual(story())
