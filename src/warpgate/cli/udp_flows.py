"""UDP between pipes and the programs of this machine: a datagram pipe for each of those that send here.

As a NAT does it: what one endpoint sends is one flow, which ends when nothing has passed for a while.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING

from warpgate.cli.ends import PipeEnd, join, owned
from warpgate.cli.places import UdpPlace
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, Mode, SockAddr
from warpgate.net.network import UdpSocket
from warpgate.net.system import SystemNetwork

if TYPE_CHECKING:
    from warpgate.core.pipes.base import Pipe

# RFC 4787 section 4.3, REQ-5: "MUST NOT expire in less than two minutes".
IDLE = 120.0
# Of one entrance; for another, the one that was silent longest ends. A resolver makes one for each question.
FLOWS_AT_ONCE = 128
# What waits while its pipe is being made, or faster than the other side takes it: datagrams beyond that are lost.
WAITING = 64


class UdpFlow:
    """An end of a join: what comes from `remote` by this socket, and goes there."""

    def __init__(self, socket: UdpSocket, remote: SockAddr, idle: float | None) -> None:
        """`idle`: it ends when nothing has passed for so many seconds."""
        self._socket = socket
        self._remote = remote
        self._idle = idle
        self._clock = asyncio.get_running_loop().time
        self._queue: deque[bytes] = deque()
        self._come = asyncio.Event()
        self._over = False
        self.used = self._clock()

    def receive(self, data: bytes) -> None:
        self.used = self._clock()
        if len(self._queue) < WAITING:
            self._queue.append(data)
            self._come.set()

    def stop(self) -> None:
        self._over = True
        self._come.set()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        while True:
            while self._queue:
                yield self._queue.popleft()
            self._come.clear()
            if self._over or not await self._more():
                return

    async def _more(self) -> bool:
        """False when the flow has been idle for too long."""
        while True:
            until = None if self._idle is None else self.used + self._idle
            try:
                async with asyncio.timeout_at(until):
                    await self._come.wait()
                return True
            except TimeoutError:
                if self._idle is None or self._clock() >= self.used + self._idle:
                    return False

    async def write(self, data: bytes) -> None:
        self.used = self._clock()
        self._socket.send(data, self._remote)  # what the kernel does not take is lost, as UDP may

    async def end(self) -> None:
        """UDP has no end."""


async def forward_udp(pipe: Pipe, place: UdpPlace) -> None:
    """Join the pipe to the service there, until its peer closes it. NetworkError when the host is not known."""
    if pipe.mode is not Mode.DATAGRAM:
        raise NetworkError("--forward udp: carries datagrams, the peer opened a stream")
    network = SystemNetwork()
    remote = (await network.resolve(place.host, place.port))[0]
    source = network.route_source(remote)
    if source is None:
        raise NetworkError(f"{place} cannot be reached (no route)")

    def receive(data: bytes, sender: SockAddr) -> None:
        if Endpoint.from_sockaddr(sender) == remote:  # nobody else is asked for
            flow.receive(data)

    socket = network.open_udp(Endpoint(source, 0), receive)
    flow = UdpFlow(socket, remote.sockaddr, idle=None)
    far = PipeEnd(pipe, whole=True)
    try:
        await join(far, flow, final=(far,))
    finally:
        socket.close()


class UdpVisit:
    """A program here that has sent something."""

    def __init__(self, flow: UdpFlow, name: str, forget: Callable[[], None]) -> None:
        self.name = name
        self._flow = flow
        self._forget = forget

    async def carry(self, connect: Callable[[Mode], Awaitable[Pipe]]) -> None:
        try:
            async with owned(await connect(Mode.DATAGRAM)) as pipe:
                far = PipeEnd(pipe, whole=True)
                await join(self._flow, far, final=(self._flow, far))
        finally:
            self._forget()

    def abort(self) -> None:
        self._forget()


class UdpEntrance:
    """Listens at a UDP port until it is closed."""

    def __init__(self, place: UdpPlace, accepted: Callable[[UdpVisit], None]) -> None:
        """NetworkError when the port is taken."""
        self._accepted = accepted
        self._flows: dict[SockAddr, UdpFlow] = {}
        self._socket = SystemNetwork().open_udp(Endpoint.of(place.host, place.port), self._receive)

    def close(self) -> None:
        self._socket.close()

    def _receive(self, data: bytes, sender: SockAddr) -> None:
        flow = self._flows.get(sender)
        if flow is not None:
            flow.receive(data)
            return
        if len(self._flows) >= FLOWS_AT_ONCE:
            oldest = min(self._flows, key=lambda each: self._flows[each].used)
            self._flows.pop(oldest).stop()
        flow = self._flows[sender] = UdpFlow(self._socket, sender, IDLE)
        flow.receive(data)
        name = f"udp:{Endpoint.from_sockaddr(sender)}"
        self._accepted(UdpVisit(flow, name, lambda: self._forget(sender, flow)))

    def _forget(self, sender: SockAddr, flow: UdpFlow) -> None:
        if self._flows.get(sender) is flow:
            del self._flows[sender]
