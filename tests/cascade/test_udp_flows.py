"""One flow of forwarded UDP, in virtual time: it lives while something passes, and two minutes longer."""

from __future__ import annotations

import asyncio

from cascade_world import virtual

from warpgate.cli.udp_flows import IDLE, WAITING, UdpFlow

PROGRAM = ("192.0.2.7", 5000)


class Socket:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, object]] = []

    def send(self, data: bytes, to: object, ttl: int | None = None) -> bool:
        self.sent.append((data, to))
        return True


async def taken(flow: UdpFlow, into: list[bytes]) -> float:
    """When the flow has ended."""
    into.extend([data async for data in flow.chunks()])
    return asyncio.get_running_loop().time()


def test_it_ends_after_two_minutes_in_which_nothing_passed_either_way() -> None:
    async def main() -> None:
        began = asyncio.get_running_loop().time()
        socket, heard = Socket(), []
        flow = UdpFlow(socket, PROGRAM, IDLE)  # type: ignore[arg-type]
        ended = asyncio.create_task(taken(flow, heard))
        await asyncio.sleep(100)
        flow.receive(b"question")
        await asyncio.sleep(100)
        await flow.write(b"answer")
        assert await ended - began == 200 + IDLE
        assert heard == [b"question"]
        assert socket.sent == [(b"answer", PROGRAM)]

    virtual(main)


def test_what_comes_faster_than_it_is_taken_is_bounded() -> None:
    async def main() -> None:
        flow, heard = UdpFlow(Socket(), PROGRAM, None), []  # type: ignore[arg-type]
        for number in range(WAITING + 10):
            flow.receive(b"%d" % number)
        flow.stop()
        await taken(flow, heard)
        assert heard == [b"%d" % number for number in range(WAITING)]

    virtual(main)
