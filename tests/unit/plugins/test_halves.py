"""Each strategy's halves, one at a time: what they do when, on an attempt that writes it down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from test_suitability import NAT, home, node, public

from warpgate.errors import AttemptFailed, DecodeError, NetworkError
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment
from warpgate.net.link import Link
from warpgate.plugins.attempt import Attempt
from warpgate.plugins.base import Plugin
from warpgate.plugins.direct import DIAL_PATIENCE, Direct
from warpgate.plugins.guesses import KNOWING_PATIENCE, OPEN, REFUSED, Guess
from warpgate.plugins.punching import VOLLEYS, Punch
from warpgate.plugins.random_probe import RandomProbe
from warpgate.plugins.reverse import CallBack, Reverse
from warpgate.plugins.tcp_punch import VOLLEY_PATIENCE, TcpPunch
from warpgate.plugins.udp_punch import LATE_SIGNAL, UdpPunch
from warpgate_testing.attempt import FakeAttempt, FakeLink
from warpgate_testing.clock import run_virtual

S = 0.04  # what a signal takes, one way
OURS, THEIRS = Endpoint.of("192.168.1.2", 5000), Endpoint.of("198.51.100.2", 5000)
FRESH = ("198.51.100.2:41000",)
Half = Callable[[Attempt], Awaitable[Link]]
COUNTING = NatProfile(Mapping.APDM, Filtering.APDF, PortAssignment(Assignment.SEQUENTIAL, 1))


def link(transport: Transport = Transport.TCP) -> FakeLink:
    return FakeLink(OURS, THEIRS, transport)


class Story:
    """A half that runs, and the test beside it."""

    def __init__(
        self,
        plugin: type[Plugin],
        *,
        initiator: bool,
        local: NodeAddress,
        remote: NodeAddress,
        transports: frozenset[Transport],
    ) -> None:
        self.attempt = FakeAttempt(local, remote, initiator=initiator, signal_delay=S, transports=transports)
        plugged = plugin()
        half: Half = plugged.initiate if initiator else plugged.respond
        self.half = asyncio.ensure_future(self.attempt.run(half))

    async def until(self, seconds: float) -> FakeAttempt:
        await asyncio.sleep(seconds - self.attempt.now())
        return self.attempt

    async def failure(self) -> str:
        with pytest.raises(AttemptFailed) as failed:
            await self.half
        return str(failed.value)

    def end(self) -> None:
        self.half.cancel()


def play(
    plugin: type[Plugin],
    story: Callable[[Story], Coroutine[Any, Any, None]],
    *,
    initiator: bool = True,
    local: NodeAddress | None = None,
    remote: NodeAddress | None = None,
    transports: frozenset[Transport] = frozenset(Transport),
) -> None:
    async def main() -> None:
        playing = Story(
            plugin,
            initiator=initiator,
            local=home(1) if local is None else local,
            remote=home(2) if remote is None else remote,
            transports=transports,
        )
        try:
            await story(playing)
        finally:
            playing.end()
            await asyncio.wait({playing.half})
            await asyncio.sleep(0.001)  # virtual: for what was cancelled to end
            assert asyncio.all_tasks() == {asyncio.current_task()}, "a task outlives its half"

    run_virtual(main())


def test_the_attempt_of_these_tests_has_all_that_one_has() -> None:
    offered = {name for name in vars(Attempt) if not name.startswith("_")}
    assert offered - set(vars(FakeAttempt)) == set()


class TestDirect:
    def test_every_open_endpoint_is_tried_in_one_tick(self) -> None:
        async def story(it: Story) -> None:
            attempt = await it.until(0.001)
            assert [(at, remote) for at, remote, *_ in attempt.dials] == [(0.0, THEIRS)]
            assert attempt.probes[0] == (0.0, OURS, THEIRS, None)
            attempt.verified_links.put_nowait(won := link(Transport.UDP))
            assert await it.half is won

        play(Direct, story, remote=public(2))

    def test_it_is_over_when_nobody_answers(self) -> None:
        async def story(it: Story) -> None:
            assert f"no answer within {DIAL_PATIENCE:g} s" in await it.failure()
            assert it.attempt.now() <= max(DIAL_PATIENCE, it.attempt.config.timing.check_offsets[-1] + 1)

        play(Direct, story, remote=public(2))

    def test_over_transports_that_the_pipe_does_not_want_nothing_is_sent(self) -> None:
        async def story(it: Story) -> None:
            assert "nothing to try" in await it.failure()
            assert not it.attempt.dials + it.attempt.probes

        play(Direct, story, remote=public(2), transports=frozenset())


class TestReverse:
    def test_the_initiator_asks_and_waits(self) -> None:
        async def story(it: Story) -> None:
            attempt = await it.until(1.0)
            assert attempt.signals == [(0.0, CallBack())]
            attempt.inbound_links.put_nowait(won := link())
            assert await it.half is won

        play(Reverse, story, local=public(1))

    def test_the_responder_dials_when_it_is_asked(self) -> None:
        async def story(it: Story) -> None:
            attempt = await it.until(S)
            assert not attempt.dials
            called = Endpoint.of("198.51.100.1", 5000)
            attempt.dialled[called] = won = link()
            attempt.hear(CallBack())
            assert await it.half is won
            assert [(at, remote) for at, remote, *_ in attempt.dials] == [(S, called)]

        play(Reverse, story, initiator=False, remote=public(1))

    def test_whoever_may_not_be_dialled_is_not(self) -> None:
        async def story(it: Story) -> None:
            it.attempt.hear(CallBack())
            assert "may be dialled" in await it.failure()

        play(Reverse, story, initiator=False)


class TestUdpPunch:
    def test_the_initiator_primes_at_once_and_fires_when_the_peer_has(self) -> None:
        async def story(it: Story) -> None:
            attempt = await it.until(0.001)
            assert attempt.signals == [(0.0, Punch(1))]
            assert attempt.probes[0] == (0.0, OURS, THEIRS, 2)
            assert attempt.probes[1] == (S + max(LATE_SIGNAL, S / 2), OURS, THEIRS, None)
            attempt.verified_links.put_nowait(won := link(Transport.UDP))
            assert await it.half is won

        play(UdpPunch, story)

    def test_later_volleys_are_from_fresh_ports_to_those_that_the_peer_names(self) -> None:
        async def story(it: Story) -> None:
            attempt = await it.until(2.0)
            [_, (_, asked)] = attempt.signals
            [(_, fresh)] = attempt.opened
            assert asked == Punch(2, (f"198.51.100.1:{fresh.port}",), S)
            attempt.hear(Punch(1))  # of the volley before: nobody waits for it
            attempt.hear(Punch(2, FRESH))
            attempt = await it.until(2.001)
            assert attempt.probes[-1][1:] == (fresh, Endpoint.parse(FRESH[0]), None)

        play(UdpPunch, story)

    def test_beside_other_pipes_one_fresh_port_meets_the_peers_listening_one(self) -> None:
        async def story(it: Story) -> None:
            it.attempt.taken = True
            attempt = await it.until(0.01)
            [(at, fresh)] = attempt.opened
            assert attempt.signals == [(at, Punch(0, (f"198.51.100.1:{fresh.port}",)))]
            assert attempt.probes[0] == (at, fresh, THEIRS, 2)
            assert attempt.probes[1] == (at + S + max(LATE_SIGNAL, S / 2), fresh, THEIRS, None)
            attempt = await it.until(2.0)  # in vain: what follows is from fresh ports on both sides
            assert [message.volley for _, message in attempt.signals] == [0, 3]

        play(UdpPunch, story, local=home(1, NAT), remote=home(2, NAT))

    def test_beside_other_pipes_both_go_to_fresh_ports_where_a_nat_maps_each_destination_anew(self) -> None:
        async def story(it: Story) -> None:
            it.attempt.taken = True
            attempt = await it.until(0.01)
            assert [message.volley for _, message in attempt.signals] == [2]

        play(UdpPunch, story, local=home(1, NAT), remote=home(2, NatProfile(Mapping.APDM, Filtering.APDF)))

    def test_it_fails_when_all_volleys_have(self) -> None:
        async def story(it: Story) -> None:
            for volley in range(2, VOLLEYS + 1):
                it.attempt.hear(Punch(volley, FRESH))
            assert f"{VOLLEYS} volleys" in await it.failure()
            assert [message.volley for _, message in it.attempt.signals] == [1, 2, 3, 4]

        play(UdpPunch, story)

    def test_two_sides_that_count_go_to_fresh_ports_when_that_is_known(self) -> None:
        async def story(it: Story) -> None:
            attempt = await it.until(0.3)
            assert [message.volley for _, message in attempt.signals] == [1]
            attempt.learn(remote=home(2, COUNTING))
            attempt = await it.until(0.31)
            assert [message.volley for _, message in attempt.signals] == [1, 2]

        play(UdpPunch, story, local=home(1, COUNTING), remote=home(2, NatProfile()))

    def test_the_responder_fires_in_the_tick_in_which_it_is_asked(self) -> None:
        async def story(it: Story) -> None:
            attempt = await it.until(S)
            attempt.hear(Punch(1))
            attempt = await it.until(S + 0.001)
            assert attempt.probes[0] == (S, OURS, THEIRS, None)
            assert not attempt.signals, "the first volley needs no answer"

        play(UdpPunch, story, initiator=False)

    def test_the_responder_primes_later_volleys_and_answers(self) -> None:
        async def story(it: Story) -> None:
            it.attempt.hear(Punch(2, FRESH, 1.0))
            attempt = await it.until(0.01)
            [(_, fresh)] = attempt.opened
            assert attempt.probes[0] == (0.0, fresh, Endpoint.parse(FRESH[0]), 2)
            assert attempt.probes[1] == (1.5, fresh, Endpoint.parse(FRESH[0]), None)
            assert attempt.signals == [(0.0, Punch(2, (f"198.51.100.1:{fresh.port}",)))]

        play(UdpPunch, story, initiator=False)

    def test_predictions_are_probed_and_bounded(self) -> None:
        async def story(it: Story) -> None:
            for _ in range(VOLLEYS + 3):
                it.attempt.hear(Punch(0, FRESH))
            attempt = await it.until(0.01)
            assert len([note for _, note in attempt.notes if "probing predicted" in note]) == VOLLEYS

        play(UdpPunch, story, initiator=False)


class TestTcpPunch:
    def test_the_initiator_fires_when_the_signal_should_be_there(self) -> None:
        async def story(it: Story) -> None:
            it.attempt.dialled[THEIRS] = won = link()
            assert await it.half is won
            assert it.attempt.signals == [(0.0, Punch(1))]
            assert it.attempt.dials == [(S, THEIRS, OURS, None)]

        play(TcpPunch, story)

    def test_after_the_first_volley_each_side_names_fresh_ports_it_listens_on(self) -> None:
        async def story(it: Story) -> None:
            attempt = await it.until(S + VOLLEY_PATIENCE + 0.1)
            [_, (_, asked)] = attempt.signals
            fresh = attempt.opened[0][1]
            assert asked == Punch(2, (f"198.51.100.1:{fresh.port}",), S)
            attempt.dialled[Endpoint.parse(FRESH[0])] = won = link()
            attempt.hear(Punch(2, FRESH))
            assert await it.half is won
            assert attempt.dials[-1][1:] == (Endpoint.parse(FRESH[0]), fresh, None)

        play(TcpPunch, story)

    def test_the_responder_keeps_what_it_has_dialled_and_returns_none(self) -> None:
        async def story(it: Story) -> None:
            it.attempt.dialled[THEIRS] = dialled = link()
            it.attempt.hear(Punch(1))
            attempt = await it.until(1.0)
            assert attempt.dials == [(0.0, THEIRS, OURS, None)]
            assert attempt.kept == [dialled]
            assert not it.half.done()

        play(TcpPunch, story, initiator=False)

    def test_in_the_second_volley_the_responder_connects_first_and_not_far(self) -> None:
        async def story(it: Story) -> None:
            there = Endpoint.parse(FRESH[0])
            it.attempt.dialled[there] = NetworkError("refused")
            it.attempt.hear(Punch(2, FRESH, 0.5))
            attempt = await it.until(1.0)
            assert [(at, remote, ttl) for at, remote, _, ttl in attempt.dials] == [
                (0.0, there, 2),
                (0.5, there, None),
            ]

        play(TcpPunch, story, initiator=False)

    def test_a_responder_whose_earlier_dial_was_broken_off_asks_for_fresh_ports(self) -> None:
        async def story(it: Story) -> None:
            it.attempt.left_half_open.add((OURS, THEIRS))
            it.attempt.hear(Punch(1))
            attempt = await it.until(0.1)
            assert attempt.signals == [(0.0, Punch(1))]
            assert attempt.dials == [(0.0, THEIRS, OURS, None)]  # it may work

        play(TcpPunch, story, initiator=False)

    @pytest.mark.parametrize("later", [None, 0.5 * S])
    def test_the_initiator_goes_to_fresh_ports_a_signal_after_it_was_asked_to(self, later: float | None) -> None:
        async def story(it: Story) -> None:
            attempt = await it.until(2 * S)
            attempt.hear(Punch(1))
            if later is not None:
                attempt = await it.until(2 * S + later)
                attempt.inbound_links.put_nowait(link())
            attempt = await it.until(3 * S + 0.001)
            assert [message.volley for _, message in attempt.signals] == ([1, 2] if later is None else [1])

        play(TcpPunch, story)

    def test_an_initiator_whose_earlier_dial_was_broken_off_begins_with_fresh_ports(self) -> None:
        async def story(it: Story) -> None:
            it.attempt.left_half_open.add((OURS, THEIRS))
            attempt = await it.until(0.01)
            assert [message.volley for _, message in attempt.signals] == [2]

        play(TcpPunch, story)

    def test_ports_that_turn_out_to_be_of_no_use_are_left_at_once(self) -> None:
        async def story(it: Story) -> None:
            attempt = await it.until(0.3)
            attempt.learn(remote=home(2, COUNTING))
            attempt = await it.until(0.31)
            assert any("going to fresh ones at once" in note for at, note in attempt.notes if at == 0.3)

        play(TcpPunch, story, local=home(1, COUNTING), remote=home(2, NatProfile()))


@pytest.mark.parametrize("plugin", [UdpPunch, TcpPunch])
class TestBothPunches:
    def test_endpoints_that_are_not_the_peers_are_not_tried(self, plugin: type[Plugin]) -> None:
        async def story(it: Story) -> None:
            victim = Endpoint.of("203.0.113.99", 53)
            it.attempt.forbidden = frozenset({victim})
            it.attempt.hear(Punch(0, (str(victim),)))
            it.attempt.hear(Punch(2, (str(victim),)))
            attempt = await it.until(5.0)
            assert victim not in {remote for _, _, remote, _ in attempt.probes}
            assert victim not in {remote for _, remote, *_ in attempt.dials}

        play(plugin, story, initiator=False)

    def test_a_volley_of_which_nothing_may_be_tried_is_answered_and_followed_by_the_next(
        self, plugin: type[Plugin]
    ) -> None:
        async def story(it: Story) -> None:
            victim = "203.0.113.99:53"
            it.attempt.forbidden = frozenset({Endpoint.parse(victim)})
            it.attempt.hear(Punch(2, (victim,)))
            attempt = await it.until(0.1)
            assert attempt.signals == [(0.0, Punch(2))]
            it.attempt.hear(Punch(3, (victim, *FRESH)))
            attempt = await it.until(5.0)
            assert [(message.volley, bool(message.endpoints)) for _, message in attempt.signals] == [
                (2, False),
                (3, True),
            ]
            aimed = {remote for _, _, remote, _ in attempt.probes} | {remote for _, remote, *_ in attempt.dials}
            assert aimed == {Endpoint.parse(FRESH[0])}

        play(plugin, story, initiator=False)

    @pytest.mark.parametrize("named", [(), ("203.0.113.99:53",)], ids=["nothing", "a stranger's"])
    def test_the_initiator_goes_on_when_nothing_of_the_answer_may_be_tried(
        self, plugin: type[Plugin], named: tuple[str, ...]
    ) -> None:
        async def story(it: Story) -> None:
            it.attempt.forbidden = frozenset(map(Endpoint.parse, named))
            attempt = await it.until(5.0)
            attempt.hear(Punch(2, named))
            attempt = await it.until(5.5)
            assert [message.volley for _, message in attempt.signals] == [1, 2, 3]
            attempt.hear(Punch(3, (*named, *FRESH)))
            attempt = await it.until(6.0)
            aimed = {remote for at, _, remote, _ in attempt.probes if at >= 5.0}
            aimed |= {remote for at, remote, *_ in attempt.dials if at >= 5.0}
            assert aimed - {THEIRS} == {Endpoint.parse(FRESH[0])}

        play(plugin, story)

    @pytest.mark.parametrize("message", ["hello", DecodeError("no message")])
    def test_what_is_no_message_of_theirs_ends_the_responder(self, plugin: type[Plugin], message: object) -> None:
        async def story(it: Story) -> None:
            it.attempt.hear(message)
            await it.failure()
            assert it.attempt.now() == 0.0

        play(plugin, story, initiator=False)


class TestRandomProbe:
    def test_it_waits_until_the_nats_are_known_and_no_longer(self) -> None:
        async def story(it: Story) -> None:
            assert "neither NAT is known" in await it.failure()
            assert it.attempt.now() == pytest.approx(KNOWING_PATIENCE[0])
            assert not it.attempt.signals

        play(RandomProbe, story)

    def test_when_nothing_simpler_can_work_it_begins_in_that_tick(self) -> None:
        async def story(it: Story) -> None:
            random = NatProfile(Mapping.APDM, Filtering.APDF, PortAssignment(Assignment.RANDOM), assignment_samples=15)
            attempt = await it.until(0.123)
            attempt.learn(remote=home(2, random))
            attempt = await it.until(0.124)
            assert attempt.signals == [(0.123, Guess(OPEN, "198.51.100.1:5000"))]

        play(RandomProbe, story, remote=home(2, NatProfile()))

    def test_a_responder_whose_nat_is_simple_refuses(self) -> None:
        async def story(it: Story) -> None:
            it.attempt.hear(Guess(OPEN, str(THEIRS)))
            reason = await it.failure()
            assert it.attempt.signals == [(0.0, Guess(REFUSED, reason=reason))]

        play(RandomProbe, story, initiator=False, local=node(1, "192.168.1.2", "198.51.100.1", NAT))
