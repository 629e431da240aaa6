"""The sockets that sample how a NAT assigns ports."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from warpgate.model.endpoint import Endpoint
from warpgate.services.stun_samples import PARITY_DRAWS, SOCKETS, sample_assignment
from warpgate_testing.clock import run_virtual
from warpgate_testing.internet import MemoryInternet
from warpgate_testing.servers import MemoryStun

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
