"""UPnP internet gateway devices, version 1 and 2, by async-upnp-client: find, add, delete.

The library takes 0.3 s to import, so it is imported on first use, in a thread, and only where a gateway gave no
quicker answer. Only the default gateway itself is believed: a description elsewhere could be anybody's.
"""

from __future__ import annotations

import asyncio
import importlib
import random
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from warpgate.errors import ServiceError
from warpgate.model.endpoint import Endpoint, IPAddress, SockAddr, Transport
from warpgate.net.threads import in_thread
from warpgate.services.portmap_board import Route

if TYPE_CHECKING:
    from async_upnp_client.client import UpnpAction, UpnpDevice, UpnpService
    from async_upnp_client.const import HttpResponse
    from async_upnp_client.utils import CaseInsensitiveDict

# UPnP Device Architecture 1.1 section 1.3.2: devices answer within MX seconds; datagrams are lost, so ask twice.
SEARCH_MX = 1
SEARCHES = (0.0, 1.0, 1.5)  # the third entry: how long to wait after the last
SEARCH_TARGETS = tuple(f"urn:schemas-upnp-org:device:InternetGatewayDevice:{version}" for version in (1, 2))
REQUEST_TIMEOUT = 5
# Best first: version 2 has AddAnyPortMapping; PPP is what DSL routers of version 1 call it.
CONNECTION_SERVICES = tuple(
    f"urn:schemas-upnp-org:service:{name}"
    for name in ("WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1")
)
FIREWALL_SERVICE = "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1"
PROTOCOL_NUMBERS = {Transport.TCP: 6, Transport.UDP: 17}
SSDP_GROUP, SSDP_GROUP_V6, SSDP_PORT = "239.255.255.250", "FF02::C", 1900
DESCRIPTION = "warpgate"
# WANIPConnection:2 section 2.5.20 calls what AddAnyPortMapping returns by the first name, and so do all answers;
# miniupnpd 2.3.1 describes it by the second, and the library drops what is not described.
RESERVED_PORT, MISNAMED_PORT = "NewReservedPort", "NewExternalPort"
# WANIPConnection:2 section 2.5: error codes of AddPortMapping.
CONFLICT = 718
ONLY_PERMANENT_LEASES = 725
# Somebody else's port: another at random, a few times (1024-65535 are nearly all free).
PORT_TRIES = 5
EPHEMERAL = (49152, 65535)


@dataclass(frozen=True, slots=True)
class IgdLease:
    """`lifetime` in seconds, 0: until deleted."""

    external_port: int
    lifetime: float


class _Actions:
    """One service of a device, and how its errors become ours."""

    name = "UPnP"

    def __init__(self, service: UpnpService) -> None:
        self._service = service

    async def _call(self, action: str, **arguments: Any) -> Mapping[str, Any]:
        errors = importlib.import_module("async_upnp_client.exceptions")
        if not self._service.has_action(action):
            raise ServiceError(f"{self.name} does not offer {action}")
        try:
            answer: Mapping[str, Any] = await self._service.action(action).async_call(**arguments)
        except errors.UpnpActionError as error:
            raise _ActionRefusedError(self.name, action, error.error_code, error.error_desc) from error
        except (errors.UpnpError, OSError, TimeoutError, ValueError, KeyError) as error:
            raise ServiceError(f"{self.name}, {action}: {error}") from error
        return answer


