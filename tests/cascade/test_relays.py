"""Whole nodes over a TURN server, in virtual time: when a relay is used, what it costs, and that it lasts."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from cascade_world import (
    HOP,
    OVER_TCP,
    OVER_UDP,
    Options,
    R,
    S,
    World,
    connected,
    ends,
    exchange,
    hosted_by,
    virtual,
)

from warpgate.config import Config, Timing
from warpgate.errors import RELAY_ADVICE, AttemptFailed, ConnectFailed
from warpgate.events import Event, ServerFailed
from warpgate.model.endpoint import Endpoint, Family, Mode
from warpgate.net.reach import ATTEMPT_DELAY
from warpgate.services.relay import Relays
from warpgate.services.relay_allocation import Allocation
from warpgate.services.relay_carrier import UdpCarrier
from warpgate_testing.internet import MemoryInternet, OpenSocket
from warpgate_testing.turn import MemoryTurn

TURN = "turn:user:password@203.0.113.5:3478"
HOUR = 3600.0
BROKER_PORT = 1883
EITHER = [pytest.param(OVER_UDP, id="udp"), pytest.param(OVER_TCP, id="tcp")]


class RelayWorld(World):
    """A world with a TURN server, which a, b or both know."""

    def __init__(
        self,
        *kinds: str,
        a: bool = True,
        b: bool = True,
        server: str = TURN,
        port: int = 3478,
        **options: Any,
    ) -> None:
        known = Config(turn=(server,))
        super().__init__(*kinds, config_a=known if a else Config(), config_b=known if b else Config(), **options)
        self.turn_host = self.internet.host("turn", "203.0.113.5", "2001:db8:5::5")
        self.turn = MemoryTurn(self.turn_host, Endpoint.of("203.0.113.5", port))

    async def close(self) -> None:
        await super().close()
        await self.turn.close()

    def strays(self) -> list[OpenSocket]:
        carriers = [allocation._carrier for allocation in self.reserves if allocation.mapped]
        kept = {carrier._socket.local for carrier in carriers if isinstance(carrier, UdpCarrier)}
        return [entry for entry in super().strays() if entry.host != "turn" and entry.local not in kept]

    @property
    def reserves(self) -> list[Allocation]:
        """What the nodes hold without using it."""
        tasks = [seat.run.relays._reserve for seat in (self.a, self.b) if seat.node._running is not None]
        return [task.result() for task in tasks if task is not None and task.done() and not task.exception()]

    @property
    def in_use(self) -> list[Endpoint]:
        """The clients of allocations that are nobody's reserve."""
        kept = {allocation.mapped for allocation in self.reserves}
        return [client for client in self.turn.allocations if client not in kept]

    async def given_back(self) -> None:
        """Nothing is allocated any more but reserves, soon after nobody needs it."""
        async with asyncio.timeout(30.0):
            while self.in_use:  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.1)


# The allocation is there, in reserve; then one signal, and the peer's first check by the relay.
DATAGRAM = S + 2 * HOP
# Here a log-in is refused first, over TCP: so an allocation takes 3 R.
# The peer's call reaches the relay (R + r), the relay tells us (r), and a prepared connection is bound to it (R).
STREAM = 3 * R + S + (R + HOP) + HOP + R


@pytest.mark.parametrize(("options", "expected"), [(OVER_UDP, DATAGRAM), (OVER_TCP, STREAM)])
def test_two_random_nats_meet_at_the_initiators_relay_without_waiting(options: Options, expected: float) -> None:
    async def story() -> None:
        async with RelayWorld("edm", "edm") as world:
            near, far, seconds = await connected(world, **options)
            assert (near.plugin, near.relayed, far.relayed) == ("turn", True, True)
            assert seconds == pytest.approx(expected, abs=HOP)
            await exchange(near, far)
            assert len(world.in_use) == 1  # one relay is enough
            assert world.a.signals()["offer"] <= 3
            await near.close()
            await far.close()
            await world.given_back()
            await world.quiet()

    virtual(story)


