"""Through NATs that give each destination another port, in virtual time: when, how, and within which budgets."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import replace
from functools import partial
from unittest import mock

import pytest
from cascade_world import (
    BOTH_WAYS,
    FINGERPRINTED,
    HOP,
    OVER_TCP,
    OVER_UDP,
    Options,
    R,
    S,
    World,
    connected,
    exchange,
    virtual,
)

from warpgate.config import Budgets, Config
from warpgate.core.search.attempt import PluginAttempt
from warpgate.errors import ConnectFailed
from warpgate.events import Event, PathChosen, PluginEnded, PluginNoted, PluginSkipped, SignalRefused
from warpgate.lab.kinds import BLOCK, EDM, KINDS, Layer
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.model.nat import Assignment, Filtering, PortAssignment
from warpgate.plan.birthday import Guessing, Part
from warpgate.plugins.base import Attempt
from warpgate.plugins.guesses import MEET, OPEN, OPENED, Guess, endpoint_of
from warpgate.plugins.random_probe import RandomProbe

STUN = R  # one round trip to a server
COUNTING = ["edm-seq", "edm-seq-2", "edm-seq-7", "edm-seq--1", "edm-seq--2"]
STRICT = ["eim-apdf", "eim-apdf+rst", "eim-apdf+accept", "firewalled", "masquerade"]


async def crossed(
    kind_a: str, kind_b: str, seed: int = 0, options: Options = OVER_UDP, settle: float = FINGERPRINTED
) -> tuple[str, float, int, int]:
    """The winner, the seconds, and the mappings that the attempt made on either router."""
    async with World(kind_a, kind_b, seed=seed, settle=settle) as world:
        before = [world.routers[name].counters().flows_created for name in ("a", "b")]
        one, other, waited = await connected(world, **options)
        await exchange(one, other)
        assert len(world.strays()) <= 2  # only the socket with the pipe is left, on either side
        after = [world.routers[name].counters().flows_created for name in ("a", "b")]
        await one.close()
        await other.close()
        await world.quiet()
        return one.plugin, waited, after[0] - before[0], after[1] - before[1]


@pytest.mark.parametrize("strict", STRICT)
@pytest.mark.parametrize("counting", COUNTING)
def test_a_nat_that_counts_is_predicted(counting: str, strict: str) -> None:
    plugin, waited, *_ = virtual(lambda: crossed(counting, strict))
    assert (plugin, waited) == ("udp_punch", pytest.approx(STUN + S + HOP + R, abs=1e-6))
    plugin, waited, *_ = virtual(lambda: crossed(strict, counting))
    assert plugin == "udp_punch"
    assert waited <= S + STUN + S + R + 1e-6


@pytest.mark.parametrize("strict", [*STRICT, "masquerade+accept"])
@pytest.mark.parametrize("counting", ["edm-seq", "edm-seq--2", "adm-seq-7"])
def test_a_nat_that_counts_is_predicted_over_tcp(counting: str, strict: str) -> None:
    """With SYNs that no router answers with RST: each finds the other's opened, or is silently dropped."""
    for kinds, signals in (((counting, strict), 1), ((strict, counting), 2)):
        plugin, waited, *_ = virtual(lambda kinds=kinds: crossed(*kinds, options=OVER_TCP))  # type: ignore[misc]
        # STUN over TCP takes 2 R; the SYNs meet half way; then HELLO.
        assert (plugin, waited) == (
            "tcp_punch",
            pytest.approx(signals * S + 2 * STUN + R + HOP, abs=HOP + 1e-6),
        )


