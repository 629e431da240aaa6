"""HTTP with the gateway of one route and nobody else. Each request has a connection of its own, from our address on
that route: many routers keep none open, and what one answer did to a connection does not matter to the next.

Whatever an URL says, the address that is connected to is the gateway's. Redirects are not followed, nothing is
unpacked, and an answer has so many bytes and so many seconds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from warpgate.errors import NetworkError, ServiceError
from warpgate.model.endpoint import Endpoint
from warpgate.model.servers import bracketed
from warpgate.net.network import Network
from warpgate.proto.device_xml import LARGEST_DOCUMENT
from warpgate.proto.igd import Place
from warpgate.services.http_client import connection_class
from warpgate.services.portmap_board import Route

if TYPE_CHECKING:
    from warpgate.services.http_connection import Answer, Fields

# From the SYN to the last byte. Routers with a slow flash take a second or two for their description.
REQUEST_TIMEOUT = 5.0


class GatewayHttp:
    def __init__(self, network: Network, route: Route) -> None:
        self._network = network
        self._from = Endpoint(route.ip, 0)
        self._gateway = route.gateway.ip
        self._host = bracketed(str(self._gateway).partition("%")[0])

    async def get(self, place: Place) -> bytes:
        """The body. ServiceError when there is none: no connection, another status than 200, too much, too slow."""
        answer = await self._ask("GET", place, None, ())
        if answer.status != 200:
            raise ServiceError(f"it answers with HTTP status {answer.status}")
        return answer.body

    async def post(self, place: Place, body: bytes, fields: Fields) -> Answer:
        """The answer, whatever its status. ServiceError as `get`."""
        return await self._ask("POST", place, body, fields)

    async def _ask(self, method: str, place: Place, body: bytes | None, fields: Fields) -> Answer:
        make = await connection_class()
        authority = f"{self._host}:{place.port}"
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                stream = await self._network.dial_tcp(Endpoint(self._gateway, place.port), self._from)
                connection = make(stream, lambda _: None, LARGEST_DOCUMENT)
                try:
                    return await connection.ask(
                        method, place.target, authority, body, (*fields, ("Connection", "close"))
                    )
                finally:
                    await asyncio.wait({connection.close()})
        except TimeoutError:
            raise ServiceError(f"it does not answer within {REQUEST_TIMEOUT:.0f} s") from None
        except NetworkError as error:
            raise ServiceError(str(error)) from error