class Igd(_Actions):
    """The connection service of one gateway. Every verb raises ServiceError for whatever goes wrong."""

    def __init__(self, service: UpnpService, rng: random.Random) -> None:
        super().__init__(service)
        self._rng = rng
        self.name = f"UPnP IGD {2 if service.service_type.endswith('WANIPConnection:2') else 1}"

    async def external_ip(self) -> IPAddress:
        answer = await self._call("GetExternalIPAddress")
        try:
            ip = ip_address(str(answer.get("NewExternalIPAddress") or ""))
        except ValueError:
            ip = IPv4Address(0)
        if ip.is_unspecified:
            raise ServiceError(f"{self.name} has no external address: it is not connected")
        return ip

    async def map(self, transport: Transport, internal: Endpoint, wanted: int, lease: int) -> IgdLease:
        """Map `internal` at port `wanted`, or at another one when somebody else has that."""
        if self._service.has_action("AddAnyPortMapping"):
            with suppress(ServiceError):  # some offer it and then cannot do it
                arguments = self._arguments(transport, internal, wanted, lease)
                answer = await self._call("AddAnyPortMapping", **arguments)
                reserved = str(answer.get(RESERVED_PORT, answer.get(MISNAMED_PORT, "")))
                if reserved.isdecimal() and 0 < int(reserved) < 65536:
                    return IgdLease(int(reserved), float(lease))
        port = wanted
        for attempt in range(PORT_TRIES):
            try:
                return await self.renew(transport, internal, port, lease)
            except PortTakenError:
                if attempt == PORT_TRIES - 1:
                    raise
                port = self._rng.randint(*EPHEMERAL)
        raise AssertionError("unreachable")

    async def renew(
        self, transport: Transport, internal: Endpoint, external_port: int, lease: int
    ) -> IgdLease:
        """Add or extend exactly this mapping; PortTakenError when it is somebody else's."""
        try:
            await self._call("AddPortMapping", **self._arguments(transport, internal, external_port, lease))
        except _ActionRefusedError as error:
            if error.code == ONLY_PERMANENT_LEASES and lease:
                return await self.renew(transport, internal, external_port, 0)
            if error.code == CONFLICT:
                raise PortTakenError(str(error)) from error
            raise
        return IgdLease(external_port, float(lease))

    async def unmap(self, transport: Transport, external_port: int) -> None:
        await self._call(
            "DeletePortMapping",
            NewRemoteHost="",
            NewExternalPort=external_port,
            NewProtocol=transport.value.upper(),
        )

    def _arguments(self, transport: Transport, internal: Endpoint, port: int, lease: int) -> dict[str, Any]:
        return {
            "NewRemoteHost": "",
            "NewExternalPort": port,
            "NewProtocol": transport.value.upper(),
            "NewInternalPort": internal.port,
            "NewInternalClient": str(internal.ip),
            "NewEnabled": True,
            "NewPortMappingDescription": DESCRIPTION,
            "NewLeaseDuration": lease,
        }


class _ActionRefusedError(ServiceError):
    """The device answered with a UPnP error code."""

    def __init__(self, name: str, action: str, code: int | None, text: str | None) -> None:
        super().__init__(f"{name} refuses {action}: error {code} ({text or 'no reason given'})")
        self.code = code


class Pinholes(_Actions):
    """The IPv6 firewall of one gateway (WANIPv6FirewallControl:1), with the verbs of `Igd`: it lets in to `ip`."""

    name = "UPnP IGD 2"

    def __init__(self, service: UpnpService, ip: IPAddress) -> None:
        super().__init__(service)
        self._ip = ip
        self._ids: dict[Transport, int] = {}

    async def external_ip(self) -> IPAddress:
        return self._ip

    async def map(self, transport: Transport, internal: Endpoint, wanted: int, lease: int) -> IgdLease:
        """Let anybody in to `internal`; the port is its own, whatever is `wanted`."""
        answer = await self._call(
            "AddPinhole",
            RemoteHost="",
            RemotePort=0,
            InternalClient=str(internal.ip),
            InternalPort=internal.port,
            Protocol=PROTOCOL_NUMBERS[transport],
            LeaseTime=lease,
        )
        self._ids[transport] = int(answer.get("UniqueID") or 0)
        return IgdLease(internal.port, float(lease))

    async def renew(
        self, transport: Transport, internal: Endpoint, external_port: int, lease: int
    ) -> IgdLease:
        """The gateway may have forgotten it: then it is added anew."""
        if transport in self._ids:
            with suppress(ServiceError):
                await self._call("UpdatePinhole", UniqueID=self._ids[transport], NewLeaseTime=lease)
                return IgdLease(external_port, float(lease))
        return await self.map(transport, internal, external_port, lease)

    async def unmap(self, transport: Transport, external_port: int) -> None:
        if transport in self._ids:
            await self._call("DeletePinhole", UniqueID=self._ids.pop(transport))