HOPELESS = [("edm", "edm"), ("edm", "edm-seq"), ("edm-block", "edm-block"), ("edm-block", "edm-seq")]


@pytest.mark.parametrize("settle", [0.0, 0.3])
@pytest.mark.parametrize("kinds", HOPELESS)
@pytest.mark.parametrize(("options", "expected"), [(OVER_UDP, DATAGRAM), (OVER_TCP, STREAM)])
def test_just_after_the_start_nothing_is_waited_for_either(
    options: Options, expected: float, kinds: tuple[str, str], settle: float
) -> None:
    """Whether either side's ports are random is not known yet when the address is given, but soon enough."""

    async def story() -> None:
        async with RelayWorld(*kinds, settle=settle) as world:
            near, far, seconds = await connected(world, **options)
            assert (near.plugin, near.relayed, far.relayed) == ("turn", True, True)
            assert seconds < min(0.4, expected + S + 2 * R)
            await exchange(near, far)

    virtual(story)


# Masquerading routers that let no datagram out, and TCP to brokers and to the relay only.
NOTHING_OUT = "masquerade+noudp+no-tcp"


@pytest.mark.parametrize("options", EITHER)
@pytest.mark.parametrize(
    ("kinds", "limit"),
    [((NOTHING_OUT, NOTHING_OUT), 0.5), ((NOTHING_OUT, "eim"), 0.6), (("public", NOTHING_OUT), 0.6)],
)
def test_where_nothing_but_the_relay_has_answered_it_is_hardly_waited(
    kinds: tuple[str, str], limit: float, options: Options
) -> None:
    async def story() -> None:
        server = f"turn:user:password@203.0.113.5:{BROKER_PORT}?transport=tcp"
        async with RelayWorld(*kinds, server=server, port=BROKER_PORT) as world:
            near, far, seconds = await connected(world, **options)
            assert (near.plugin, near.relayed) == ("turn", True)
            assert seconds < limit
            await exchange(near, far)

    virtual(story)


@pytest.mark.parametrize("kinds", [("udp-blocked", "public"), ("public", "udp-blocked")])
def test_an_open_port_is_no_hope_where_no_datagram_gets_out(kinds: tuple[str, str]) -> None:
    async def story() -> None:
        async with RelayWorld(*kinds) as world:
            near, _, seconds = await connected(world, **OVER_UDP)
            assert near.relayed
            assert seconds < 0.5

    virtual(story)


@pytest.mark.parametrize("kinds", [("edm-seq", "edm-seq-2"), ("edm-seq", "eim-apdf"), ("edm-block", "eim-apdf")])
@pytest.mark.parametrize("options", EITHER)
def test_what_can_be_predicted_is_not_relayed(kinds: tuple[str, str], options: Options) -> None:
    """Blocks are guessed over UDP only."""

    async def story() -> None:
        async with RelayWorld(*kinds, seed=2) as world:
            near, far, seconds = await connected(world, **options)
            guessed = kinds[0] == "edm-block" and options is OVER_TCP
            assert near.relayed is guessed
            assert seconds < 1.0
            await exchange(near, far)

    virtual(story)


@pytest.mark.parametrize("options", EITHER)
def test_when_the_direct_strategies_have_failed_the_relay_waits_no_longer(options: Options) -> None:
    async def story() -> None:
        async with RelayWorld("eim", "eim") as world:
            near, _, seconds = await connected(world, **options, plugins=["direct", "turn"])
            assert (near.plugin, near.relayed) == ("turn", True)
            assert seconds < 0.5

    virtual(story)


@pytest.mark.parametrize("options", EITHER)
def test_either_sides_relay_serves(options: Options) -> None:
    async def story() -> None:
        async with RelayWorld("edm", "edm", a=False) as world:
            near, far, seconds = await connected(world, **options)
            assert (near.plugin, near.relayed, far.relayed) == ("turn", True, True)
            assert seconds < 0.5
            await exchange(near, far)

    virtual(story)


