"""What fails when nobody waits for it any more is no news: the loop must not report a failure that nobody saw."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from warpgate.errors import ServiceError
from warpgate.model.endpoint import Endpoint, IPAddress, SockAddr, Transport
from warpgate.model.servers import BrokerUrl
from warpgate.net.network import DatagramReceiver
from warpgate.proto.turn_wire import RelayRequest
from warpgate.services.mqtt_wire import WebWire
from warpgate.services.relay import RESERVE_RETRY, Relays
from warpgate.services.relay_allocation import Allocation
from warpgate.services.service_records import _ask_one
from warpgate.services.upnp import Pinholes
from warpgate_testing.clock import run_virtual
from warpgate_testing.internet import MemoryInternet

SERVER = Endpoint.parse("203.0.113.1:53")


def nothing_is_reported(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    reports: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
        await main()
        await asyncio.sleep(1.0)
        gc.collect()

    run_virtual(watched())
    assert reports == []


def test_a_broker_hangs_up_before_the_websocket_is_asked_for() -> None:
    class Reader:
        def lost(self, reason: str) -> None: ...

    async def main() -> None:
        wire = WebWire(Reader(), BrokerUrl.parse("ws://example.org/"))  # type: ignore[arg-type]
        wire.connection_lost(None)

    nothing_is_reported(main)


class FailingResolver:
    """A network and its socket: each question is answered at once by a server failure."""

    def route_source(self, remote: Endpoint) -> IPAddress:
        return remote.ip

    def open_udp(self, local: Endpoint, receiver: DatagramReceiver) -> FailingResolver:
        self._receiver = receiver
        return self

    def send(self, question: bytes, to: SockAddr) -> None:
        self._receiver(question[:2] + b"\x81\x82" + question[4:], to)  # RFC 1035 section 4.1.1: RCODE 2

    def close(self) -> None: ...


def test_a_resolver_fails_in_the_turn_in_which_its_answer_is_given_up() -> None:
    async def main() -> None:
        asking = asyncio.ensure_future(_ask_one(FailingResolver(), SERVER, "_turn._udp.example.org"))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    nothing_is_reported(main)


def test_a_router_refuses_a_pinhole_that_is_given_up_meanwhile() -> None:
    class Refuses(Pinholes):
        async def _call(self, action: str, **arguments: object) -> dict[str, str]:
            await asyncio.sleep(0.1)
            raise ServiceError("no room")

    async def main() -> None:
        router = Refuses(None, None, SERVER.ip)  # type: ignore[arg-type]
        mapping = asyncio.ensure_future(router.map(Transport.UDP, SERVER, 0, 60))
        await asyncio.sleep(0.05)
        mapping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await mapping
        await router.unmap(Transport.UDP, SERVER, 0)

    nothing_is_reported(main)


def test_relays_that_are_closed_in_the_turn_in_which_the_reserve_fails_ask_no_more() -> None:
    asked = 0

    async def main() -> None:
        relays = Relays(MemoryInternet().host("host", "203.0.113.9"), ["turn:u:p@203.0.113.1"], lambda _: None)

        async def fail(_: RelayRequest) -> Allocation:
            nonlocal asked
            asked += 1
            raise ServiceError("no room")

        relays._open = fail  # type: ignore[assignment, method-assign]
        relays.stock()
        await asyncio.sleep(0)
        await relays.close()
        await asyncio.sleep(2 * RESERVE_RETRY)

    nothing_is_reported(main)
    assert asked == 1
