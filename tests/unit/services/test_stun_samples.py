"""The sockets that sample how a NAT assigns ports."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import Any

import pytest

from warpgate.model.endpoint import Endpoint
from warpgate.services.stun_samples import PARITY_DRAWS, SOCKETS, sample_assignment
from warpgate.services.stun_tcp import OTHERS, SAMPLES, sample_tcp
from warpgate_testing.clock import run_virtual
from warpgate_testing.internet import MemoryInternet, PathSpec
from warpgate_testing.servers import MemoryStun, SlowStun

STUN, STUN_2 = Endpoint.parse("203.0.113.1:3478"), Endpoint.parse("203.0.113.2:3479")


class Drawing:
    """A host whose system draws these ports, one after the other."""

    def __init__(self, network: Any, ports: list[int]) -> None:
        self._network, self._ports = network, iter(ports)

    def open_udp(self, local: Endpoint, receiver: Any) -> Any:
        return self._network.open_udp(Endpoint(local.ip, next(self._ports)), receiver)


@pytest.mark.parametrize("own", [5000, 5001])
@pytest.mark.parametrize("odd_first", [0, 1, 5, 1000])
def test_even_and_odd_ports_are_among_those_that_are_sampled(own: int, odd_first: int) -> None:
    """Else a NAT that keeps parity cannot be told from one that gives even ports alone. A system that draws odd ports
    alone is not asked for ever.
    """
    draws = [20001 + 2 * n for n in range(odd_first)] + [30000 + n for n in range(100)]

    async def main() -> None:
        internet = MemoryInternet(seed=1)
        stun = MemoryStun(internet.host("stun", "203.0.113.1", "203.0.113.2"), STUN, STUN_2)
        host: Any = Drawing(internet.host("a", "198.51.100.7"), draws)
        near = Endpoint.of("198.51.100.7", own)
        sampled = await sample_assignment(host, near, (STUN,), 1)
        assert len(sampled.seen) == SOCKETS
        parities = {own & 1, *(seen.local.port & 1 for seen in sampled.seen)}
        possible = {own & 1, 1} if odd_first > PARITY_DRAWS else {0, 1}
        assert parities == possible
        await stun.close()
        await asyncio.sleep(0.1)
        assert internet.open_sockets() == ()

    run_virtual(main())


@pytest.mark.parametrize("places", [(0, 1), (0, 2), (1, 2), (0,)])
def test_a_server_that_is_slow_on_purpose_holds_no_sample_of_tcp_up(places: tuple[int, ...]) -> None:
    """Wherever it is among honest ones: what the last one of the samples sees was waited for, 10 s."""

    async def main() -> float:
        internet = MemoryInternet(seed=1, path=PathSpec(delay=0.02))
        at = [Endpoint.parse(f"203.0.113.{number}:3478") for number in (1, 2, 3)]
        stuns = [
            (MemoryStun if number in places else SlowStun)(internet.host(str(server), str(server.ip)), server)
            for number, server in enumerate(at)
        ]
        loop = asyncio.get_running_loop()
        began = loop.time()
        seen, stream = await sample_tcp(internet.host("a", "198.51.100.7"), at, ip_address("198.51.100.7"))
        seconds = loop.time() - began
        assert seen[-1].mapped == stream.local
        assert len(seen) == SAMPLES or seen[-1].server == at[2]
        stream.abort()
        for stun in stuns:
            await stun.close()
        await asyncio.sleep(1.0)
        assert internet.open_sockets() == ()
        return seconds

    # Two round trips, as long again, and two once more.
    assert run_virtual(main()) <= 3 * max(4 * 0.02, OTHERS) + 1e-6


@pytest.mark.parametrize("instant", [0.0, 0.01, 0.05, 0.09, 0.12, 0.17, 0.2])
def test_samples_of_tcp_that_are_given_up_leave_nothing_open(instant: float) -> None:
    async def main() -> None:
        internet = MemoryInternet(seed=1, path=PathSpec(delay=0.02))
        at = [Endpoint.parse(f"203.0.113.{number}:3478") for number in (1, 2, 3)]
        kinds = (MemoryStun, MemoryStun, SlowStun)
        stuns = [kind(internet.host(str(one), str(one.ip)), one) for kind, one in zip(kinds, at, strict=True)]
        host = internet.host("a", "198.51.100.7")
        asking = asyncio.ensure_future(sample_tcp(host, at, ip_address("198.51.100.7")))
        await asyncio.sleep(instant)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0.001)
        assert [entry for entry in internet.open_sockets() if entry.host == "a"] == []
        for stun in stuns:
            await stun.close()

    run_virtual(main())
