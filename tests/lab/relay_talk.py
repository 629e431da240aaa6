"""Relays asked from one lab host, with an ordinary socket on another as their peer: no nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

from warpgate.events import Event
from warpgate.lab.host import Host
from warpgate.model.endpoint import Endpoint, Family, IPAddress
from warpgate.net.network import Acceptor, DatagramReceiver
from warpgate.net.system import SystemNetwork
from warpgate.net.tcp import SystemTcpListener, SystemTcpStream
from warpgate.net.udp import SystemUdpSocket
from warpgate.services.relay import Relays


class HostNetwork(SystemNetwork):
    """The kernel's sockets, opened in one host of the lab."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host

    def open_udp(self, local: Endpoint, receiver: DatagramReceiver) -> SystemUdpSocket:
        with self._host.entered():
            return super().open_udp(local, receiver)

    def listen_tcp(self, local: Endpoint, acceptor: Acceptor) -> SystemTcpListener:
        with self._host.entered():
            return super().listen_tcp(local, acceptor)

    async def dial_tcp(
        self, remote: Endpoint, local: Endpoint | None = None, first_ttl: int | None = None
    ) -> SystemTcpStream:
        with self._host.entered():
            dialling = super().dial_tcp(remote, local, first_ttl)
            started = dialling.send(None)  # up to its first suspension: the socket is open then
        return await _Rest(dialling, started)

    def route_source(self, remote: Endpoint) -> IPAddress | None:
        with self._host.entered():
            return super().route_source(remote)


class _Rest:
    """Awaits a coroutine that has been started."""

    def __init__(self, coroutine: Coroutine[Any, Any, SystemTcpStream], first: Any) -> None:
        self._coroutine = coroutine
        self._first = first

    def __await__(self) -> Generator[Any, Any, SystemTcpStream]:
        waiting = self._first
        while True:
            try:
                sent = yield waiting
            except BaseException as error:  # noqa: BLE001 - a cancellation belongs to the coroutine
                waiting = self._coroutine.throw(error)
                continue
            try:
                waiting = self._coroutine.send(sent)
            except StopIteration as done:
                return done.value


class Talk:
    """A relayed base on one host and an ordinary socket on another, and what each has heard."""

    def __init__(self, client: Host, peer: Host, url: str) -> None:
        self.base_heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.peer_heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.events: list[Event] = []
        self.relays = Relays(HostNetwork(client), [url], self.events.append)
        local = Endpoint(peer.addresses[0], 0)
        self.peer = HostNetwork(peer).open_udp(local, lambda data, _: self.peer_heard.put_nowait(data))

    async def open(self, family: Family) -> Endpoint:
        allocation = await self.relays.open_udp({family})
        (relayed,) = allocation.relayed
        self.base = allocation.socket(relayed, lambda data, _: self.base_heard.put_nowait(data))
        allocation.drop()
        return relayed

    async def there(self, data: bytes = b"there") -> None:
        self.base.send(data, self.peer.local.sockaddr)
        async with asyncio.timeout(5):
            assert await self.peer_heard.get() == data

    async def back(self, data: bytes = b"back") -> None:
        self.peer.send(data, self.base.local.sockaddr)
        async with asyncio.timeout(5):
            assert await self.base_heard.get() == data

    async def close(self) -> None:
        self.base.close()
        await self.relays.close()
        self.peer.close()
