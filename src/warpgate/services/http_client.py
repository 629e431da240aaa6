"""Small HTTP requests to one server over the Network seam, on a connection that is kept for the next one.

Redirects are not followed: whoever names a server means that server. Why not aiohttp: docs/decisions/http-client.md.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from warpgate.errors import NetworkError
from warpgate.model.servers import NameServerUrl
from warpgate.net.network import Network, TcpStream
from warpgate.net.reach import dial_first, in_order
from warpgate.net.threads import imported
from warpgate.net.tls import Trust, secure
from warpgate.services.proxy import Proxies, tunnel

if TYPE_CHECKING:
    from warpgate.services.http_connection import Answer, Fields, HttpConnection

# Shorter than servers keep idle connections (aiohttp and nginx: 75 s): who closes first is never surprised by it.
IDLE_LIFE = 60.0
OCTETS = "application/octet-stream"


async def connection_class() -> type[HttpConnection]:
    """`HttpConnection`, imported in a thread the first time: 6 ms for h11."""
    await imported("warpgate.services.http_connection")
    from warpgate.services.http_connection import HttpConnection  # noqa: PLC0415 - just imported

    return HttpConnection


class HttpClient:
    """Life: made, `warm` perhaps, `ask`ed, `close`. At most one idle connection is kept, for a minute."""

    def __init__(self, network: Network, url: NameServerUrl, trust: Trust, proxies: Proxies | None = None) -> None:
        """`proxies`: which web proxy to take for https; None: none."""
        self._network = network
        self._proxies = proxies
        self._url = url
        self._trust = trust
        self._connections: set[HttpConnection] = set()
        self._idle: HttpConnection | None = None
        self._warming: asyncio.Future[None] | None = None
        self._closed = False

    async def warm(self) -> None:
        """Have a connection ready, so that the next request takes one round trip. NetworkError, ConfigError."""
        if self._idle is not None or self._warming is not None:
            return
        warming = self._warming = asyncio.get_running_loop().create_future()
        try:
            self._keep(await self._dial())
        finally:
            self._warming = None
            warming.set_result(None)

    async def ask(self, method: str, path: str, body: bytes | None = None, fields: Fields | None = None) -> Answer:
        """One request, `path` below the URL's; `fields` None: for octets both ways. NetworkError; ServiceError when the
        answer is not HTTP or too long.

        When a kept connection turns out to be dead before anything came back, the request is repeated on a new one;
        all our methods allow that (RFC 9110 section 9.2.2).
        """
        if self._warming is not None:
            await asyncio.wait({self._warming})
        kept, self._idle = self._idle, None
        if kept is not None:
            try:
                return await self._ask_on(kept, method, path, body, fields)
            except NetworkError:
                if kept.heard:
                    raise
        return await self._ask_on(await self._dial(), method, path, body, fields)

    async def close(self) -> None:
        """Idempotent; requests in progress fail."""
        self._closed = True
        self._idle = None
        if ending := [connection.close() for connection in self._connections]:
            await asyncio.wait(ending)

    async def _ask_on(
        self, connection: HttpConnection, method: str, path: str, body: bytes | None, fields: Fields | None
    ) -> Answer:
        if fields is None:
            fields = (("Accept", OCTETS), *(() if body is None else (("Content-Type", OCTETS),)))
        try:
            answer = await connection.ask(method, self._url.path + path, self._url.authority, body, fields)
        except BaseException:
            connection.close()
            raise
        self._keep(connection)
        return answer

    def _keep(self, connection: HttpConnection) -> None:
        if self._idle is None and connection.usable:
            self._idle = connection
            connection.rest(IDLE_LIFE)
        else:
            connection.close()

    async def _dial(self) -> HttpConnection:
        """At whichever of the server's addresses answers first."""
        connection_type = await connection_class()
        url = self._url
        proxy = await self._proxies.find(url.host, tls=True) if self._proxies and url.tls else None
        if proxy is None:
            stream = await self._reach(url.host, url.port)
        else:
            stream = await self._reach(proxy.host, proxy.port)
            await tunnel(stream, proxy, url.host, url.port)
        if url.tls:
            stream = await self._secured(stream)
        if self._closed:
            stream.abort()
            raise NetworkError("closed on this side")
        connection = connection_type(stream, self._ended)
        self._connections.add(connection)
        return connection

    async def _reach(self, host: str, port: int) -> TcpStream:
        found = await self._network.resolve(host, port)
        routed = [endpoint for endpoint in found if self._network.route_source(endpoint) is not None]
        if not routed:
            raise NetworkError(f"no route to {host}")
        return await dial_first(self._network.dial_tcp, [(endpoint, None) for endpoint in in_order(routed)])

    async def _secured(self, stream: TcpStream) -> TcpStream:
        try:
            context = await self._trust.context()
        except BaseException:
            stream.abort()
            raise
        return await secure(stream, context, self._url.host)

    def _ended(self, connection: HttpConnection) -> None:
        self._connections.discard(connection)
        if self._idle is connection:
            self._idle = None
