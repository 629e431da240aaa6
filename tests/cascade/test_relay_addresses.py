"""Where a TURN server says that it relays, and where it sends us: its word is judged like anybody else's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cascade_world import OVER_TCP, OVER_UDP, Options, connected, exchange, hosted_by, virtual
from test_relays import RelayWorld

from warpgate.core.search.equipment import ENDPOINTS_PER_SESSION
from warpgate.errors import AttemptFailed, ConnectFailed
from warpgate.events import SignalRefused
from warpgate.model.endpoint import Endpoint, Mode
from warpgate.proto.stun import Attribute
from warpgate_testing.turn import MemoryTurn, _Refusal

CLOUD = "10.0.0.5"  # where coturn relays in a cloud whose NAT stands before it
PUBLIC = Endpoint.of("203.0.113.5", 3478)


class PrivateRelayWorld(RelayWorld):
    """The server is called at its public address and relays at its private one."""

    def __init__(self, *kinds: str, **options: Any) -> None:
        super().__init__(*kinds, **options)
        self.turn_host = self.internet.host("turn in a cloud", "203.0.113.6", CLOUD)
        self.private = MemoryTurn(self.turn_host, Endpoint.of("203.0.113.6", 3478), relay_ip=Endpoint.of(CLOUD, 1).ip)

    async def close(self) -> None:
        await super().close()
        await self.private.close()

    def strays(self) -> Any:
        return [entry for entry in super().strays() if entry.host != "turn in a cloud"]


@pytest.mark.parametrize("options", [OVER_UDP, OVER_TCP], ids=["udp", "tcp"])
def test_two_clients_of_a_relay_with_a_private_address_meet_there_at_the_first_try(options: Options) -> None:
    """The peer's relay is told before our own allocation there exists; and nothing is sent to 10.0.0.5 but by it."""

    async def story() -> None:
        server = "turn:user:password@203.0.113.6:3478"
        async with PrivateRelayWorld("edm", "edm", server=server) as world:
            packets = world.internet.capture()
            near, far, _ = await connected(world, **options)
            assert near.plugin == "turn"
            await exchange(near, far)
            sent = {(seen.host, str(seen.packet.flow.destination.ip)) for seen in packets if seen.sent}
            assert not sent & {("a", CLOUD), ("b", CLOUD)}
            assert world.b.said(SignalRefused) == []
            await near.close()
            await far.close()

    virtual(story)


def test_a_relay_s_second_address_is_tried_when_the_first_is_dead() -> None:
    async def story() -> None:
        async with RelayWorld("edm", "edm", server="turn:user:password@turn.example?transport=udp") as world:
            world.internet.name("turn.example", "203.0.113.99", "203.0.113.5")
            near, far, took = await connected(world, **OVER_UDP)
            assert near.plugin == "turn"
            assert took < 1.0
            await near.close()
            await far.close()

    virtual(story)


class LyingTurn(MemoryTurn):
    """Says that it relays at `relayed`, or that `alternate` is to be asked."""

    relayed: Endpoint | None = None
    alternate: Endpoint | None = None

    def _allocate(self, *args: Any) -> Any:
        if self.alternate is not None:
            raise _Refusal(300, "Try Alternate", (Attribute.ALTERNATE_SERVER, self.alternate))
        told = super()._allocate(*args)
        lie = self.relayed
        return [(number, lie if lie and number == Attribute.XOR_RELAYED_ADDRESS else value) for number, value in told]


class LyingWorld(RelayWorld):
    def __init__(self, *, relayed: str = "", alternate: str = "") -> None:
        super().__init__("edm", "edm", b=False, server="turn:user:password@203.0.113.6:3478?transport=udp")
        self.liar = LyingTurn(self.internet.host("liar", "203.0.113.6"), Endpoint.of("203.0.113.6", 3478))
        self.liar.relayed = Endpoint.parse(relayed) if relayed else None
        self.liar.alternate = Endpoint.parse(alternate) if alternate else None

    async def close(self) -> None:
        await super().close()
        await self.liar.close()

    def strays(self) -> Any:
        return [entry for entry in super().strays() if entry.host != "liar"]

    async def reason(self) -> str:
        with pytest.raises(ConnectFailed) as failed:
            await self.a.node.connect(self.b.node.address, plugins=["turn"], mode=Mode.DATAGRAM, timeout=3)
        return " ".join(text for row in failed.value.report for _, text in row.notes)


