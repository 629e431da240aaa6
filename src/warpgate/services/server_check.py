"""Whether an outside server does its part: for `doctor --servers`, and for those who keep the list of public ones.

A broker is well when a message of ours comes back from it, not when it accepts a connection: some take CONNECT, and
even SUBSCRIBE, and pass nothing on. Of a STUN server both transports are asked, and whether it has a second address.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from warpgate.errors import DecodeError, NetworkError, ServiceError, WarpgateError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, SockAddr, Transport
from warpgate.model.servers import BrokerUrl, StunServer
from warpgate.net.network import Network
from warpgate.net.reach import in_order
from warpgate.proto.stun import (
    BINDING,
    TRANSACTION_ID_SIZE,
    Attribute,
    StreamDecoder,
    StunClass,
    StunMessage,
    decode,
    encode,
)
from warpgate.services.broker import BrokerConnector
from warpgate.services.defaults import public_login

PATIENCE = 10.0
# When a datagram is repeated: three times are enough to tell a dead server from a lossy line.
REPEATED_AFTER = (0.5, 1.0, 2.0)
LARGEST_ANSWER = 2048
_TOPIC = "warpgate/2/check-"


@dataclass(frozen=True, slots=True)
class ServerCheck:
    """`entry` as it stands in a list; `seconds` for one question and its answer; `error` "" when all is well."""

    kind: str  # "broker", "stun"
    entry: str
    seconds: float = 0.0
    words: str = ""
    error: str = ""

    def row(self, day: str) -> str:
        """A line for the next list; one that failed is left out of it by a comment."""
        line = f'    "{self.entry}",  # {day}: {self.error or self.words}'
        return f"    # {line.strip()}" if self.error else line


async def check_servers(
    network: Network,
    connector: BrokerConnector,
    brokers: Sequence[BrokerUrl],
    stun: Sequence[StunServer],
) -> tuple[ServerCheck, ...]:
    """In the order of the list; all at once, within `PATIENCE` each."""
    checks = [_within(partial(_broker, connector, broker), "broker", written(broker)) for broker in brokers]
    checks += [_within(partial(_stun, network, server), "stun", str(server)) for server in stun]
    return tuple(await asyncio.gather(*checks))


def written(broker: BrokerUrl) -> str:
    """As a list has it. A log-in is shown where it is everybody's."""
    return broker.with_login if broker.login == public_login(str(broker)) else str(broker)


async def _within(check: Callable[[], Awaitable[tuple[float, str]]], kind: str, entry: str) -> ServerCheck:
    try:
        async with asyncio.timeout(PATIENCE):
            seconds, words = await check()
    except TimeoutError:
        return ServerCheck(kind, entry, error=f"no answer within {PATIENCE:g} s")
    except WarpgateError as error:
        return ServerCheck(kind, entry, error=str(error))
    return ServerCheck(kind, entry, seconds, words)


async def _broker(connector: BrokerConnector, broker: BrokerUrl) -> tuple[float, str]:
    loop = asyncio.get_running_loop()
    topic, word = _TOPIC + secrets.token_hex(8), secrets.token_bytes(64)
    back: asyncio.Future[float] = loop.create_future()

    def received(data: bytes) -> None:
        if data == word and not back.done():
            back.set_result(loop.time())

    link = await connector.connect(broker.with_login, topic, received)
    try:
        sent = loop.time()
        link.publish(topic, word)
        ended = asyncio.ensure_future(link.closed())
        await asyncio.wait((back, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not back.done():
            raise ServiceError(f"the link ended before a message was back: {ended.result()}")
        seconds = back.result() - sent
        return seconds, f"a message was back after {seconds * 1000:.0f} ms"
    finally:
        await link.close()


async def _stun(network: Network, server: StunServer) -> tuple[float, str]:
    """Every transport that it is said to serve has to answer."""
    found = in_order(await network.resolve(server.host, server.port))
    usable = [endpoint for endpoint in found if network.route_source(endpoint) is not None]
    if not usable:
        raise NetworkError("no route to it")
    asked = [transport for transport in (Transport.UDP, Transport.TCP) if server.serves(transport)]
    told = []
    loop = asyncio.get_running_loop()
    for transport in asked:
        began = loop.time()
        ask = _ask_udp if transport is Transport.UDP else _ask_tcp
        try:
            async with asyncio.timeout(sum(REPEATED_AFTER)):
                answer = await ask(network, usable[0])
        except TimeoutError:
            raise ServiceError(f"silent over {transport.name}") from None
        except WarpgateError as error:
            raise ServiceError(f"{transport.name}: {error}") from error
        told.append((loop.time() - began, transport, Attribute.OTHER_ADDRESS in answer))
    words = ", ".join(f"{transport.value} {seconds * 1000:.0f} ms" for seconds, transport, _ in told)
    return told[0][0], words + ", OTHER-ADDRESS" * all(other for _, _, other in told)


async def _ask_udp(network: Network, server: Endpoint) -> StunMessage:
    answer: asyncio.Future[StunMessage] = asyncio.get_running_loop().create_future()
    question, request = _request()

    def received(data: bytes, source: SockAddr) -> None:
        if source[:2] == server.sockaddr[:2] and not answer.done():
            message = _answer_to(question, data)
            if message is not None:
                answer.set_result(message)

    source = network.route_source(server)
    assert source is not None
    sock = network.open_udp(Endpoint(source, 0), received)
    try:
        for pause in REPEATED_AFTER:
            sock.send(request, server.sockaddr)
            done, _ = await asyncio.wait({answer}, timeout=pause)
            if done:
                return answer.result()
        raise TimeoutError
    finally:
        sock.close()


async def _ask_tcp(network: Network, server: Endpoint) -> StunMessage:
    question, request = _request()
    stream = await network.dial_tcp(server)
    try:
        await stream.send(request)
        decoder, received = StreamDecoder(limit=LARGEST_ANSWER), 0
        while data := await stream.recv(LARGEST_ANSWER):
            received += len(data)
            if received > LARGEST_ANSWER:
                raise ServiceError("it talks, and does not answer")
            decoder.feed(data)
            while (frame := decoder.next_frame()) is not None:
                if (message := _answer_to(question, frame)) is not None:
                    return message
        raise ServiceError("it hangs up")
    finally:
        stream.abort()


def _request() -> tuple[StunMessage, bytes]:
    message = StunMessage(BINDING, StunClass.REQUEST, secrets.token_bytes(TRANSACTION_ID_SIZE), ())
    return message, encode(message)


def _answer_to(question: StunMessage, data: bytes) -> StunMessage | None:
    """None for what is no answer of success to it."""
    try:
        message = decode(data)
    except DecodeError:
        return None
    mine = message.transaction_id == question.transaction_id and message.cls is StunClass.SUCCESS
    return message if mine and message.mapped is not None else None
