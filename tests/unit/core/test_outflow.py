"""Datagrams for a socket whose buffer is full."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from warpgate.core.udp.outflow import Outflow
from warpgate.errors import NetworkError
from warpgate_testing.clock import run_virtual

TO = ("192.0.2.1", 9)


class Narrow:
    """Takes `room` datagrams, then none until some time has passed; some are refused even then."""

    def __init__(self, room: int, *refused: bytes) -> None:
        self.room, self._left = room, room
        self.refused = refused
        self.taken: list[bytes] = []
        self.closed = False

    def send(self, data: bytes, _to: object) -> bool:
        return self.send_all([data], _to) == 1

    def send_all(self, datagrams: Sequence[bytes], _to: object) -> int:
        for done, data in enumerate(datagrams):
            if not self._left or data in self.refused:
                return done
            self._left -= 1
            self.taken.append(data)
        return len(datagrams)

    async def writable(self) -> None:
        await asyncio.sleep(0.01)
        self._left = self.room
        if self.closed:
            raise NetworkError("closed")


BURST = [b"%d" % number for number in range(20)]


def test_what_is_refused_waits_and_keeps_its_order() -> None:
    async def main() -> None:
        socket, room = Narrow(3), asyncio.Event()
        outflow = Outflow(cast(Any, socket), TO, room.set)
        outflow.send(BURST)
        assert outflow.full
        outflow.send([b"lost"])
        await asyncio.wait_for(room.wait(), 1)
        assert not outflow.full
        assert socket.taken == BURST
        socket.room = socket._left = 100
        outflow.send([b"later"])
        assert socket.taken == [*BURST, b"later"]

    run_virtual(main())


@pytest.mark.parametrize("closed", [False, True])
def test_what_is_refused_even_then_is_lost_and_nothing_waits_for_ever(closed: bool) -> None:
    async def main() -> None:
        socket, room = Narrow(0 if closed else 5, b"7"), asyncio.Event()
        socket.closed = closed
        outflow = Outflow(cast(Any, socket), TO, room.set)
        outflow.send(BURST)
        await asyncio.wait_for(room.wait(), 1)
        assert socket.taken == ([] if closed else [data for data in BURST if data != b"7"])

    run_virtual(main())


def test_closing_lets_go_of_what_waits() -> None:
    async def main() -> None:
        socket = Narrow(3)
        outflow = Outflow(cast(Any, socket), TO, lambda: pytest.fail("closed"))
        outflow.send(BURST)
        outflow.close()
        outflow.close()
        assert not outflow.full
        await asyncio.sleep(1)
        assert len(socket.taken) == 3

    run_virtual(main())