@pytest.mark.parametrize("options", EITHER)
@pytest.mark.parametrize(("a", "b"), [("udp-blocked", "edm"), ("edm", "udp-blocked"), ("udp-blocked", "udp-blocked")])
def test_without_udp_the_relay_is_reached_over_tcp(a: str, b: str, options: Options) -> None:
    async def story() -> None:
        async with RelayWorld(a, b) as world:
            near, far, seconds = await connected(world, **options)
            assert near.relayed or near.plugin == "tcp_punch"
            assert seconds < 1.0
            await exchange(near, far)

    virtual(story)


def test_a_direct_link_is_waited_for_and_the_relay_given_back() -> None:
    async def story() -> None:
        async with RelayWorld("eim", "eim") as world:
            near, far, seconds = await connected(world, **OVER_UDP)
            assert (near.plugin, near.relayed) == ("udp_punch", False)
            assert seconds < 0.1
            await exchange(near, far)
            await world.given_back()

    virtual(story)


def test_where_a_direct_link_could_be_the_relay_waits_its_second() -> None:
    async def story() -> None:
        # Nothing is known of the NATs, and the two cannot hear each other.
        async with RelayWorld("eim", "eim") as world:
            world.internet.partition(world.routers["a"], world.routers["b"])
            near, far, seconds = await connected(world, **OVER_UDP)
            assert (near.plugin, near.relayed) == ("turn", True)
            assert seconds == pytest.approx(1.0, abs=0.01)
            await exchange(near, far)

    virtual(story)


@pytest.mark.parametrize("kinds", [("udp-blocked", "public"), ("public", "udp-blocked")])
def test_where_no_datagram_gets_out_no_port_is_waited_for(kinds: tuple[str, str]) -> None:
    """A program that has just started: TCP has been answered, and that UDP is blocked is said after 4 s."""

    async def story() -> None:
        async with RelayWorld(*kinds, settle=0.3) as world:
            sites = [world.routers.get(name, world.hosts[name]) for name in "ab"]
            world.internet.partition(*sites)
            near, far, seconds = await connected(world)
            assert (near.plugin, near.relayed) == ("turn", True)
            assert seconds == pytest.approx(1.0, abs=0.01)
            await exchange(near, far)

    virtual(story)


@pytest.mark.parametrize("kinds", [("edm", "eim-apdf"), ("eim-apdf", "edm")])
def test_a_plain_pipe_waits_for_a_port_that_is_searched_for(kinds: tuple[str, str]) -> None:
    """It would stay on the relay. Of all searches 86 % are over within `search_patience`, a third within a second."""

    async def story(seed: int) -> tuple[bool, float]:
        async with RelayWorld(*kinds, seed=seed, settle=1.0) as world:
            near, far, seconds = await connected(world)
            await exchange(near, far)
            return near.relayed, seconds

    found = [virtual(lambda seed=seed: story(seed)) for seed in range(12)]  # type: ignore[misc]
    assert [relayed for relayed, _ in found].count(False) >= 9
    assert len([seconds for relayed, seconds in found if not relayed and seconds > 1.0]) >= 3
    assert max(seconds for _, seconds in found) < Timing().search_patience + 0.1


def test_a_search_that_finds_nothing_holds_up_the_relay_for_its_patience_alone() -> None:
    async def story() -> None:
        async with RelayWorld("edm", "eim-apdf", settle=1.0) as world:
            world.internet.partition(world.routers["a"], world.routers["b"])
            near, far, seconds = await connected(world)
            assert (near.plugin, near.relayed) == ("turn", True)
            assert seconds == pytest.approx(Timing().search_patience, abs=0.01)
            await exchange(near, far)

    virtual(story)


