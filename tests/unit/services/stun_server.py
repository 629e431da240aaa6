"""A STUN server on any Network (RFC 8489, with RFC 5780 when it has two addresses): answers, counts, misbehaves."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, SockAddr
from warpgate.net.network import Network, TcpStream, UdpSocket
from warpgate.proto.stun import (
    Attribute,
    AttributeValue,
    ChangeRequest,
    StreamDecoder,
    StunClass,
    StunMessage,
    decode,
    encode,
)

PORT, OTHER_PORT = 3478, 3479


class StunServer:
    """Serves from construction to `close`. `lie`: an endpoint told to everyone instead of the truth."""

    def __init__(self, network: Network, *addresses: str, udp: bool = True, tcp: bool = True) -> None:
        self.silent = False
        self.deaf_to: set[int] = set()  # source ports
        self.lie: Endpoint | None = None
        self.requests: Counter[str] = Counter()
        self.connections: list[TcpStream] = []
        self._addresses = addresses
        self._tasks: set[asyncio.Task[None]] = set()
        self._udp: dict[Endpoint, UdpSocket] = {}
        ports = (PORT, OTHER_PORT) if len(addresses) > 1 else (PORT,)
        for local in [Endpoint.of(ip, port) for ip in addresses for port in ports]:
            if udp:
                self._udp[local] = network.open_udp(local, partial(self._datagram, local))
        self._listeners = []
        if tcp:
            self._listeners.append(network.listen_tcp(self.endpoint, self._accept))

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint.of(self._addresses[0], PORT)

    def hang_up(self) -> None:
        for stream in self.connections:
            stream.close()
        self.connections.clear()

    def close(self) -> None:
        for sock in self._udp.values():
            sock.close()
        for listener in self._listeners:
            listener.close()
        for stream in self.connections:
            stream.abort()
        for task in self._tasks:
            task.cancel()

    def _datagram(self, local: Endpoint, data: bytes, source: SockAddr) -> None:
        self.requests["udp"] += 1
        request = decode(data)
        change = request.get(Attribute.CHANGE_REQUEST) or ChangeRequest.NOTHING
        assert isinstance(change, ChangeRequest)
        if self.silent or source[1] in self.deaf_to or (change and len(self._addresses) < 2):
            return
        ip, port = str(local.ip), local.port
        if ChangeRequest.IP in change:
            ip = next(other for other in self._addresses if other != ip)
        if ChangeRequest.PORT in change:
            port = PORT + OTHER_PORT - port
        answer = self._answer(request, Endpoint.from_sockaddr(source))
        self._udp[Endpoint.of(ip, port)].send(answer, source)

    def _accept(self, stream: TcpStream) -> None:
        self.connections.append(stream)
        task = asyncio.get_running_loop().create_task(self._serve(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: TcpStream) -> None:
        decoder = StreamDecoder()
        try:
            while data := await stream.recv(4096):
                decoder.feed(data)
                while (frame := decoder.next_frame()) is not None:
                    self.requests["tcp"] += 1
                    if not self.silent:
                        await stream.send(self._answer(decode(frame), stream.remote))
        except NetworkError:
            pass
        stream.close()

    def _answer(self, request: StunMessage, source: Endpoint) -> bytes:
        attributes: list[tuple[int, AttributeValue]] = [(Attribute.XOR_MAPPED_ADDRESS, self.lie or source)]
        if len(self._addresses) > 1:
            attributes.append((Attribute.OTHER_ADDRESS, Endpoint.of(self._addresses[1], OTHER_PORT)))
        return encode(StunMessage(1, StunClass.SUCCESS, request.transaction_id, tuple(attributes)))
