"""What befalls networks with IPv6: moves, renumbering by the router, addresses that change daily. In virtual time.

Their IPv4 NATs are such that it is of no use, and their IPv6 firewalls let in answers alone (RFC 6092).
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cascade_world import OVER_TCP, OVER_UDP, World, connected, exchange, virtual
from durable_kit import (
    Counters,
    Fault,
    both,
    darkness,
    forgotten,
    moved_with_ipv6,
    readdressed,
)

from warpgate.core.connections import LINGERING
from warpgate.errors import PipeClosed
from warpgate.model.endpoint import Mode, Transport

SETTLED, WATCHED = 1.0, 2.0
QUIC = {"mode": Mode.STREAM, "transport": Transport.UDP}
V4 = {"a": "192.168.1.2", "b": "192.168.2.2"}
OLD = {"a": "2001:db8:1::2", "b": "2001:db8:2::2"}
NEW = {"a": "2001:db8:1:1::2", "b": "2001:db8:2:1::2"}


def renumbered(name: str) -> Fault:
    """Without a warning (RFC 8978): the prefix before is not routed any more."""
    return readdressed(name, V4[name], NEW[name])


def announced(name: str) -> Fault:
    """The router announces another prefix, and the one before as deprecated (RFC 4192 section 2.3)."""
    return readdressed(name, V4[name], NEW[name], OLD[name], spare=OLD[name])


async def gone(world: World) -> None:
    await asyncio.sleep(LINGERING + 1)
    assert (len(world.a.run.connections), len(world.b.run.connections)) == (0, 0)
    await world.quiet()


@pytest.mark.parametrize(
    ("faults", "worst"),
    [
        pytest.param([moved_with_ipv6("a", 77, 4, 6)], 0.28, id="the initiator moves"),
        pytest.param([moved_with_ipv6("b", 78, 4, 6)], 0.28, id="the listener moves"),
        pytest.param([both(moved_with_ipv6("a", 77, 4, 6), moved_with_ipv6("b", 78, 4, 6))], 0.28, id="both move"),
        pytest.param([renumbered("a")], 0.28, id="the initiator is renumbered"),
        pytest.param([renumbered("b")], 0.28, id="the listener is renumbered"),
        pytest.param([both(renumbered("a"), renumbered("b"))], 0.28, id="both are renumbered"),
        pytest.param([announced("a"), renumbered("a")], 0.05, id="the initiator, with notice"),
        pytest.param([announced("b"), renumbered("b")], 0.05, id="the listener, with notice"),
        pytest.param(
            [both(announced("a"), announced("b")), both(renumbered("a"), renumbered("b"))],
            0.05,
            id="both, with notice",
        ),
        pytest.param([forgotten], 0.1, id="firewalls forget"),
        pytest.param([darkness(1.5)], 1.7, id="1.5 s of darkness"),
    ],
)
def test_a_busy_pipe_goes_on(faults: list[Fault], worst: float) -> None:
    async def main() -> None:
        async with World("edm", "edm", v6=True) as world:
            near, far, _ = await connected(world, durable=True)
            assert near.remote.family == 6
            counters = Counters(near, far)
            for fault in faults:
                await asyncio.sleep(SETTLED)
                began = world.now
                fault(world)
                await asyncio.sleep(WATCHED)
                assert counters.worst(began) <= worst
            assert near.remote.family == 6
            await counters.stop()
            await near.close()
            await far.close()
            await gone(world)

    virtual(main)


@pytest.mark.parametrize("name", ["a", "b"])
def test_from_ipv6_alone_to_ipv4_alone_and_back(name: str) -> None:
    """The other one has both; what the first one had is of no use in either new network."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf", v6=True) as world:
            readdressed(name, OLD[name])(world)
            await asyncio.sleep(5)
            near, far, _ = await connected(world, durable=True)
            counters = Counters(near, far)
            for number, families in ((77, (4,)), (78, (6,)), (79, (4, 6))):
                await asyncio.sleep(SETTLED)
                began = world.now
                moved_with_ipv6(name, number, *families, kind="eim-apdf")(world)
                await asyncio.sleep(WATCHED)
                assert counters.worst(began) <= 0.28
                assert near.remote.family in families
            await counters.stop()
            await near.close()
            await far.close()
            await gone(world)

    virtual(main)


def test_an_idle_pipe_leaves_a_prefix_before_it_is_gone() -> None:
    async def main() -> None:
        async with World("edm", "edm", v6=True) as world:
            near, far, _ = await connected(world, durable=True)
            await asyncio.sleep(60)
            announced("b")(world)
            await asyncio.sleep(60)
            renumbered("b")(world)
            began = world.now
            await exchange(far, near)
            assert world.now - began < 0.1
            assert str(far.local.ip) == NEW["b"]
            await near.close()
            await far.close()
            await gone(world)

    virtual(main)


# -- plain pipes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [OVER_UDP, OVER_TCP, QUIC], ids=["datagram", "tcp", "quic"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_plain_pipe_lives_as_long_as_its_address_does(options: dict[str, Any], name: str) -> None:
    """That of today's temporary address (RFC 8981), when tomorrow's comes: it is not for new pipes any more."""

    async def main() -> None:
        async with World("edm", "edm", v6=True) as world:
            seat = world.a if name == "a" else world.b
            near, far, _ = await connected(world, **options)
            one = near if name == "a" else far
            assert str(one.local.ip) == OLD[name]
            announced(name)(world)
            await asyncio.sleep(100)
            assert {str(each.host) for each in seat.node.address.attachments} == {V4[name], NEW[name]}
            await exchange(near, far)
            later, other, _ = await connected(world, **options)
            assert str((later if name == "a" else other).local.ip) == NEW[name]
            await exchange(later, other)
            renumbered(name)(world)
            with pytest.raises(PipeClosed, match=f"the network interface with {OLD[name]} went away"):
                await one.recv(timeout=1)
            await exchange(later, other)
            bases = {str(port.base.ip) for port in seat.run.udp.ports}
            assert bases == {V4[name], NEW[name]}
            for pipe in (near, far, later, other):
                pipe.abort()
            await world.quiet()

    virtual(main)


def test_a_deprecated_address_that_nothing_uses_is_let_go_of_at_once() -> None:
    async def main() -> None:
        async with World("edm", "edm", v6=True) as world:
            announced("a")(world)
            await asyncio.sleep(1)
            assert {str(port.base.ip) for port in world.a.run.udp.ports} == {V4["a"], NEW["a"]}

    virtual(main)
