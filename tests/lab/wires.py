"""Sockets in lab hosts, driven by the test's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

from warpgate.lab.host import Host
from warpgate.model.endpoint import Endpoint, IPAddress

# Longer than any path here, shorter than anybody's patience: what has not come by then does not come.
QUIET = 0.25


class Udp:
    """A UDP socket in a host; `port` 0 is any."""

    def __init__(self, host: Host, port: int = 0, ip: IPAddress | None = None) -> None:
        address = ip or host.addresses[0]
        self._loop = asyncio.get_running_loop()
        with host.entered():
            self.socket = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((str(address), port))
        self.local = Endpoint.from_sockaddr(self.socket.getsockname())

    def send(self, to: Endpoint, data: bytes = b"?", ttl: int | None = None) -> None:
        if ttl is not None:
            level, option = (socket.IPPROTO_IP, socket.IP_TTL)
            before = self.socket.getsockopt(level, option)
            self.socket.setsockopt(level, option, ttl)
            self.socket.sendto(data, to.sockaddr)
            self.socket.setsockopt(level, option, before)
        else:
            self.socket.sendto(data, to.sockaddr)

    async def receive(self, timeout: float = 2.0) -> tuple[bytes, Endpoint]:
        async with asyncio.timeout(timeout):
            data, source = await self._loop.sock_recvfrom(self.socket, 65536)
        return data, Endpoint.from_sockaddr(source)

    async def silent(self, seconds: float = QUIET) -> bool:
        """True when nothing comes."""
        try:
            await self.receive(seconds)
        except TimeoutError:
            return True
        return False


class Echo(Udp):
    """Answers every datagram with the endpoint that it came from."""

    def __init__(self, host: Host, port: int = 7, ip: IPAddress | None = None) -> None:
        super().__init__(host, port, ip)
        self._loop.add_reader(self.socket, self._answer)

    def _answer(self) -> None:
        _, source = self.socket.recvfrom(2048)
        self.socket.sendto(str(Endpoint.from_sockaddr(source)).encode(), source)

    async def ask(self, asking: Udp) -> Endpoint:
        """The endpoint as which `asking` appears here."""
        asking.send(self.local)
        data, source = await asking.receive()
        assert source == self.local
        return Endpoint.parse(data.decode())


class Tcp:
    """A TCP socket in a host: listening, or to connect with."""

    def __init__(self, host: Host, port: int = 0, ip: IPAddress | None = None, *, listen: bool = False) -> None:
        address = ip or host.addresses[0]
        self._loop = asyncio.get_running_loop()
        with host.entered():
            self.socket = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind((str(address), port))
        if listen:
            self.socket.listen()
        self.local = Endpoint.from_sockaddr(self.socket.getsockname())

    async def connect(self, to: Endpoint, timeout: float = 2.0) -> None:
        async with asyncio.timeout(timeout):
            await self._loop.sock_connect(self.socket, to.sockaddr)

    async def accept(self, timeout: float = 2.0) -> tuple[socket.socket, Endpoint]:
        async with asyncio.timeout(timeout):
            accepted, source = await self._loop.sock_accept(self.socket)
        return accepted, Endpoint.from_sockaddr(source)


@contextlib.contextmanager
def closing(*wires: Udp | Tcp) -> Iterator[None]:
    try:
        yield
    finally:
        for wire in wires:
            asyncio.get_running_loop().remove_reader(wire.socket)
            wire.socket.close()