@pytest.mark.parametrize(
    ("how", "talk"),
    [
        ("?transport=udp", "nobody"),
        ("?transport=udp", "near"),
        ("?transport=udp", "far"),
        ("?transport=tcp", "far"),
    ],
)
def test_a_relayed_datagram_pipe_lives_for_hours(how: str, talk: str) -> None:
    async def story() -> None:
        async with RelayWorld("edm", "edm", server=TURN + how) as world:
            near, far, _ = await connected(world, **OVER_UDP)
            await asyncio.sleep(5)
            world.turn.dropped.clear()
            speaker, listener = (near, far) if talk == "near" else (far, near)
            for _ in range(3 * 60):
                if talk != "nobody":
                    await speaker.send(b"tick")
                    assert await listener.recv(timeout=5) == b"tick"
                await asyncio.sleep(60)
            assert world.now > 3 * HOUR
            await exchange(near, far)
            assert dict(world.turn.dropped) == {}
            assert world.turn.requests["ALLOCATE"] < 10

    virtual(story, limit=7 * HOUR)


def test_a_relayed_stream_lives_for_hours_and_ends_with_its_pipe() -> None:
    async def story() -> None:
        async with RelayWorld("edm", "edm") as world:
            near, far, _ = await connected(world, **OVER_TCP)
            for _ in range(3):
                await asyncio.sleep(HOUR)
                await exchange(near, far)
            assert len(world.in_use) == 1
            await near.send(b"x" * 100_000)
            await near.close()
            received = b""
            while data := await far.recv():
                received += data
            assert len(received) == 100_000
            await far.close()
            await world.given_back()

    virtual(story, limit=7 * HOUR)


@pytest.mark.parametrize("options", EITHER)
def test_a_relay_that_dies_ends_the_pipe(options: Options) -> None:
    async def story() -> None:
        async with RelayWorld("edm", "edm") as world:
            near, far, _ = await connected(world, **options)
            world.turn_host.crash()
            assert all(await asyncio.gather(ends(near), ends(far)))
            world.turn_host.boot()

    virtual(story, limit=HOUR)


@pytest.mark.parametrize("options", EITHER)
@pytest.mark.parametrize("after", [0.03, 0.09, 0.13, 0.19, 0.25])
def test_an_attempt_that_is_cancelled_leaves_nothing_allocated(after: float, options: Options) -> None:
    async def story() -> None:
        async with RelayWorld("edm", "edm") as world:
            attempt = asyncio.ensure_future(world.a.node.connect(world.b.node.address, **options))
            await asyncio.sleep(after)
            attempt.cancel()
            await asyncio.wait([attempt])
            if not attempt.cancelled():  # it was just done
                await attempt.result().close()
            await asyncio.sleep(40)
            assert world.in_use == []
            await world.quiet()

    virtual(story)


def test_without_any_relay_the_reason_is_told() -> None:
    async def story() -> None:
        async with RelayWorld("edm", "edm", a=False, b=False) as world:
            with pytest.raises(ConnectFailed) as failed:
                await world.a.node.connect(world.b.node.address, plugins=["turn"], mode=Mode.DATAGRAM)
            assert "no TURN server is configured, and the peer offers none" in str(failed.value)
            assert str(failed.value).endswith(f"these two need a relay, and neither has one: {RELAY_ADVICE}")

    virtual(story)


@pytest.mark.parametrize("durable", [False, True])
def test_a_pair_that_needs_a_relay_is_told_how_to_get_one(durable: bool) -> None:
    """Once, whatever was tried."""

    async def story() -> None:
        async with RelayWorld("edm", "edm", a=False, b=False) as world:
            with pytest.raises(ConnectFailed) as failed:
                await world.a.node.connect(world.b.node.address, durable=durable)
            assert failed.value.relay_needed
            assert str(failed.value).count(RELAY_ADVICE) == 1

    virtual(story)


def test_a_peer_that_is_away_needs_no_relay() -> None:
    async def story() -> None:
        async with RelayWorld("edm", "edm", a=False, b=False) as world:
            address = world.b.node.address
            await world.b.node.close()
            with pytest.raises(ConnectFailed) as failed:
                await world.a.node.connect(address, mode=Mode.DATAGRAM)
            assert not failed.value.relay_needed
            assert RELAY_ADVICE not in str(failed.value)

    virtual(story)