class PortTakenError(ServiceError):
    """Error 718: the external port belongs to another host."""


async def find(route: Route, rng: random.Random) -> Igd | Pinholes:
    """What the gateway of this route offers: its connection service, or for IPv6 its firewall.

    ServiceError when it does not answer a search, describes no such service, or cannot be understood.
    """
    await in_thread(_import)
    location = await _search(route)
    errors = importlib.import_module("async_upnp_client.exceptions")
    factory_module = importlib.import_module("async_upnp_client.client_factory")
    requester = importlib.import_module("async_upnp_client.aiohttp").AiohttpRequester(REQUEST_TIMEOUT)
    factory = factory_module.UpnpFactory(requester, non_strict=True, on_post_call_action=_as_described)
    try:
        device: UpnpDevice = await factory.async_create_device(location)
    except (errors.UpnpError, OSError, TimeoutError, ValueError) as error:
        raise ServiceError(f"UPnP device description at {location}: {error}") from error
    services = {service.service_type: service for service in device.all_services}
    if route.ip.version == 6:
        if FIREWALL_SERVICE in services:
            return Pinholes(services[FIREWALL_SERVICE], route.ip)
        raise ServiceError(f"the UPnP device at {location} opens no IPv6 pinholes")
    for wanted in CONNECTION_SERVICES:
        if wanted in services:
            return Igd(services[wanted], rng)
    raise ServiceError(f"the UPnP device at {location} has no internet connection service")


def _as_described(action: UpnpAction, response: HttpResponse) -> HttpResponse:
    """Let the library see the reserved port under the name that the device's own description gives it."""
    if action.name != "AddAnyPortMapping" or action.argument(RESERVED_PORT, "out") is not None:
        return response
    body = str(response.body or "").replace(RESERVED_PORT, MISNAMED_PORT)
    return replace(response, body=body)


def _import() -> None:
    for module in ("aiohttp", "client_factory", "exceptions", "search"):
        importlib.import_module(f"async_upnp_client.{module}")


async def _search(route: Route) -> str:
    """The URL of the gateway's description; ServiceError after 2.5 s without any."""
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    gateway = route.gateway.ip

    def answered(headers: CaseInsensitiveDict) -> None:
        location = str(headers.get("location", ""))
        if not found.done() and _is_at(location, gateway):
            found.set_result(location)

    search = importlib.import_module("async_upnp_client.search")
    try:
        source, target = _search_endpoints(route)
        listener = search.SsdpSearchListener(
            callback=answered, source=source, target=target, timeout=SEARCH_MX
        )
        try:
            await listener.async_start()
            for pause in SEARCHES:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        return await asyncio.shield(found)
                if pause != SEARCHES[-1]:
                    for search_target in SEARCH_TARGETS:
                        listener.search_target = search_target
                        listener.async_search()
        finally:
            listener.async_stop()
            found.cancel()
    except OSError as error:
        raise ServiceError(f"UPnP search from {route.ip}: {error}") from error
    raise ServiceError(f"no UPnP gateway answers at {gateway}")


def _search_endpoints(route: Route) -> tuple[SockAddr, SockAddr]:
    """From where to which multicast group (UPnP Device Architecture 1.1, sections 1.3.2 and A.3)."""
    if route.ip.version == 4:
        return (str(route.ip), 0), (SSDP_GROUP, SSDP_PORT)
    scope = socket.if_nametoindex(route.interface.name)
    return ("::", 0, 0, scope), (SSDP_GROUP_V6, SSDP_PORT, 0, scope)


def _is_at(location: str, gateway: IPAddress) -> bool:
    """Whether the URL is at the gateway. One that is known by its link-local address names its global one: there
    any IPv6 literal has to be believed."""
    try:
        parts = urlsplit(location)
        host = ip_address(parts.hostname or "")
    except ValueError:
        return False
    if parts.scheme != "http":
        return False
    if gateway.is_link_local:
        return host.version == 6 and not (host.is_loopback or host.is_multicast)
    return host == gateway
