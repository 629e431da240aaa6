"""Servers of the internet in memory: brokers and STUN responders, for whole nodes in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from functools import partial

from warpgate.errors import AddressError, ConfigError, DecodeError, NetworkError, ServiceError
from warpgate.model.endpoint import Endpoint, SockAddr
from warpgate.net.network import TcpStream, UdpSocket
from warpgate.proto.stun import (
    BINDING,
    Attribute,
    AttributeValue,
    ChangeRequest,
    StreamDecoder,
    StunClass,
    StunMessage,
    decode,
    encode,
)
from warpgate.services.broker import BrokerLink, Judge, MessageReceiver, no_matter, not_before
from warpgate_testing.network import MemoryNetwork


def no_lag() -> float:
    """A broker that hands messages on at once."""
    return 0.0


class MemoryBroker:
    """One broker: topics, subscribers, and a one-way time to each client. `kill` ends it like a crash."""

    def __init__(
        self,
        url: str,
        one_way: float = 0.02,
        loss: float = 0.0,
        rng: random.Random | None = None,
        lag: Callable[[], float] = no_lag,
    ) -> None:
        """`loss` drops messages, as a broker does under load; `lag`: seconds that one stays in the broker, which no
        client can measure by a round trip.
        """
        self.url = url
        self.one_way = one_way
        self.loss = loss
        self.lag = lag
        self.alive = True
        self.log: list[tuple[str, bytes]] = []  # topic and message: what anybody can read on a public broker
        self._rng = random.Random(0) if rng is None else rng
        self._links: list[MemoryBrokerLink] = []

    @property
    def published(self) -> int:
        """How many messages clients have published."""
        return len(self.log)

    async def connect(
        self,
        topic: str,
        on_message: MessageReceiver,
        on_step: Callable[[], None] = no_matter,
        on_open: Callable[[BrokerLink], None] = not_before,
    ) -> MemoryBrokerLink:
        """A round trip for TCP, and one for CONNECT and SUBSCRIBE together, with which messages may leave."""
        await self._round_trip(on_step)
        link = MemoryBrokerLink(self, topic, on_message)
        on_open(link)
        await self._round_trip(on_step)
        self._links.append(link)
        return link

    async def _round_trip(self, on_step: Callable[[], None]) -> None:
        await asyncio.sleep(2 * self.one_way)
        if not self.alive:
            raise NetworkError(f"{self.url}: connection refused")
        on_step()

    def publish(self, topic: str, data: bytes) -> None:
        """A message has left a client: deliver it two trips later to whoever listens by then."""
        self.log.append((topic, data))
        if self._rng.random() >= self.loss:
            delay = 2 * self.one_way + self.lag()
            asyncio.get_running_loop().call_later(delay, self._deliver, topic, data)

    def _deliver(self, topic: str, data: bytes) -> None:
        for link in tuple(self._links):
            if link.topic == topic and self.alive:
                link.on_message(data)

    def kill(self) -> None:
        """Its clients see the connection end; what is on its way is lost; nobody gets in until `revive`."""
        self.alive = False
        for link in tuple(self._links):
            link.end("the broker died")

    def revive(self) -> None:
        """As after a restart: up, with no clients."""
        self.alive = True

    @property
    def clients(self) -> int:
        return len(self._links)

    def drop(self, link: MemoryBrokerLink) -> None:
        if link in self._links:
            self._links.remove(link)


class MemoryBrokerLink:
    """A client's connection to a `MemoryBroker`; implements `services.broker.BrokerLink`."""

    def __init__(self, broker: MemoryBroker, topic: str, on_message: MessageReceiver) -> None:
        self.topic = topic
        self.on_message = on_message
        self.dropped = 0
        self._broker = broker
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def rtt(self) -> float:
        return 2 * self._broker.one_way

    def publish(self, topic: str, data: bytes) -> None:
        if self._ended.done():
            self.dropped += 1
        else:
            self._broker.publish(topic, data)

    async def closed(self) -> str:
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        self.end("closed on this side")

    def end(self, reason: str) -> None:
        self._broker.drop(self)
        if not self._ended.done():
            self._ended.set_result(reason)


