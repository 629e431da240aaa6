"""One-time codes on a node: the exchange over brokers that ends with the other side's address (`proto/code_talk.py`).

An exchange has links to brokers of its own, since a link listens to one topic. Both sides use the first few brokers of
their lists, so two nodes with the same settings, or the default ones, meet. Nothing of it outlives `close`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from warpgate.core.context import Context
from warpgate.core.search.equipment import TOPIC
from warpgate.errors import CodeFailed, ServiceError
from warpgate.model.address import NodeAddress
from warpgate.model.code import OneTimeCode
from warpgate.net.driver import MachineDriver
from warpgate.net.threads import in_thread
from warpgate.proto.code_talk import Agreed, CodeEvent, CodeOfferer, CodeTaker
from warpgate.services.broker import BrokerConnector
from warpgate.services.signaling import CONTACTED, SignalChannel

OFFER, TAKE = "offer", "take"


# To a broker; one that does not answer has failed after the first.
STEPS = 4


class CodeExchange:
    """`async with` it. The code is good for others as soon as the block is entered."""

    def __init__(
        self, context: Context, connector: BrokerConnector, urls: Sequence[str], code: OneTimeCode, side: str
    ) -> None:
        """`side`: OFFER for who made the code, TAKE for who was told it."""
        self.code = code
        self._context = context
        self._urls = tuple(urls)[:CONTACTED]
        self._side = side
        self._outcome: asyncio.Future[NodeAddress] = asyncio.get_running_loop().create_future()
        self._driver: MachineDriver[CodeEvent, bytes] | None = None
        self._channel = SignalChannel(
            connector,
            TOPIC + code.topic(side),
            self._urls,
            home=len(self._urls),
            timing=context.config.timing,
            on_envelope=self._receive,
            emit=lambda _: None,  # the node's own links tell how the brokers are
            rng=random.Random(),
        )

    async def __aenter__(self) -> Self:
        """ServiceError when no broker can be reached."""
        timing = self._context.config.timing
        loading = asyncio.ensure_future(in_thread(_load_library, daemon=False))
        self._channel.start()
        try:
            up = await self._channel.first_home(STEPS * timing.broker_timeout)
            await loading
        except BaseException:
            loading.cancel()
            await self._channel.close()
            raise
        if not up:
            await self._channel.close()
            raise ServiceError("a one-time code needs a broker, and none can be reached (see --broker)")
        self._driver = MachineDriver(self._machine(), self._send, self._told)
        self._driver.drain()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._driver is not None:
            self._driver.close()
        self._outcome.cancel()
        await self._channel.close()

    async def agreed(self) -> NodeAddress:
        """The other side's address, once it has proved that it has the code. CodeFailed: the code is of no more use."""
        return await asyncio.shield(self._outcome)

    def _machine(self) -> CodeOfferer | CodeTaker:
        context, address = self._context, self._context.address.encode()
        if self._side == OFFER:
            return CodeOfferer(self.code, address, context.random_bytes, context.now())
        id_ = context.random_bytes(16)
        return CodeTaker(self.code, address, context.random_bytes, id_, context.now())

    def _receive(self, data: bytes) -> None:
        if self._driver is not None:
            self._driver.receive(data)

    def _send(self, data: bytes) -> None:
        other = TAKE if self._side == OFFER else OFFER
        self._channel.publish(self._urls, TOPIC + self.code.topic(other), data)

    def _told(self, event: CodeEvent) -> None:
        if self._outcome.done():
            return
        if isinstance(event, Agreed):
            self._context.admit(event.address.node_id)
            self._outcome.set_result(event.address)
        else:
            self._outcome.set_exception(CodeFailed(event.reason))
            self._outcome.exception()  # whoever does not ask shall not be told by asyncio


def new_code() -> OneTimeCode:
    return OneTimeCode.generate(secrets.randbelow)


def _load_library() -> None:
    import spake2  # noqa: F401, PLC0415 - 90 ms, in a thread
