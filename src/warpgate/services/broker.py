"""The seam between the signal channel and its brokers; `services.mqtt` implements it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from warpgate.errors import ServiceError
from warpgate.model.endpoint import Endpoint

MessageReceiver = Callable[[bytes], None]
# Why a broker that somebody else named may not be called at this endpoint, None when it may.
Judge = Callable[[Endpoint], str | None]


def no_matter() -> None:
    """For who does not care."""


def not_before(_link: BrokerLink) -> None:
    """For who has nothing to say until the link is there."""


class VersionRefused(ServiceError):
    """The broker does not speak the version of its protocol it was asked for."""


class HasteRefused(ServiceError):
    """The broker ended the connection when it was told more before it had answered."""


class BrokerLink(Protocol):
    """One open connection to one broker, subscribed to one topic."""

    @property
    def rtt(self) -> float:
        """Seconds to the broker and back, as measured when the link was opened."""

    def publish(self, topic: str, data: bytes) -> None:
        """Hand the message over in this tick, or drop and count it: never waits, whatever the broker does."""

    async def closed(self) -> str:
        """Wait until the link is dead; why it is."""

    async def close(self) -> None:
        """Idempotent, and prompt whatever the broker does."""


class BrokerConnector(Protocol):
    """Opens links to brokers."""

    async def connect(
        self,
        url: str,
        topic: str,
        on_message: MessageReceiver,
        judge: Judge | None = None,
        on_step: Callable[[], None] = no_matter,
        on_open: Callable[[BrokerLink], None] = not_before,
    ) -> BrokerLink:
        """Connect and subscribe to `topic`; what is published there goes to `on_message`.

        `judge` is asked about each address of the host before it is dialled; None: any will do. `on_step` is called
        each time that the other side has answered: the address is known, TCP, TLS, and MQTT's connection are there.
        `on_open` gets a link as soon as it takes messages, though the broker may still refuse us, and them; that can
        happen more than once, and the last one is what comes back.

        ConfigError for a URL that is none, NetworkError when the path (or the judge) refuses, ServiceError when the
        broker does. Sets no limit to the time it takes: the caller does. Cancelling leaves nothing behind.
        """