@pytest.mark.parametrize("kinds", [("edm-seq", "eim-apdf"), ("eim-apdf", "edm-seq")])
def test_both_ends_agree_where_two_connections_come_through(kinds: tuple[str, str]) -> None:
    """As long as the filter is not known, both the listening port and the fresh one connect, and the predicted ports
    include both.
    """

    async def main() -> None:
        async with World(*kinds, settle=0.0) as world:
            assert {at.nat.filtering for at in world.b.node.address.attachments} == {Filtering.UNKNOWN}
            one, other, waited = await connected(world, **OVER_TCP)
            assert one.plugin == "tcp_punch"
            assert waited < 0.5
            await exchange(one, other)
            await one.close()
            await other.close()
            await world.quiet()

    virtual(main)


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize("kinds", [("edm-seq", "edm-seq"), ("edm-seq--1", "edm-seq-7"), ("adm-seq", "edm-seq-2")])
def test_two_nats_that_count_are_predicted(kinds: tuple[str, str], options: Options) -> None:
    plugin, waited, *_ = virtual(lambda: crossed(*kinds, options=options))
    assert plugin == ("udp_punch" if options is OVER_UDP else "tcp_punch")
    assert waited < 2 * S + 4 * STUN + 2 * R


@pytest.mark.parametrize("meanwhile", [0, 1, 2, 3])
def test_others_mappings_between_two_counts_do_no_harm(meanwhile: int) -> None:
    async def main() -> None:
        async with World("edm-seq", "edm-seq-2") as world:
            neighbour = world.internet.host("neighbour", "192.168.1.9", behind=world.routers["a"])
            sock = neighbour.open_udp(Endpoint.of("192.168.1.9", 999), lambda data, source: None)

            async def make_mappings() -> None:
                await asyncio.sleep(STUN + S)  # a has sampled and told
                for port in range(meanwhile):
                    sock.send(b"", ("203.0.113.9", 1000 + port))

            busy = asyncio.ensure_future(make_mappings())
            one, other, waited = await connected(world, **OVER_UDP)
            assert (one.plugin, waited) == ("udp_punch", pytest.approx(0.2, abs=0.01))
            await exchange(one, other)
            await busy
            sock.close()

    virtual(main)


@pytest.mark.parametrize("kinds", [("adm-adf", "edm"), ("edm", "adm-adf"), ("adm-adf-block", "edm-block")])
def test_a_mapping_for_a_whole_address_is_guessed_even_from_behind_such_a_nat(kinds: tuple[str, str]) -> None:
    plugin, waited, *_ = virtual(lambda: crossed(*kinds, seed=3))
    assert plugin == "random_probe"
    assert waited < 15.0


@pytest.mark.parametrize("seed", [25, 66])
def test_a_router_that_accepts_anything_is_not_made_to_move_the_searching_port(seed: int) -> None:
    """In these two runs the search came upon a mapping that an ordinary punch had aimed from."""
    for kinds in (("masquerade+accept", "edm-block"), ("edm-block", "masquerade+accept")):
        plugin, waited, *_ = virtual(lambda kinds=kinds: crossed(*kinds, seed, settle=1.0))  # type: ignore[misc]
        assert plugin == "random_probe"
        assert waited < 3.0


def test_what_is_known_of_a_nat_that_counts_is_enough_right_after_the_start() -> None:
    async def main() -> None:
        async with World("edm-seq", "eim-apdf", settle=0.0) as world:
            one, other, waited = await connected(world, **OVER_UDP)
            assert one.plugin == "udp_punch"
            assert waited < 0.5
            await exchange(one, other)

    virtual(main)


@pytest.mark.parametrize("strict", ["eim-apdf", "firewalled", "eim-apdf+accept"])
@pytest.mark.parametrize("seed", range(3))
def test_a_block_is_guessed(strict: str, seed: int) -> None:
    for kinds in (("edm-block", strict), (strict, "edm-block")):
        plugin, waited, a, b = virtual(lambda kinds=kinds: crossed(*kinds, seed))  # type: ignore[misc]
        assert plugin == "random_probe"
        assert waited < 3.0
        # 32 sockets on one router, probes at 100/s on the other, and a few of the punch's.
        assert max(a, b) <= max(40, 100 * waited + 10)


