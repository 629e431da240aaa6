"""The allocation that a node keeps in reserve: who opens over a relay waits for no server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from cascade_world import HOP, R, S, connected, exchange, virtual
from durable_kit import Counters, moved
from test_durable_pipes import durable, gone
from test_relays import RelayWorld

from warpgate.core.connections import LINGERING
from warpgate.core.search.equipment import ENDPOINTS_PER_SESSION
from warpgate.core.search.seeker import NO_RELAY_KNOWN
from warpgate.errors import ConnectFailed, NetworkError, ServiceError
from warpgate.events import PluginNoted, RelayAllocated
from warpgate.model.endpoint import Endpoint, Family, Mode
from warpgate.proto.stun import Method, StunMessage
from warpgate.proto.turn import KEEPALIVE
from warpgate.services.relay import LONGEST_RESTART, RESERVE_PAUSE, RESTART, RESTART_PAUSE, Relays
from warpgate_testing.internet import MemoryInternet
from warpgate_testing.network import OpenSocket
from warpgate_testing.turn import MemoryTurn, _Refusal


@pytest.mark.parametrize("kinds", [("edm", "edm"), ("edm", "eim-apdf"), ("eim-apdf+noudp", "edm")])
def test_a_durable_pipe_opens_over_the_relay_after_a_signal_and_the_way(kinds: tuple[str, str]) -> None:
    async def main() -> None:
        async with RelayWorld(*kinds) as world:
            near, far, seconds = await connected(world, durable=True)
            assert near.relayed
            assert seconds == pytest.approx(S + 2 * HOP, abs=1e-6)
            await exchange(near, far)
            await near.close()
            await far.close()

    virtual(main)


@pytest.mark.parametrize("told", [True, False])
def test_whose_relay_the_address_tells_of_is_asked_at_once_and_any_other_a_little_later(told: bool) -> None:
    async def main() -> None:
        async with RelayWorld("edm", "edm", a=False) as world:
            address = world.b.node.address
            assert address.relay
            near, far, seconds = await connected(world, replace(address, relay=told), durable=True)
            assert near.relayed
            late = 0.0 if told else NO_RELAY_KNOWN
            # An offer, its answer, and the first check there and back.
            assert seconds == pytest.approx(late + 2 * S + 2 * R, abs=1e-6)
            await exchange(near, far)
            await near.close()
            await far.close()

    virtual(main)


def test_it_is_there_again_after_a_while_and_after_a_move() -> None:
    async def main() -> None:
        async with RelayWorld("edm", "edm") as world:
            assert len(world.reserves) == 2
            [before] = world.a.said(RelayAllocated)
            near, far, _ = await connected(world, durable=True)
            assert len(world.in_use) >= 1
            await asyncio.sleep(RESERVE_PAUSE + 3 * R)
            assert len(world.reserves) == 2
            await near.close()
            await far.close()
            await asyncio.sleep(LINGERING + 1)
            moved("a", 77)(world)
            await asyncio.sleep(1)
            [reserve] = [allocation for allocation in world.reserves if allocation in world.a.run.relays._allocations]
            assert reserve.mapped is not None
            assert str(reserve.mapped.ip) == "198.51.100.77"
            assert before.relayed != tuple(map(str, reserve.relayed))

    virtual(main)


def test_two_who_ask_at_once_do_not_get_the_same() -> None:
    async def main() -> None:
        async with RelayWorld("edm", "edm") as world:
            relays = world.a.run.relays
            one, other = await asyncio.gather(relays.open_udp([Family.V4]), relays.open_udp([Family.V4]))
            assert one is not other
            assert not set(one.relayed) & set(other.relayed)
            one.drop()
            other.drop()

    virtual(main)


def test_who_is_cancelled_while_it_waits_leaves_it_for_the_next() -> None:
    async def main() -> None:
        async with RelayWorld("edm", "edm") as world:
            relays = world.a.run.relays
            relays.stock()
            waiting = asyncio.ensure_future(relays.open_udp([Family.V4]))
            await asyncio.sleep(HOP)
            waiting.cancel()
            began = world.now
            allocation = await relays.open_udp([Family.V4])
            assert world.now - began < 2 * R
            allocation.drop()
            await world.given_back()

    virtual(main)


def test_a_server_that_is_down_is_asked_again() -> None:
    async def main() -> None:
        async with RelayWorld("edm", "edm") as world:
            world.hosts["a"].host.up = False
            world.a.run.relays.stock()
            await asyncio.sleep(100)
            assert len(world.reserves) == 1
            world.hosts["a"].host.up = True
            await asyncio.sleep(100)
            assert len(world.reserves) == 2

    virtual(main)


def test_a_reserve_that_its_server_has_forgotten_is_replaced_before_it_is_wanted() -> None:
    """The relay was restarted, or a NAT before us: with what is gone two nodes that need it found nothing for 20 s."""

    async def main() -> None:
        async with RelayWorld("edm", "edm") as world:
            await asyncio.sleep(5)
            for client in tuple(world.turn.allocations):
                world.turn._release(client)
            await asyncio.sleep(KEEPALIVE + RESERVE_PAUSE + 1)
            near, far, seconds = await connected(world, durable=True)
            assert near.relayed
            assert seconds == pytest.approx(S + 2 * HOP, abs=1e-6)
            await exchange(near, far)
            await near.close()
            await far.close()

    virtual(main)


RELAYS = "203.0.113.5", "203.0.113.6"


class Restarted(MemoryTurn):
    """Nothing is left of the log-ins either."""

    def _nonce(self) -> bytes:
        return b"of another life " + super()._nonce()


class LikeCoturn(Restarted):
    def _request(self, client: object, allocation: Any, message: StunMessage, *words: Any) -> Any:
        if allocation is None and message.method == Method.CREATE_PERMISSION:
            raise _Refusal(400, "Bad Request")
        return super()._request(client, allocation, message, *words)


async def restart(world: RelayWorld, server: type[MemoryTurn] = Restarted) -> None:
    """Just after the nodes have asked for what they have in reserve; nobody asks again until `KEEPALIVE` later."""
    await asyncio.sleep(5)
    await world.turn.close()
    world.turn = server(world.turn_host, world.turn._local)


BOTH_ENDS = pytest.mark.parametrize(
    "sides",
    [{"a": True, "b": True}, {"a": True, "b": False}, {"a": False, "b": True}],
    ids=["both", "initiator's", "responder's"],
)
WAYS = pytest.mark.parametrize("durable", [True, False], ids=["durable", "plain"])


@pytest.mark.parametrize(("server", "later"), [(Restarted, 4 * R), (LikeCoturn, 5 * R)])
@WAYS
@BOTH_ENDS
def test_a_reserve_that_turns_out_to_be_forgotten_is_replaced_within_the_connect(
    sides: dict[str, bool], durable: bool, server: type[MemoryTurn], later: float
) -> None:
    """So many round trips later: twice the new log-in, the refusal (with coturn also that of a Refresh), and the
    allocation.
    """

    async def main() -> None:
        async with RelayWorld("edm", "edm", **sides) as world:
            await restart(world, server)
            near, far, seconds = await connected(world, durable=durable, mode=Mode.STREAM)
            assert near.relayed
            usual = S + 2 * HOP if sides["a"] else 2 * S + 2 * R
            assert seconds == pytest.approx(usual + later, abs=1e-6)
            await exchange(near, far)
            await near.close()
            await far.close()

    virtual(main)


@pytest.mark.parametrize("a", ["edm+noudp", "edm"])
@pytest.mark.parametrize("b", ["edm+noudp", "edm"])
def test_a_relay_that_starts_again_carries_a_pipe_of_who_reaches_it_over_tcp_at_once(a: str, b: str) -> None:
    """It refuses connections meanwhile; that was final for the search, which ends after 20 s."""

    async def main() -> None:
        async with RelayWorld(a, b) as world:
            near, far, _ = await durable(world)
            counters = Counters(near, far)
            await asyncio.sleep(7)
            began = world.now
            await world.turn.close()
            await asyncio.sleep(2.0)
            world.turn = Restarted(world.turn_host, world.turn._local)
            await asyncio.sleep(10)
            assert counters.worst(began) < 2.0 + RESTART_PAUSE + 2 * R
            await counters.stop()
            await near.close()
            await far.close()
            await gone(world)

    virtual(main)


def test_a_relay_that_worked_once_and_then_refuses_is_asked_each_half_a_second_for_a_minute_and_not_for_ever() -> None:
    async def main() -> None:
        internet = MemoryInternet()
        client, host = internet.host("client", "203.0.113.2"), internet.host("turn", "203.0.113.5")
        at, dial, dials = Endpoint.of("203.0.113.5", 3478), client.dial_tcp, 0

        async def counted(remote: Endpoint, local: Endpoint | None = None) -> Any:
            nonlocal dials
            dials += 1
            return await dial(remote, local)

        async def refusals() -> int:
            before = dials
            with pytest.raises(ServiceError):
                await relays.open_udp([Family.V4])
            return dials - before

        client.dial_tcp = counted  # type: ignore[assignment, method-assign]
        relays = Relays(client, [f"turn:user:password@{at}?transport=tcp"], lambda _: None)
        for _ in range(2):
            turn = MemoryTurn(host, at)
            (await relays.open_udp([Family.V4])).drop()
            await asyncio.sleep(1.0)
            await turn.close()
            assert 1 < await refusals() <= RESTART / RESTART_PAUSE
            await asyncio.sleep(LONGEST_RESTART)
            assert [await refusals() for _ in range(5)] == [1] * 5
        await relays.close()

    virtual(main)


def test_a_restarted_server_may_give_the_same_endpoint_again() -> None:
    """What was permitted there before is not any more."""

    async def main() -> None:
        async with RelayWorld("edm", "edm", b=False) as world:
            [reserve] = world.reserves
            before = reserve.relayed[0]
            await restart(world)
            open_udp = world.turn_host.open_udp

            def at_the_same_port(local: Endpoint, receiver: Any) -> Any:
                try:
                    return open_udp(replace(local, port=local.port or before.port), receiver)
                except NetworkError:
                    return open_udp(local, receiver)

            world.turn_host.open_udp = at_the_same_port
            near, far, seconds = await connected(world, mode=Mode.STREAM)
            assert near.local == before
            assert seconds <= 0.5  # the peer goes on with the checks that it had begun
            await near.close()
            await far.close()

    virtual(main)


class Amnesiac(MemoryTurn):
    """It has forgotten each allocation by the time when something is asked of it."""

    def _request(self, client: object, allocation: Any, message: StunMessage, *words: Any) -> Any:
        if message.method == Method.CREATE_PERMISSION:
            self._release(client)
            allocation = None
        return super()._request(client, allocation, message, *words)


class TwoRelays(RelayWorld):
    """The second server is as near as the first one, but named after it."""

    def __init__(self, *kinds: str, **sides: bool) -> None:
        super().__init__(*kinds, **sides)
        for seat in (self.a, self.b):
            config = seat.node._config
            if config.turn:
                seat.node._config = replace(config, turn=(*config.turn, "turn:user:password@203.0.113.6"))
        self.second_host = self.internet.host("second", "203.0.113.6")
        self.second = MemoryTurn(self.second_host, Endpoint.of("203.0.113.6", 3478))

    async def close(self) -> None:
        await super().close()
        await self.second.close()

    def strays(self) -> list[OpenSocket]:
        return [entry for entry in super().strays() if entry.host != "second"]


@WAYS
@BOTH_ENDS
def test_where_the_reserves_server_is_dead_another_is_asked_after_a_moment(
    sides: dict[str, bool], durable: bool
) -> None:
    async def main() -> None:
        async with TwoRelays("edm", "edm", **sides) as world:
            await asyncio.sleep(5)
            assert {str(reserve.relayed[0].ip) for reserve in world.reserves} == {"203.0.113.5"}
            world.turn_host.host.up = False
            near, far, seconds = await connected(world, durable=durable, mode=Mode.STREAM)
            assert near.relayed
            assert "203.0.113.6" in (str(near.local.ip), str(near.remote.ip))
            assert seconds <= 1.5
            await exchange(near, far)
            await near.close()
            await far.close()

    virtual(main)


@pytest.mark.parametrize(("kind", "most"), [(RelayWorld, 2), (TwoRelays, 3)], ids=["one", "two"])
@BOTH_ENDS
def test_servers_that_forget_everything_have_us_allocate_a_few_times_only(
    sides: dict[str, bool], kind: type[RelayWorld], most: int
) -> None:
    async def main() -> None:
        async with kind("edm", "edm", **sides) as world:
            await restart(world, Amnesiac)
            if isinstance(world, TwoRelays):
                await world.second.close()
                world.second = Amnesiac(world.second_host, world.second._local)
            packets = world.internet.capture()
            with pytest.raises(ConnectFailed):
                await world.a.node.connect(world.b.node.address, mode=Mode.DATAGRAM, timeout=8)
            for seat in (world.a, world.b):
                used = [note.text for note in seat.said(PluginNoted) if note.text.startswith("our UDP relay: ")]
                assert len(used) == most * sides[seat.name]  # what was in reserve is one of them
            told = {seen.packet.flow.destination for seen in packets if seen.sent and seen.packet.flow.destination.port}
            relayed = [endpoint for endpoint in told if str(endpoint.ip) in RELAYS and endpoint.port != 3478]
            assert len(relayed) <= ENDPOINTS_PER_SESSION * 2
            await world.given_back()

    virtual(main)


def test_a_server_that_forgets_everything_does_not_keep_another_from_being_asked() -> None:
    async def main() -> None:
        async with TwoRelays("edm", "edm", b=False) as world:
            await restart(world, Amnesiac)
            near, far, seconds = await connected(world, mode=Mode.STREAM)
            assert str(near.local.ip) == "203.0.113.6"
            assert seconds <= 1.5
            await near.close()
            await far.close()

    virtual(main)


@pytest.mark.parametrize("renewed", [True, False], ids=["both in reserve", "one in reserve"])
def test_a_reserve_on_a_relay_that_has_died_is_not_waited_for(renewed: bool) -> None:
    async def main() -> None:
        async with TwoRelays("edm", "edm") as world:
            near, far, _ = await durable(world)
            counters = Counters(near, far)
            await asyncio.sleep(RESERVE_PAUSE + 1 if renewed else 3.0)
            dead = "203.0.113.5"
            assert dead in (str(near.local.ip), str(near.remote.ip))
            began = world.now
            world.turn_host.host.up = False
            await asyncio.sleep(4.0)
            assert dead not in (str(near.local.ip), str(near.remote.ip))
            assert counters.worst(began) <= 0.9
            await counters.stop()
            await near.close()
            await far.close()

    virtual(main)


def test_a_reserve_in_doubt_is_used_when_its_server_answers() -> None:
    async def main() -> None:
        async with RelayWorld("edm", "edm") as world:
            relays = world.a.run.relays
            reserve = relays._reserve.result()
            relays.doubt([Endpoint.of("203.0.113.99", 1).ip])
            assert relays._doubted_until == 0.0
            relays.doubt([reserve.relayed[0].ip])
            assert relays._doubted_until > world.now
            began = world.now
            assert await relays.open_udp([Family.V4]) is reserve
            assert world.now - began == pytest.approx(R)
            reserve.drop()

    virtual(main)
