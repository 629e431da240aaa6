"""Servers that are asked one thing over TCP and go on talking: a question has an end, and little is held meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from warpgate.errors import ServiceError
from warpgate.model.endpoint import Endpoint
from warpgate.model.turn_server import Credentials, TurnServer, TurnTransport
from warpgate.net.network import TcpStream
from warpgate.proto.stun import BINDING, Attribute, Method, StunClass, StunMessage, encode
from warpgate.proto.turn_auth import LongTermAuth
from warpgate.proto.turn_events import PeerConnected
from warpgate.proto.turn_wire import RelayRequest
from warpgate.services.relay_allocation import Allocation
from warpgate.services.relay_carrier import CHUNK, USELESS_RATE, Route, StreamCarrier, UdpCarrier
from warpgate.services.relay_tcp import MAX_CALLS, TcpRelay, bind_connection
from warpgate.services.stun_tcp import StunStream
from warpgate_testing.clock import run_virtual

SERVER = Endpoint.parse("203.0.113.1:3478")
FOREIGN = encode(StunMessage(BINDING, StunClass.SUCCESS, bytes(12), ()))


class Talker:
    """A connection over which somebody says `word` as often as it is read from, 4 MiB at most."""

    def __init__(self, word: bytes) -> None:
        self._word = word
        self.read = 0
        self.local, self.remote = Endpoint.parse("192.0.2.1:5000"), SERVER

    async def send(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    async def recv(self, limit: int) -> bytes:
        assert self.read < 4 * 2**20, "it is listened to for ever"
        data = (self._word * (limit // len(self._word) + 1))[:limit]
        data = data[: limit - limit % len(self._word)]
        self.read += len(data)
        return data

    @property
    def stream(self) -> TcpStream:
        return cast("TcpStream", self)


def _data_connection(talker: Talker) -> Coroutine[Any, Any, object]:
    auth = LongTermAuth(Credentials("user", "password"))
    allocation = SimpleNamespace(auth=auth, route=SimpleNamespace(endpoint=SERVER))
    return bind_connection(talker.stream, cast("Allocation", allocation), 1)


def _binding(talker: Talker) -> Coroutine[Any, Any, object]:
    return StunStream(talker.stream).bind()


@pytest.mark.parametrize("ask", [_data_connection, _binding])
@pytest.mark.parametrize(
    "word", [FOREIGN, b"\x01\x01\xff\xfc" + FOREIGN[4:20]], ids=["answers to others", "one that never ends"]
)
def test_a_server_that_talks_and_does_not_answer(ask: Any, word: bytes) -> None:
    talker = Talker(word)
    with pytest.raises(ServiceError, match=r"does not answer|more than"):
        asyncio.run(ask(talker))
    assert talker.read <= 64 * 1024


def data_of(peer: str) -> bytes:
    attributes = ((Attribute.XOR_PEER_ADDRESS, Endpoint.parse(peer)), (Attribute.DATA, bytes(1000)))
    return encode(StunMessage(Method.DATA, StunClass.INDICATION, bytes(12), attributes))


@pytest.mark.parametrize("word", [FOREIGN, data_of("203.0.113.7:7")], ids=["answers to others", "data of strangers"])
def test_an_allocation_whose_server_sends_what_is_of_no_use_reads_it_slowly(word: bytes) -> None:
    async def main() -> None:
        talker = Talker(word)
        route = Route(
            TurnServer("203.0.113.1", 3478, TurnTransport.TCP, Credentials("u", "p")),
            SERVER,
            TurnTransport.TCP,
            "",
        )
        allocation = Allocation(
            route,
            Credentials("u", "p"),
            RelayRequest(),
            lambda on_frame, on_broken, _: StreamCarrier(talker.stream, on_frame, on_broken),
            lambda *_: None,
        )
        await asyncio.sleep(3.0)
        assert USELESS_RATE < talker.read <= 3 * USELESS_RATE + CHUNK
        allocation._over("the test is", lost=False)

    run_virtual(main())


def test_what_is_of_use_is_read_as_fast_as_it_comes() -> None:
    async def main() -> None:
        talker, broken = Talker(FOREIGN), asyncio.Event()
        of_use = itertools.cycle([False] * 500 + [True])
        carrier = StreamCarrier(talker.stream, lambda _: next(of_use), lambda _: broken.set())
        with contextlib.suppress(AssertionError):  # it has said all that it says
            await carrier._reading
        assert asyncio.get_running_loop().time() == 0.0
        carrier.close()

    run_virtual(main())


def test_a_relay_over_udp_is_heard_only_from_its_own_endpoint() -> None:
    socket, frames, network = Mock(), list[bytes](), Mock()
    network.open_udp.return_value = socket
    server = TurnServer("203.0.113.1", 3478, TurnTransport.UDP, Credentials("u", "p"))
    route = Route(server, SERVER, TurnTransport.UDP, "", Endpoint.parse("192.0.2.1:1").ip)
    UdpCarrier(network, route, lambda frame: frames.append(frame) is None, lambda: None)
    received = network.open_udp.call_args.args[1]
    for source in ("203.0.113.1:3479", "203.0.113.2:3478", "203.0.113.1:3478"):
        received(source.encode(), Endpoint.parse(source).sockaddr)
    assert frames == [b"203.0.113.1:3478"]


def test_calls_that_never_come_about_are_bounded() -> None:
    """A server that says again and again that a peer has called, and lets none of the data connections be made."""

    async def main() -> None:
        allocation, dials = Mock(relayed=(SERVER,)), 0

        async def dial() -> TcpStream:
            nonlocal dials
            dials += 1
            return await asyncio.get_running_loop().create_future()

        relay = TcpRelay(allocation, dial, Mock())
        for number in range(10 * MAX_CALLS):
            allocation.on_tcp(PeerConnected(Endpoint.parse("203.0.113.7:7"), number, asked=False))
        await asyncio.sleep(1.0)
        assert (len(relay._tasks), dials) == (
            MAX_CALLS,
            MAX_CALLS,
        )  # the first one takes what was dialled ahead
        relay.close()

    run_virtual(main())