def test_who_has_no_relay_is_told_so_when_another_strategy_has_won() -> None:
    async def story() -> None:
        async with RelayWorld("eim", "eim", a=False, b=False) as world:
            near, _, _ = await connected(world, **OVER_UDP)
            rows = {row.plugin: row.reason for row in near.report}
            assert rows["turn"] == "no TURN server is configured here"

    virtual(story)


def test_a_wrong_password_is_told() -> None:
    async def story() -> None:
        async with RelayWorld("edm", "edm", b=False, server="turn:user:wrong@203.0.113.5:3478") as world:
            with pytest.raises(ConnectFailed) as failed:
                await world.a.node.connect(world.b.node.address, plugins=["turn"], mode=Mode.DATAGRAM, timeout=0.5)
            notes = [text for row in failed.value.report for _, text in row.notes]
            assert any("does not accept the user name or password (error 401" in note for note in notes)
            assert "wrong" not in str(notes)

    virtual(story)


def test_a_peer_cannot_aim_us_at_third_parties_for_long() -> None:
    async def story() -> None:
        async with RelayWorld("edm", "edm") as world:
            context = world.a.run.context
            seats = [hosted_by(world.a, number, world.b.node.public_key) for number in range(8)]
            first = seats[0].relays
            for text in ("192.168.7.7:50000", "127.0.0.1:50000", "224.0.0.1:50000", "203.0.113.77:53"):
                with pytest.raises(AttemptFailed):
                    first.admit([Endpoint.parse(text)])
            victims = [Endpoint.parse(f"203.0.113.77:{50000 + number}") for number in range(9)]
            assert len(first.admit(victims)) == 4  # and never more in this session
            assert first.admit(victims[:1]) == (victims[0],)
            admitted = 0
            for seat in seats[1:]:
                with contextlib.suppress(AttemptFailed):
                    admitted += len(seat.relays.admit(victims))
            assert admitted <= 4 * context.config.budgets.relay_targets_per_second
            for seat in seats:
                seat.close()

    virtual(story)


def seconds_to_allocate(*addresses: str) -> float:
    """From a server at the last of these; nobody listens at the others."""

    async def story() -> float:
        internet = MemoryInternet()
        client = internet.host("client", "203.0.113.2")
        hosts = [internet.host(f"h{address}", address) for address in addresses]
        turn = MemoryTurn(hosts[-1], Endpoint.of(addresses[-1], 3478))
        internet.name("turn.test", *addresses)
        relays = Relays(client, ["turn:user:password@turn.test:3478?transport=tcp"], lambda _: None)
        began = asyncio.get_running_loop().time()
        (await relays.open_udp([Family.V4])).drop()
        seconds = asyncio.get_running_loop().time() - began
        await relays.close()
        await turn.close()
        return seconds

    return virtual(story)


def test_an_address_that_refuses_makes_room_for_the_next_at_once() -> None:
    refused_first = seconds_to_allocate("203.0.113.5", "203.0.113.6")
    assert refused_first - seconds_to_allocate("203.0.113.6") < ATTEMPT_DELAY / 2  # the refusal's round trip


def test_a_server_without_ipv4_is_asked_for_ipv6_alone() -> None:
    """Of both families IPv4 is asked for first: the reserve was refused, and with it whoever waited for that."""

    async def story() -> None:
        internet = MemoryInternet()
        client = internet.host("client", "2001:db8:1::2")
        turn = MemoryTurn(internet.host("turn", "2001:db8:5::5"), Endpoint.of("2001:db8:5::5", 3478))
        told: list[Event] = []
        relays = Relays(client, ["turn:user:password@[2001:db8:5::5]:3478?transport=udp"], told.append)
        relays.stock()
        allocation = await relays.open_udp([Family.V6])
        assert [relayed.family for relayed in allocation.relayed] == [Family.V6]
        assert not [event for event in told if isinstance(event, ServerFailed)]
        allocation.drop()
        await relays.close()
        await turn.close()

    virtual(story)
