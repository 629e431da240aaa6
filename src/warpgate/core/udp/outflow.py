"""What is sent from one of our sockets to one endpoint of a peer's, in order, at the pace that the kernel takes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from warpgate.errors import NetworkError
from warpgate.model.endpoint import SockAddr
from warpgate.net.network import UdpSocket


class Outflow:
    """Whoever fills it waits while it is `full`, until `on_room` is called. Ends with `close`."""

    def __init__(self, socket: UdpSocket, to: SockAddr, on_room: Callable[[], None]) -> None:
        self._socket = socket
        self._to = to
        self._on_room = on_room
        self._stuck: list[bytes] = []  # refused by a full socket buffer
        self._unsticking: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        return bool(self._stuck)

    def send(self, datagrams: Sequence[bytes]) -> None:
        """Lost while it is full."""
        if self._stuck or not datagrams:
            return
        taken = self._socket.send_all(datagrams, self._to)
        if taken < len(datagrams):
            self._stuck = list(datagrams[taken:])
            self._unsticking = asyncio.get_running_loop().create_task(self._unstick())

    async def _unstick(self) -> None:
        """Go on as soon as the socket takes datagrams again; one that is refused even then is lost, as UDP may."""
        while self._stuck:
            with contextlib.suppress(NetworkError):
                await self._socket.writable()
            self._socket.send(self._stuck.pop(0), self._to)
            del self._stuck[: self._socket.send_all(self._stuck, self._to)]
        self._unsticking = None
        self._on_room()

    def close(self) -> None:
        """Idempotent; what waits is lost."""
        if self._unsticking is not None:
            self._unsticking.cancel()
            self._unsticking = None
        self._stuck.clear()
        self._on_room = lambda: None
