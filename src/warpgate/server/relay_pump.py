"""Two streams made one: bytes both ways, each end passed on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Protocol

from warpgate.errors import NetworkError
from warpgate.net.network import TcpStream

CHUNK = 64 * 1024


class Spend(Protocol):
    """Called with each piece that was carried; takes as long as the next has to wait."""

    def __call__(self, size: int, *, to_peer: bool) -> Awaitable[None]: ...


async def join(client: TcpStream, peer: TcpStream, early: bytes, spend: Spend | None = None) -> None:
    """Until both directions have ended, or one has broken: then both streams are closed. `early` goes to the peer.

    RFC 6062 knows no half-close; passing one on harms nobody, and what is still on its way back arrives.
    """
    pumps = {
        asyncio.ensure_future(_pump(client, peer, early, spend, to_peer=True)),
        asyncio.ensure_future(_pump(peer, client, b"", spend, to_peer=False)),
    }
    try:
        done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
        broken = any(pump.exception() is not None for pump in done)
    except BaseException:
        broken = True
        raise
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
        for stream in (client, peer):
            if broken:
                stream.abort()
            else:
                stream.close()


async def _pump(source: TcpStream, sink: TcpStream, data: bytes, spend: Spend | None, *, to_peer: bool) -> None:
    while True:
        if data:
            await sink.send(data)
            if spend is not None:
                await spend(len(data), to_peer=to_peer)
        data = await source.recv(CHUNK)
        if not data:
            with contextlib.suppress(NetworkError):
                sink.write_eof()
            return