@pytest.mark.parametrize("kind", ["mape", "mape-1024", "mape+exclusive"])
@pytest.mark.parametrize("seed", range(3))
def test_a_port_set_is_guessed(kind: str, seed: int) -> None:
    """RFC 7597: the bits that all of a subscriber's ports have in common leave 240 or 1,008 of 64,512.

    The socket that is found may be one that an ordinary punch had opened.
    """
    for kinds in ((kind, "eim-apdf"), ("eim-apdf", kind)):
        plugin, waited, a, b = virtual(lambda kinds=kinds: crossed(*kinds, seed))  # type: ignore[misc]
        assert plugin in ("random_probe", "udp_punch")
        assert waited < 2.0
        assert max(a, b) <= max(40, 100 * waited + 10)


@pytest.mark.parametrize(
    "kinds",
    [
        ("mape", "mape"),
        ("mape+exclusive", "mape"),
        ("mape", "mape+accept"),
        ("edm-seq", "mape"),
        ("mape", "edm-seq--2"),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_two_port_sets_meet(kinds: tuple[str, str], seed: int) -> None:
    """Each side opens as many sockets as it has ports, all towards the one port that the other has named; or, when it
    counts, a few.
    """
    plugin, waited, a, b = virtual(lambda: crossed(*kinds, seed))
    assert plugin == "random_probe"
    assert waited < 4.0
    assert max(a, b) <= 256 + 30


SHAPES = {
    "lw4o6": replace(EDM, assignment=BLOCK, block_size=64, overloading=True),
    "offset 6": replace(EDM, assignment=PortAssignment(Assignment.BLOCK, fixed=0x03FC), overloading=True),
    "15 ports": replace(EDM, assignment=PortAssignment(Assignment.BLOCK, fixed=0x0FFF), overloading=True),
}


@pytest.mark.parametrize("kinds", [("lw4o6", "offset 6"), ("15 ports", "lw4o6"), ("offset 6", "eim-apdf")])
def test_port_sets_of_other_shapes_are_crossed(kinds: tuple[str, str]) -> None:
    """RFC 7597 with a PSID behind 6 bits, and one of 12 bits; RFC 7596, whose sets are contiguous."""
    with mock.patch.dict(KINDS, {name: (Layer(nat, None),) for name, nat in SHAPES.items()}):
        plugin, waited, *_ = virtual(lambda: crossed(*kinds))
    assert plugin in ("random_probe", "udp_punch")
    assert waited < 4.0


@pytest.mark.parametrize(("kinds", "held_by"), [(("mape", "mape"), "a"), (("edm-seq", "mape"), "b")])
def test_where_a_router_still_holds_the_port_that_was_named_another_is(kinds: tuple[str, str], held_by: str) -> None:
    """All ports of a set are in use towards the first port that the other side names: an attempt of half a minute ago,
    by a program that has forgotten it.
    """

    async def main() -> None:
        async with World(*kinds) as world:
            host, ip = world.hosts[held_by], getattr(world, held_by).node.address.attachments[0].host
            socks = [host.open_udp(Endpoint(ip, 9000 + n), lambda data, source: None) for n in range(256)]
            told: list[Endpoint] = []

            def tells(attempt: Attempt, message: Guess) -> None:
                ours = attempt.initiator is (held_by == "a")
                if isinstance(message, Guess) and message.target and not ours and not told:
                    told.append(Endpoint.parse(message.target))
                    for sock in socks:
                        sock.send(b"", told[0].sockaddr)
                signal(attempt, message)

            signal = PluginAttempt.signal
            with mock.patch.object(PluginAttempt, "signal", tells):
                one, other, waited = await connected(world, **OVER_UDP)
            assert one.plugin == "random_probe"
            assert told
            assert 3.0 < waited < 7.0
            await exchange(one, other)
            for sock in socks:
                sock.close()
            await one.close()
            await other.close()
            await world.quiet()

    virtual(main)


@pytest.mark.parametrize("kind", ["edm-peraddr", "edm-parity", "edm-busy"])
def test_what_is_known_of_ports_shortens_the_search(kind: str) -> None:
    """A count for each address: one port in 128 is enough; parity: half of the ports; others' mappings: a window."""
    for kinds in ((kind, "eim-apdf"), ("eim-apdf", kind)):
        done = [virtual(lambda seed=seed, kinds=kinds: crossed(*kinds, seed)) for seed in range(5)]  # type: ignore[misc]
        assert max(waited for _, waited, *_ in done) < (9.0 if kind == "edm-parity" else 6.5)


@pytest.mark.parametrize("kinds", [("edm-pool", "eim-apdf"), ("eim-apdf", "edm-pool"), ("edm-pool", "eim-adf")])
def test_the_other_addresses_of_a_pool_are_searched_as_well(kinds: tuple[str, str]) -> None:
    async def main() -> None:
        async with World(*kinds, seed=5) as world:
            assert len(world.a.node.address.attachments[0].pool or world.b.node.address.attachments[0].pool) >= 2
            one, other, _ = await connected(world, **OVER_UDP)
            await exchange(one, other)

    virtual(main)


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kinds", [("edm-pool", "eim-adf"), ("eim-adf", "edm-pool")], ids="-".join)
def test_a_filter_by_address_is_opened_to_a_whole_pool(kinds: tuple[str, str], seed: int, options: Options) -> None:
    plugin, waited, *_ = virtual(lambda: crossed(*kinds, seed=seed, options=options))
    assert plugin == ("udp_punch" if options is OVER_UDP else "tcp_punch")
    assert waited <= S + 2 * R + 1e-6


def test_all_ports_are_guessed_and_no_probe_is_faster_than_the_budget() -> None:
    done = [virtual(lambda seed=seed: crossed("eim-apdf", "edm", seed)) for seed in range(9)]  # type: ignore[misc]
    assert {plugin for plugin, *_ in done} == {"random_probe"}
    assert statistics.median(waited for _, waited, *_ in done) < 3.5
    for _, waited, probes, sockets in done:
        assert waited < 15.0
        # Four ask a server whether the router still has mappings.
        assert sockets <= 256 + 20 + 4
        # Once a second a fresh socket asks the servers whether the router still has mappings.
        assert probes <= 103 * waited + 10


@pytest.mark.parametrize("kind", ["eim-apdf", "eim-adf", "eim-eif", "masquerade"])
def test_where_a_punch_works_nothing_is_guessed(kind: str) -> None:
    async def main() -> None:
        async with World("eim-apdf", kind) as world:
            one, _, _ = await connected(world, **OVER_UDP)
            assert one.plugin != "random_probe"
            skipped = {event.plugin: event.reason for event in world.a.said(PluginSkipped)}
            assert "nothing to guess" in skipped["random_probe"]
            assert world.a.signals() == {"offer": 1}

    virtual(main)


@pytest.mark.parametrize(
    "kinds", [("edm", "edm"), ("edm-block", "edm"), ("edm-block", "edm-block"), ("edm-seq", "edm-block")]
)
def test_two_such_nats_are_left_to_a_relay(kinds: tuple[str, str]) -> None:
    async def main() -> None:
        async with World(*kinds) as world:
            with pytest.raises(ConnectFailed):
                await world.a.node.connect(world.b.node.address, **OVER_UDP, timeout=2.0)
            skipped = {event.plugin: event.reason for event in world.a.said(PluginSkipped)}
            assert "both NATs" in skipped["random_probe"]

    virtual(main)


@pytest.mark.parametrize(
    ("kind", "assignment"),
    [("edm-seq--2", Assignment.SEQUENTIAL), ("edm-block", Assignment.BLOCK), ("edm", Assignment.RANDOM)],
)
def test_the_assignment_is_known_soon_after_the_start_and_says_so_in_the_address(
    kind: str, assignment: Assignment
) -> None:
    async def main() -> None:
        async with World(kind, "public", settle=0.0) as world:
            assert world.now <= 3 * R  # nothing of it delays the start
            while world.a.node.address.attachments[0].nat.assignment.kind is not assignment and world.now < 5:
                await _turn()
            assert world.now < 0.5
            await world.quiet()  # sockets that only measured are closed

    virtual(main)


async def _turn() -> None:
    await asyncio.sleep(0.02)


# -- budgets -----------------------------------------------------------------------------------------------------


def stingy(**budgets: float) -> Config:
    return Config(budgets=replace(Budgets(), **budgets))  # type: ignore[arg-type]


@pytest.mark.parametrize("kinds", [("edm", "eim-apdf"), ("eim-apdf", "edm")])
def test_a_peer_that_asks_for_more_is_refused_with_the_reason(kinds: tuple[str, str]) -> None:
    async def main() -> None:
        # Three sockets may be hit by luck: with few probes that happens once in thousands of runs.
        patient, strict = stingy(random_probes_per_second=2.0), stingy(new_mappings_per_peer=3)
        async with World(*kinds, seed=4, config_a=patient, config_b=strict) as world:
            for _ in range(2):
                before = world.routers["b"].counters().flows_created
                with pytest.raises(ConnectFailed) as failed:
                    await world.a.node.connect(world.b.node.address, **OVER_UDP, plugins=["random_probe"], timeout=8.0)
                assert world.routers["b"].counters().flows_created - before <= 3
                await asyncio.sleep(40.0)  # b has given up, too
            refused = [event.reason for event in world.b.said(SignalRefused)]
            assert any("cost 3 new mappings" in reason for reason in refused), (refused, str(failed.value))
            assert "the peer refused" in str(failed.value)

    virtual(main)


@pytest.mark.parametrize(
    "message",
    [
        Guess(OPENED, "198.51.100.2:1", "203.0.113.1", 1024, 65535),  # not the peer's address
        Guess(OPENED, "198.51.100.2:1", "198.51.100.1", 9, 3),
        Guess(OPENED, "198.51.100.2:1", "198.51.100.1", 0, 700_000),
        Guess(OPENED, "no endpoint", "nor this", -5, 5),
        Guess(OPENED, "198.51.100.2:1", "198.51.100.1", 2000, 65535, fixed=1 << 20, bits=1 << 20),
        Guess(OPEN, "203.0.113.1:3478"),
        Guess(OPEN, "192.168.2.1:80"),
        Guess(MEET, "203.0.113.1:3478"),
        Guess("what"),
    ],
)
def test_hostile_messages_cost_nothing(message: Guess) -> None:
    async def says(attempt: Attempt, part: Guessing, target: Endpoint) -> None:
        attempt.signal(message)
        await asyncio.sleep(5.0)

    async def main() -> None:
        async with World("edm", "eim-apdf") as world:
            before = world.routers["b"].counters().flows_created
            with (
                mock.patch("warpgate.plugins.random_probe._spread", says),
                pytest.raises(ConnectFailed, match="refused"),
            ):
                await world.a.node.connect(world.b.node.address, **OVER_UDP, plugins=["random_probe"], timeout=3.0)
            assert world.routers["b"].counters().flows_created == before
            ended = [event for event in world.b.said(PluginEnded) if event.plugin == "random_probe"]
            assert [event.outcome for event in ended] == ["failed"]

    virtual(main)


@pytest.mark.parametrize("kinds", [("eim-apdf", "edm"), ("edm", "eim-apdf")], ids=["spreads", "searches"])
def test_a_peer_that_begins_anew_without_end_has_three_turns_and_its_share_of_mappings(kinds: tuple[str, str]) -> None:
    async def says(self: RandomProbe, attempt: Attempt, part: Guessing) -> None:
        near, far = (endpoint_of(at.reflexive_endpoint(Transport.UDP)) for at in (part.mine, part.theirs))
        asks = (
            Guess(OPEN, str(near)) if part.part is Part.SEARCH else Guess(OPENED, str(far), str(near.ip), 1024, 65535)
        )
        for _ in range(20):
            attempt.signal(asks)
            await asyncio.sleep(4.0)

    async def main() -> None:
        async with World(*kinds) as world:
            before = world.routers["b"].counters().flows_created
            for attempts in range(1, 6):
                with mock.patch.object(RandomProbe, "_begin", says), pytest.raises(ConnectFailed):
                    await world.a.node.connect(world.b.node.address, **OVER_UDP, plugins=["random_probe"], timeout=20.0)
                await world.quiet()
                notes = [event.text for event in world.b.said(PluginNoted)]
                begun = [text for text in notes if "sockets towards" in text or text.startswith("probing up")]
                assert 0 < len(begun) <= 3 * attempts
            made = world.routers["b"].counters().flows_created - before
            assert 2 * 256 < made <= Budgets().new_mappings_per_peer

    virtual(main)


@pytest.mark.parametrize(
    "target", ["203.0.113.1:3478", "192.168.2.1:5351", "127.0.0.1:22", "198.51.100.1:22", "nowhere"]
)
def test_a_meeting_leads_to_no_place_but_the_peers_own(target: str) -> None:
    async def says(attempt: Attempt, part: Guessing) -> None:
        attempt.signal(Guess(MEET, target))
        await asyncio.sleep(5.0)

    async def main() -> None:
        async with World("mape", "mape") as world:
            before = world.routers["b"].counters().flows_created
            with (
                mock.patch("warpgate.plugins.random_probe.initiate_meeting", says),
                pytest.raises(ConnectFailed),
            ):
                await world.a.node.connect(world.b.node.address, **OVER_UDP, plugins=["random_probe"], timeout=3.0)
            assert world.routers["b"].counters().flows_created == before
            ended = [event for event in world.b.said(PluginEnded) if event.plugin == "random_probe"]
            assert [event.outcome for event in ended] == ["failed"]

    virtual(main)


def test_a_peer_that_asks_for_meetings_without_end_gets_two_of_few_sockets() -> None:
    """Each at the place that it says is its own, which nobody can check beforehand."""

    async def says(attempt: Attempt, part: Guessing) -> None:
        for number in range(20):
            attempt.signal(Guess(MEET, f"198.51.100.1:{5000 + number}"))
            await asyncio.sleep(1.0)

    async def main() -> None:
        async with World("mape", "mape") as world:
            packets = world.internet.capture()
            with (
                mock.patch("warpgate.plugins.random_probe.initiate_meeting", says),
                pytest.raises(ConnectFailed),
            ):
                await world.a.node.connect(world.b.node.address, **OVER_UDP, plugins=["random_probe"], timeout=20.0)
            await asyncio.sleep(30.0)
            sent = [
                seen.packet.flow
                for seen in packets
                if seen.sent and seen.host == "b" and 5000 <= seen.packet.flow.destination.port < 5020
            ]
            assert 0 < len({flow.source for flow in sent}) <= 2 * 256
            assert len(sent) <= 2 * 3 * 256
            assert len({flow.destination for flow in sent}) == 2

    virtual(main)


@pytest.mark.parametrize(("kinds", "side"), [(("edm", "eim-apdf"), "ab"), (("eim-apdf", "edm"), "a")])
def test_a_first_path_that_dies_at_once_is_suspected_soon_however_long_it_was_searched_for(
    kinds: tuple[str, str], side: str
) -> None:
    """Its round trip was taken for what the search had lasted: suspected after 5 s, and 11 s at the responder."""

    async def suspected(at: str) -> None:
        async with World(*kinds, seed=1) as world:
            seat, found = (world.a, world.b)[at == "b"], asyncio.Event()

            def die(event: Event) -> None:
                if isinstance(event, PathChosen):
                    asyncio.get_running_loop().call_soon(world.internet.partition, *world.routers.values())
                    found.set()

            seat.run.context.observers.append(die)
            began = world.now
            connecting = asyncio.ensure_future(world.a.node.connect(world.b.node.address, durable=True))
            await found.wait()
            assert world.now - began > 1.0
            await asyncio.sleep(0.8)
            [connection] = seat.run.connections.known
            assert not connection.works
            connecting.cancel()
            await asyncio.wait([connecting])

    for at in side:
        virtual(partial(suspected, at))
