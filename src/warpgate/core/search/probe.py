"""Whether a node can be signalled over each of its brokers: a question to its own topic has to come back.

A broker may let us subscribe and drop what is published without a word (MQTT 3.1.1 has none for it): then every offer
is lost there, and all else looks well. Each running process of our key answers the question (`proto/instances.py`), so
it also shows who else has this identity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from warpgate.core.context import Context
from warpgate.core.search.equipment import TOPIC
from warpgate.core.search.twins import BESIDE, where
from warpgate.errors import ProtocolError, WarpgateError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.wanted import INSTANCE_SIZE
from warpgate.proto.envelope import open_envelope, seal
from warpgate.proto.instances import PATIENCE
from warpgate.proto.signals import Signal, SignalKind
from warpgate.services.broker import BrokerConnector, BrokerLink

# Seconds, and round trips: the way there and back, with a loss on it.
ECHO_PATIENCE = 2.0
ECHO_ROUND_TRIPS = 4
# Anybody may publish on our topic meanwhile, and to open an envelope costs 0.3 ms.
MOST_ENVELOPES = 256
SWALLOWED = "it lets us subscribe, but what is published to our topic does not come back: peers' offers are lost here"


@dataclass(frozen=True, slots=True)
class BrokerCheck:
    """What one broker did: `rtt` of the connection and `seconds` until the probe was back, or the `error`."""

    url: str
    rtt: float = 0.0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class OtherProcess:
    """One that runs with our key: its `instance` in hexadecimal digits, the outside addresses that it has, and whether
    it runs beside another that accepts peers.
    """

    instance: str
    where: str
    beside: bool


class BrokerProbe:
    """Made for one run."""

    def __init__(self, context: Context, connector: BrokerConnector, urls: Sequence[str]) -> None:
        self._context = context
        self._connector = connector
        self._urls = tuple(urls)
        self._topic = TOPIC + context.identity.node_id
        self._nonce = context.random_bytes(16)
        self._instance = context.random_bytes(INSTANCE_SIZE)
        self._question = self._sealed_question()
        self._opened = 0
        self._others: dict[str, OtherProcess] = {}

    async def run(self) -> tuple[tuple[BrokerCheck, ...], tuple[OtherProcess, ...]]:
        """All of the brokers at once, in a few seconds."""
        checks = await asyncio.gather(*map(self._check, self._urls))
        return tuple(checks), tuple(self._others.values())

    def _sealed_question(self) -> bytes:
        context = self._context
        signal = Signal(
            kind=SignalKind.TWIN,
            session=self._nonce,
            sequence=1,
            time=context.wall_clock(),
            address=replace(context.address, instance=self._instance).encode(),
        )
        return seal(context.identity, context.identity.public_key, signal, context.random_bytes(16))

    async def _check(self, url: str) -> BrokerCheck:
        loop = asyncio.get_running_loop()
        patience = self._context.config.timing.broker_timeout
        back = asyncio.Event()

        def received(data: bytes) -> None:
            if data == self._question:
                back.set()
            else:
                self._answered(data)

        try:
            async with asyncio.timeout(patience) as limit:
                link = await self._connector.connect(
                    url, self._topic, received, None, lambda: limit.reschedule(loop.time() + patience)
                )
        except TimeoutError:
            return BrokerCheck(url, error=f"no answer within {patience:g} s")
        except WarpgateError as error:
            return BrokerCheck(url, error=str(error))
        try:
            return await self._ask(url, link, back)
        finally:
            await link.close()

    async def _ask(self, url: str, link: BrokerLink, back: asyncio.Event) -> BrokerCheck:
        began = self._context.now()
        link.publish(self._topic, self._question)
        closed = asyncio.ensure_future(link.closed())
        came = asyncio.ensure_future(back.wait())
        try:
            await asyncio.wait(
                (closed, came),
                timeout=max(ECHO_PATIENCE, ECHO_ROUND_TRIPS * link.rtt),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if closed.done():
                return BrokerCheck(url, error=closed.result())
            if not back.is_set():
                return BrokerCheck(url, error=SWALLOWED)
            seconds = self._context.now() - began
            await asyncio.sleep(PATIENCE)  # for the answers of others
            return BrokerCheck(url, link.rtt, seconds)
        finally:
            closed.cancel()
            came.cancel()
            await asyncio.gather(closed, came, return_exceptions=True)

    def _answered(self, data: bytes) -> None:
        """Anything that anybody has published on our topic."""
        self._opened += 1
        if self._opened > MOST_ENVELOPES:
            return
        identity = self._context.identity
        try:
            opened = open_envelope(identity, data)
        except ProtocolError:
            return
        signal, instance = opened.signal, opened.address.instance
        ours = opened.sender == identity.public_key and signal.session == self._nonce
        # Not who accepts nobody, and not this very node.
        other = instance not in (b"", self._context.instances.own)
        if signal.kind is SignalKind.TWIN and ours and other and not signal.sequence:
            self._others[instance.hex()] = OtherProcess(instance.hex(), where(opened.address), signal.reason == BESIDE)