class MemoryBrokers:
    """A `BrokerConnector` over a set of memory brokers."""

    def __init__(self, *brokers: MemoryBroker) -> None:
        self._brokers = {broker.url: broker for broker in brokers}

    async def connect(
        self,
        url: str,
        topic: str,
        on_message: MessageReceiver,
        judge: Judge | None = None,
        on_step: Callable[[], None] = no_matter,
        on_open: Callable[[BrokerLink], None] = not_before,
    ) -> MemoryBrokerLink:
        """Names stand for brokers of the internet; an address in the URL is judged."""
        if judge is not None and (reason := self._refusal(url, judge)) is not None:
            raise NetworkError(reason)
        broker = self._brokers.get(url)
        if broker is None:
            raise ServiceError(f"there is no broker at {url}")
        return await broker.connect(topic, on_message, on_step, on_open)

    @staticmethod
    def _refusal(url: str, judge: Judge) -> str | None:
        try:
            return judge(Endpoint.parse(url.partition("://")[2]))
        except AddressError:
            return None


class MemoryStun:
    """A STUN server (RFC 8489 Binding over UDP and TCP) on a host of the internet in memory.

    With a second address and port of the same host it answers RFC 5780's CHANGE-REQUEST as well.
    """

    def __init__(self, network: MemoryNetwork, local: Endpoint, other: Endpoint | None = None) -> None:
        """ConfigError when `other` does not differ from `local` in both address and port."""
        if other is not None and (other.ip == local.ip or other.port == local.port):
            raise ConfigError(f"RFC 5780 wants another address and port than {local}, not {other}")
        self._streams: set[asyncio.Task[None]] = set()
        self.asked = 0
        self._local = local
        self._other = other
        places = [local] if other is None else [Endpoint(e.ip, f.port) for e in (local, other) for f in (local, other)]
        self._udp: dict[Endpoint, UdpSocket] = {
            place: network.open_udp(place, partial(self._datagram, place)) for place in places
        }
        self._listener = network.listen_tcp(local, self._accepted)

    def _datagram(self, at: Endpoint, data: bytes, source: SockAddr) -> None:
        with contextlib.suppress(DecodeError):
            request = _request(data)
            change = request.get(Attribute.CHANGE_REQUEST)
            origin = self._origin(at, change if isinstance(change, ChangeRequest) else ChangeRequest.NOTHING)
            self.asked += 1
            self._udp[origin].send(self._answer(request, at, Endpoint.from_sockaddr(source)), source)

    def _origin(self, at: Endpoint, change: ChangeRequest) -> Endpoint:
        """Where the answer comes from (RFC 5780 section 6.1)."""
        if self._other is None:
            return at
        opposite = self._opposite(at, self._other)
        ip = opposite.ip if change & ChangeRequest.IP else at.ip
        return Endpoint(ip, opposite.port if change & ChangeRequest.PORT else at.port)

    def _opposite(self, at: Endpoint, other: Endpoint) -> Endpoint:
        ip = other.ip if at.ip == self._local.ip else self._local.ip
        return Endpoint(ip, other.port if at.port == self._local.port else self._local.port)

    def _answer(self, request: StunMessage, at: Endpoint, source: Endpoint) -> bytes:
        attributes: list[tuple[int, AttributeValue]] = [(Attribute.XOR_MAPPED_ADDRESS, source)]
        if self._other is not None:
            attributes.append((Attribute.OTHER_ADDRESS, self._opposite(at, self._other)))
        return encode(StunMessage(BINDING, StunClass.SUCCESS, request.transaction_id, tuple(attributes)))

    def _accepted(self, stream: TcpStream) -> None:
        task = asyncio.ensure_future(self._serve(stream))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)

    async def _serve(self, stream: TcpStream) -> None:
        decoder = StreamDecoder()
        with contextlib.suppress(DecodeError, NetworkError), contextlib.closing(stream):
            while data := await stream.recv(4096):
                decoder.feed(data)
                while (frame := decoder.next_frame()) is not None:
                    self.asked += 1
                    await stream.send(self._answer(_request(frame), self._local, stream.remote))

    async def close(self) -> None:
        for sock in self._udp.values():
            sock.close()
        self._listener.close()
        for task in tuple(self._streams):
            task.cancel()
        if self._streams:
            await asyncio.wait(self._streams)


class SlowStun(MemoryStun):
    """Lets `pause` seconds pass before each answer."""

    pause = 3.6  # who asks over UDP gives up after 3.75 s, over TCP after 5 s

    def _datagram(self, at: Endpoint, data: bytes, source: SockAddr) -> None:
        asyncio.get_running_loop().call_later(self.pause, super()._datagram, at, data, source)

    async def _serve(self, stream: TcpStream) -> None:
        try:
            await asyncio.sleep(self.pause)
        except BaseException:
            stream.close()
            raise
        await super()._serve(stream)


def _request(data: bytes) -> StunMessage:
    request = decode(data)
    if request.method != BINDING or request.cls is not StunClass.REQUEST:
        raise DecodeError("not a Binding request")
    return request
