"""A STUN server and a clock for the sans-I/O clients: answers, falls silent, lies, and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Protocol, TypeVar

from warpgate.model.endpoint import Endpoint
from warpgate.proto.machine import Transmit
from warpgate.proto.stun import Attribute, ErrorCode, StunClass, StunMessage, decode, encode

BASE = Endpoint.of("192.168.1.2", 20000)
REFLEXIVE = Endpoint.of("203.0.113.9", 30000)
FIRST = Endpoint.of("198.51.100.1", 3478)
SECOND = Endpoint.of("198.51.100.2", 3478)
OTHER = Endpoint.of("198.51.100.77", 3479)

EventT = TypeVar("EventT")


class Client(Protocol):
    def handle_timeout(self, now: float) -> None: ...
    def poll_transmit(self) -> Transmit | None: ...
    def poll_timeout(self) -> float | None: ...


def transaction_ids() -> Callable[[], bytes]:
    numbers: Iterator[int] = count(1)
    return lambda: next(numbers).to_bytes(12, "big")


def sent(client: Client) -> list[Transmit]:
    found = []
    while (transmit := client.poll_transmit()) is not None:
        found.append(transmit)
    return found


def events(poll: Callable[[], EventT | None]) -> list[EventT]:
    found = []
    while (event := poll()) is not None:
        found.append(event)
    return found


def answer(request: Transmit, mapped: Endpoint | None = REFLEXIVE, other: Endpoint | None = None) -> bytes:
    attributes = []
    if mapped is not None:
        attributes.append((Attribute.XOR_MAPPED_ADDRESS, mapped))
    if other is not None:
        attributes.append((Attribute.OTHER_ADDRESS, other))
    tid = decode(request.data).transaction_id
    return encode(StunMessage(1, StunClass.SUCCESS, tid, tuple(attributes)))


def refusal(request: Transmit, code: int) -> bytes:
    tid = decode(request.data).transaction_id
    return encode(StunMessage(1, StunClass.ERROR, tid, ((Attribute.ERROR_CODE, ErrorCode(code, "no")),)))


def run(client: Client, until: float) -> list[tuple[float, Transmit]]:
    """Let time pass with nobody answering: what is sent, and when."""
    found = []
    while (due := client.poll_timeout()) is not None and due <= until:
        client.handle_timeout(due)
        found += [(round(due, 6), transmit) for transmit in sent(client)]
    return found