@pytest.mark.parametrize(
    ("relayed", "why"),
    [
        ("127.0.0.1:50000", "loopback"), ("0.0.0.0:50000", "no unicast"), ("224.0.0.1:50000", "no unicast"),
        ("240.0.0.1:50000", "no unicast"), ("169.254.169.254:50000", "link-local"),
        ("192.0.0.1:50000", "translator"), ("203.0.113.7:0", "port 0"),
    ],
)  # fmt: skip
def test_a_relay_where_nobody_gets_to_is_none(relayed: str, why: str) -> None:
    async def story() -> None:
        async with LyingWorld(relayed=relayed) as world:
            reason = await world.reason()
            assert f"relays where nobody gets to: {relayed} " in reason
            assert why in reason
            await asyncio.sleep(1)
            assert world.liar.allocations == {}, "it is given back"

    virtual(story)


def test_a_private_address_that_a_server_made_up_opens_nothing_of_our_own_network() -> None:
    """The server and the peer are one: it says that it relays at our neighbour's address, and then the peer does."""

    async def story() -> None:
        async with LyingWorld(relayed="192.168.1.50:50000") as world:
            allocation = await world.a.run.relays.open_udp(frozenset({PUBLIC.family}))
            session = hosted_by(world.a, 1, world.b.node.public_key)
            neighbour = Endpoint.parse("192.168.1.50:6000")
            assert session.relays.admit([neighbour]) == (neighbour,)
            assert not session.relays.reachable(neighbour)
            with pytest.raises(AttemptFailed):
                session.relays.admit([Endpoint.parse("192.168.1.51:6000")])
            session.close()
            allocation.drop()
            await asyncio.sleep(1)

    virtual(story)


@pytest.mark.parametrize(
    ("alternate", "why"),
    [
        ("127.0.0.1:6000", "own address"), ("127.0.0.9:6000", "loopback"), ("192.168.1.50:3478", "private"),
        ("192.168.1.2:6000", "own address"),        ("0.0.0.0:6000", "no unicast"), ("203.0.113.7:0", "port 0"),
    ],
)  # fmt: skip
def test_try_alternate_does_not_lead_to_this_machine_or_its_network(alternate: str, why: str) -> None:
    async def story() -> None:
        async with LyingWorld(alternate=alternate) as world:
            packets = world.internet.capture()
            reason = await world.reason()
            assert "sends us astray" in reason
            assert why in reason
            target = Endpoint.parse(alternate)
            assert not [seen for seen in packets if seen.sent and seen.packet.flow.destination == target]

    virtual(story)


def test_try_alternate_leads_to_another_server_of_the_internet() -> None:
    """The counterpart: what refuses those could refuse everything."""

    async def story() -> None:
        async with LyingWorld(alternate=str(PUBLIC)) as world:
            near, far, _ = await connected(world, **OVER_UDP)
            assert near.plugin == "turn"
            assert len(world.turn.allocations) == 1
            await near.close()
            await far.close()

    virtual(story)


def test_try_alternate_is_followed_twice() -> None:
    async def story() -> None:
        async with LyingWorld(alternate="203.0.113.21:3478") as world:
            chain = []
            for number in range(21, 26):
                place = Endpoint.of(f"203.0.113.{number}", 3478)
                chain.append(LyingTurn(world.internet.host("liar", str(place.ip)), place))
                chain[-1].alternate = Endpoint.of(f"203.0.113.{number + 1}", 3478)
            assert "from one server to the next" in await world.reason()
            assert [bool(server.requests) for server in chain] == [True, True, False, False, False]
            for server in chain:
                await server.close()

    virtual(story)


def test_of_the_relayed_endpoints_that_a_peer_names_four_are_tried() -> None:
    async def story() -> None:
        async with RelayWorld("edm", "edm") as world:
            session = hosted_by(world.a, 1, world.b.node.public_key)
            named = [Endpoint.of(f"203.0.113.{number}", 50000) for number in range(30, 40)]
            assert session.relays.admit(named) == tuple(named[:ENDPOINTS_PER_SESSION])
            with pytest.raises(AttemptFailed, match=f"more than {ENDPOINTS_PER_SESSION} relayed endpoints"):
                session.relays.admit(named[6:])
            session.close()

    virtual(story)
