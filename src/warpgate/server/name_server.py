"""A name server, put together: storage, rules, HTTP, and what is done in the background."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from warpgate.errors import NetworkError
from warpgate.lazy_dataclass import dataclass
from warpgate.server.connections import CountedConnection, Doorkeeper
from warpgate.server.front import Front
from warpgate.server.limits import GRACE_SECONDS, HEAD_SECONDS, Limits
from warpgate.server.metrics import Metrics
from warpgate.server.postgres import open_postgres, shown
from warpgate.server.relay_desk import RelayDesk
from warpgate.server.service import NameService
from warpgate.server.sqlite import open_sqlite
from warpgate.server.store import Store, StoreError

DEFAULT_PORT = 8421
_TIDY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen; `host` None: on every address. With `tls`: HTTPS.

    `trust_proxy`: clients are who X-Forwarded-For says.
    """

    host: str | None = None
    port: int = DEFAULT_PORT
    trust_proxy: bool = False
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class NameServer:
    """A server that is up. `database` without a password; `metrics` is what it shows."""

    url: str
    database: str
    metrics: Metrics


@asynccontextmanager
async def name_server(
    database: str, limits: Limits, place: Place, desk: RelayDesk | None = None
) -> AsyncIterator[NameServer]:
    """Serve names until the end of the block; requests in progress then get GRACE_SECONDS. `desk` gives log-ins for a
    relay, on the same port.

    `database`: the path of an SQLite file, or a postgresql:// URL. StoreError when it cannot be used, NetworkError when
    the port cannot.
    """
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(_store(database))
        service = NameService(store, limits, clock=time.time, timer=time.monotonic)
        front = Front(service, metrics, trust_proxy=place.trust_proxy, desk=desk)
        tidying = asyncio.create_task(_tidy(service, metrics))
        stack.push_async_callback(_cancelled, tidying)
        door = Doorkeeper(limits, metrics, behind_proxy=place.trust_proxy)
        url = await stack.enter_async_context(_listening(front.app(), door, place))
        yield NameServer(url, shown(database), metrics)


def _store(database: str) -> AbstractAsyncContextManager[Store]:
    if database.startswith(("postgresql://", "postgres://")):
        return open_postgres(database)
    return open_sqlite(Path(database))


@asynccontextmanager
async def _listening(app: web.Application, door: Doorkeeper, place: Place) -> AsyncIterator[str]:
    """The URL under which a client on this machine reaches it."""
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_logger(),
        keepalive_timeout=HEAD_SECONDS,
        lingering_time=1.0,
        shutdown_timeout=GRACE_SECONDS,
        auto_decompress=False,  # a small body must not become a large one
    )
    await runner.setup()
    try:
        protocol = runner.server
        assert protocol is not None
        try:
            listener = await asyncio.get_running_loop().create_server(
                lambda: CountedConnection(door, protocol),
                place.host,
                place.port,
                backlog=1024,
                ssl=place.tls,
                ssl_handshake_timeout=HEAD_SECONDS if place.tls else None,
            )
        except OSError as error:
            where = f"{place.host or 'any address'}, port {place.port}"
            raise NetworkError(f"cannot listen on {where}: {error.strerror or error}") from error
        try:
            yield _url(place.host, listener.sockets[0].getsockname()[1], "https" if place.tls else "http")
        finally:
            listener.close()
    finally:
        await runner.cleanup()


def _url(host: str | None, port: int, scheme: str) -> str:
    host = "localhost" if host in (None, "", "0.0.0.0", "::") else host
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _logger() -> logging.Logger:
    """Bugs are logged, with where they are; what strangers send that is no HTTP is not."""

    def is_ours(entry: logging.LogRecord) -> bool:
        return not (entry.exc_info and isinstance(entry.exc_info[1], HttpProcessingError))

    logger = logging.getLogger("warpgate.server")
    logger.filters[:] = [is_ours]
    return logger


async def _tidy(service: NameService, metrics: Metrics) -> None:
    while True:
        try:
            tally = await service.tidy()
        except StoreError:
            pass  # health tells; the next round tries again
        else:
            metrics.names = tally.names
            metrics.purged += tally.purged
        await asyncio.sleep(_TIDY_SECONDS)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
