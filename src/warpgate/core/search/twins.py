"""Asks on our own topic which other processes of our key run, and answers those that ask (`proto/instances.py`)."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from warpgate.core.search.equipment import Equipment
from warpgate.errors import WarpgateError
from warpgate.events import TwinFound
from warpgate.model.address import NodeAddress
from warpgate.proto.bucket import TokenBucket
from warpgate.proto.envelope import Opened
from warpgate.proto.instances import PATIENCE
from warpgate.proto.signals import Signal, SignalKind

BESIDE = "beside"
# A question comes from each process once when it starts or changes brokers, and when an address of another one is used.
ANSWERS_PER_SECOND, ANSWERS_AT_ONCE = 2.0, 8.0
# Seconds. That there is a twin is told on both sides, and put right by people.
LOOK_AGAIN = 300.0
# A timer may fire early by the clock's resolution: 16 ms on Windows.
EARLY = 0.02


class Twins:
    """Says what is to be said; `Context.instances` knows."""

    def __init__(self, equipment: Equipment) -> None:
        self._equipment = equipment
        self._context = context = equipment.context
        self._instances = context.instances
        # Set: somebody unknown has asked, too soon after our own question to be asked in turn. It cannot have heard
        # that one, so without another its peers would be taken for ours.
        self._newcomer = asyncio.Event()
        self._answers = TokenBucket(ANSWERS_PER_SECOND, ANSWERS_AT_ONCE, context.now())

    async def watch(self) -> None:
        """Ask newcomers, and notice when a twin has gone; runs as long as the node."""
        while True:
            try:
                async with asyncio.timeout(LOOK_AGAIN):
                    await self._newcomer.wait()
            except TimeoutError:
                if self._instances.warning:
                    self.ask()
                    await asyncio.sleep(2 * PATIENCE)
                    self._instances.settle(self._context.now())
            else:
                await asyncio.sleep(self._instances.until_question(self._context.now()) + EARLY)
                self._newcomer.clear()
                self.ask()

    def ask(self) -> None:
        """Unless that was done a moment ago."""
        context = self._context
        if not self._equipment.channel.brokers:
            return
        nonce = context.random_bytes(16)
        if self._instances.ask(nonce, context.now()):
            self._say(nonce, question=True)

    def receive(self, opened: Opened) -> None:
        """A TWIN signal that our own key has signed."""
        context, signal, address = self._context, opened.signal, opened.address
        if signal.sequence:
            if self._instances.asked_by(address.instance) and self._answers.take(context.now()):
                self._say(signal.session, question=False)
                if not self._instances.knows(address.instance):
                    if self._instances.until_question(context.now()):
                        self._newcomer.set()
                    else:
                        self.ask()
        elif self._instances.answered(
            address.instance,
            signal.session,
            where(address),
            context.now(),
            beside=signal.reason == BESIDE,
        ):
            context.emit(TwinFound(address.instance.hex(), where(address)))

    def _say(self, nonce: bytes, *, question: bool) -> None:
        context = self._context
        signal = Signal(
            kind=SignalKind.TWIN,
            session=nonce,
            sequence=int(question),
            time=context.wall_clock(),
            address=context.address.encode(),
            reason=BESIDE if self._instances.beside else "",
        )
        with suppress(WarpgateError):
            self._equipment.publish(context.identity.public_key, signal, self._equipment.channel.brokers)


def where(address: NodeAddress) -> str:
    places = dict.fromkeys(str(at.reflexive or at.host) for at in address.attachments)
    return f"at {', '.join(places)}" if places else "at a place it does not know"
