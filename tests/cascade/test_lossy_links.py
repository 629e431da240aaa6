"""10 % loss on each of two links: a durable pipe is direct every time, and soon carries its first byte."""

from __future__ import annotations

import pytest
from bench.lossy_links import COUNT, FIRST_BYTE, KINDS, first_byte
from cascade_world import HOP, OVER_TCP, R, S, World, connected, exchange, virtual

from warpgate_testing.clock import run_virtual
from warpgate_testing.tcp import TcpSegment
from warpgate_testing.wire import Host, Packet


@pytest.mark.parametrize("kinds", KINDS[:1], ids="-".join)
def test_the_first_byte_comes_within_a_second_in_19_of_20(kinds: tuple[str, str]) -> None:
    done = [run_virtual(first_byte(kinds, seed, {"durable": True})) for seed in range(COUNT)]
    assert all(direct for direct, _ in done)
    assert sorted(seconds for _, seconds in done)[COUNT - 2] * 1000 <= FIRST_BYTE


def test_the_end_of_a_volley_ends_no_connection_that_the_initiator_has_chosen() -> None:
    """Its HELLO is lost three times in a row, after that of the responder has come through and was proof enough."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            wire, deaf_until = world.internet._wire, world.now + 1.8
            send = wire.send

            def lossy(host: Host, packet: Packet) -> None:
                segment = packet.payload
                hello = isinstance(segment, TcpSegment) and segment.seq == 1 and segment.data
                if not (host.name == "a" and hello and world.now < deaf_until):
                    send(host, packet)

            wire.send = lossy  # type: ignore[method-assign]
            one, other, waited = await connected(world, **OVER_TCP)
            assert (one.plugin, waited) == ("tcp_punch", pytest.approx(S + R + HOP, abs=1e-6))
            assert world.now > deaf_until
            await exchange(one, other)

    virtual(main)
