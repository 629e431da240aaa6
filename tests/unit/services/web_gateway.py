"""MQTT over the web in front of a real broker: the `websockets` library, as nginx or HAProxy would do it.

mosquitto does so itself where it is built with libwebsockets, which distributions leave out.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol


@asynccontextmanager
async def web_gateway(broker_port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Yields its port; what is not asked for by the subprotocol "mqtt" gets none."""

    async def handle(socket: ServerConnection) -> None:
        assert socket.subprotocol == "mqtt"
        reader, writer = await asyncio.open_connection("127.0.0.1", broker_port)

        async def down() -> None:
            while data := await reader.read(1000):  # packets are cut, and share messages
                await socket.send(data)

        passing = asyncio.ensure_future(down())
        with suppress(ConnectionClosed):
            async for message in socket:
                assert isinstance(message, bytes)
                writer.write(message)
        passing.cancel()
        writer.close()

    subprotocols = [Subprotocol("mqtt")]
    async with serve(handle, "127.0.0.1", 0, ssl=tls, subprotocols=subprotocols, compression=None) as server:
        yield next(iter(server.sockets)).getsockname()[1]
