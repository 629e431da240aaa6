"""Where lists of public servers are: one GET over https, bounded in size and time. What comes is not believed here."""

from __future__ import annotations

import asyncio

from warpgate.errors import NetworkError, ServiceError
from warpgate.model.servers import list_place
from warpgate.net.network import Network
from warpgate.net.tls import Trust
from warpgate.services.http_client import HttpClient
from warpgate.services.proxy import Proxies

# TCP, TLS, and 3 kB over a satellite.
PATIENCE = 15.0


async def fetch_list(network: Network, place: str, trust: Trust, proxies: Proxies | None = None) -> bytes:
    """16 kB at most, header fields included. `proxies` None: the system's.

    NetworkError when nobody answers, ServiceError for an answer that is no list, ConfigError for no such place.
    """
    client = HttpClient(network, list_place(place), trust, Proxies() if proxies is None else proxies)
    try:
        async with asyncio.timeout(PATIENCE):
            answer = await client.ask("GET", "", None, (("Accept", "*/*"),))
    except TimeoutError:
        raise NetworkError(f"no answer within {PATIENCE:g} s") from None
    finally:
        await client.close()
    if answer.status != 200:
        where = f", and points to {answer.location[:80]!r}" if answer.location else ""
        raise ServiceError(f"it answers {answer.status}{where}")
    return answer.body
