"""UPnP internet gateway devices, version 1 and 2: find, add, delete. The protocol is in `proto/igd*.py`.

Only the default gateway itself is believed and talked to: an answer or an URL of somebody else could be anybody's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from ipaddress import IPv6Address, ip_address

from warpgate.errors import AddressError, DecodeError, NetworkError, ServiceError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import PROTOCOL_NUMBERS, Endpoint, IPAddress, SockAddr, Transport
from warpgate.net.driver import MachineDriver
from warpgate.net.network import Network
from warpgate.net.race import heed
from warpgate.proto.igd import IP_CONNECTION_2, IPV6_FIREWALL_1, Service, decode_description, place_at
from warpgate.proto.igd_soap import Fault, call_fields, decode_answer, encode_call
from warpgate.proto.igd_tries import WILDCARD, Refusal, Tries, Try
from warpgate.proto.machine import Transmit
from warpgate.proto.ssdp import Found, Over, Search
from warpgate.services.gateway_http import GatewayHttp
from warpgate.services.portmap_board import Route

DESCRIPTION = "warpgate"
EPHEMERAL = (49152, 65535)  # nearly all free


@dataclass(frozen=True, slots=True)
class IgdLease:
    """`lifetime` in seconds, 0: until deleted."""

    external_port: int
    lifetime: float


class ActionRefused(ServiceError):
    """The device answered with a UPnP error; `code` 0: without a number."""

    def __init__(self, name: str, action: str, fault: Fault) -> None:
        reason = f" ({fault.reason})" if fault.reason else ""
        super().__init__(f"{name} refuses {action}: error {fault.code}{reason}")
        self.code = fault.code


class _Actions:
    """One service of a device, and how its errors become ours."""

    name = "UPnP"

    def __init__(self, http: GatewayHttp, service: Service) -> None:
        self._http = http
        self.service = service
        # External ports that were asked for and are not known to the caller: they may be mapped or not.
        self.doubtful: set[tuple[Transport, int]] = set()

    def abandon(self) -> None:
        """The way to the device is gone: nothing waits for an answer any more."""

    async def _call(self, action: str, **arguments: object) -> Mapping[str, str]:
        """ServiceError; ActionRefused when the device says no."""
        body = encode_call(self.service.type, action, arguments)
        try:
            answer = await self._http.post(self.service.control, body, call_fields(self.service.type, action))
            # 200 or 500, as UPnP has it; the body tells, also where a router mixes them up.
            if answer.status not in (200, 500):
                raise ServiceError(f"it answers with HTTP status {answer.status}")
            found = decode_answer(answer.body, action)
        except (ServiceError, DecodeError) as error:
            raise ServiceError(f"{self.name}, {action}: {error}") from error
        if isinstance(found, Fault):
            raise ActionRefused(self.name, action, found)
        return found


class Igd(_Actions):
    """One connection service of a gateway. Every verb raises ServiceError for whatever goes wrong."""

    def __init__(self, http: GatewayHttp, service: Service, rng: random.Random) -> None:
        super().__init__(http, service)
        self._rng = rng
        self._version = 2 if service.type == IP_CONNECTION_2 else 1
        self.name = f"UPnP IGD {self._version}"

    async def external_ip(self) -> IPAddress | None:
        """As the gateway says it, private ones included; None when it has none: it is not connected."""
        answer = await self._call("GetExternalIPAddress")
        try:
            ip = ip_address(answer.get("NewExternalIPAddress", ""))
        except ValueError:
            return None
        return None if ip.is_unspecified else ip

    async def map(self, transport: Transport, internal: Endpoint, wanted: int, lease: int) -> IgdLease:
        """Map `internal` at port `wanted`, or at another one when somebody else has that."""
        if self._version == 2:
            with suppress(ServiceError):  # some offer it and then cannot do it
                asked = Try(wanted, lease)
                answer = await self._ask_for("AddAnyPortMapping", transport, internal, asked)
                # WANIPConnection:2 section 2.5.20 calls it by the first name; some answer with the second.
                reserved = answer.get("NewReservedPort", answer.get("NewExternalPort", ""))
                if reserved.isascii() and reserved.isdecimal() and 0 < int(reserved[:6]) < 65536:
                    port = int(reserved)
                    self.doubtful.discard((transport, wanted))
                    self.doubtful.add((transport, port))
                    owner = await self._owner(transport, port)
                    self.doubtful.discard((transport, port))
                    if owner in (None, internal):
                        return IgdLease(port, float(lease))
        return await self._add(transport, internal, Tries(Try(wanted, lease), internal.port))

    async def renew(self, transport: Transport, internal: Endpoint, external_port: int, lease: int) -> IgdLease:
        """Add or extend exactly this mapping."""
        tries = Tries(Try(external_port, lease), internal.port, any_port=False)
        return await self._add(transport, internal, tries)

    async def unmap(self, transport: Transport, internal: Endpoint, external_port: int) -> None:
        """Delete it, unless it is gone or somebody else's by now."""
        if await self._owner(transport, external_port) in (None, internal):
            try:
                await self._call("DeletePortMapping", **_key(transport, external_port))
            except ActionRefused as refused:
                if refused.code != Refusal.NO_SUCH_ENTRY:
                    raise
        self.doubtful.discard((transport, external_port))

    async def _add(self, transport: Transport, internal: Endpoint, tries: Tries) -> IgdLease:
        own_deleted = False
        while True:
            asked = tries.current
            other = self._rng.randint(*EPHEMERAL)
            try:
                await self._ask_for("AddPortMapping", transport, internal, asked)
            except ActionRefused as refused:
                if refused.code == Refusal.CONFLICT and not own_deleted:
                    # Some cannot renew, and conflict with what they mapped for us before.
                    own_deleted = await self._owner(transport, asked.external_port) == internal
                    if own_deleted:
                        await self.unmap(transport, internal, asked.external_port)
                        continue
                if not tries.refused(refused.code, other):
                    raise
                continue
            # Some accept, and leave the port to whoever had it.
            owner = await self._owner(transport, asked.external_port)
            self.doubtful.discard((transport, asked.external_port))
            if owner in (None, internal):
                return IgdLease(asked.external_port, float(asked.lease))
            if not tries.refused(Refusal.CONFLICT, other):
                raise ServiceError(f"{self.name}: port {asked.external_port} is somebody else's")

    async def _ask_for(self, action: str, transport: Transport, internal: Endpoint, asked: Try) -> Mapping[str, str]:
        """One of the two actions that map. Unless it is refused, the port is in `doubtful` then."""
        doubt = (transport, asked.external_port)
        self.doubtful.add(doubt)
        try:
            return await self._call(action, **_arguments(transport, internal, asked))
        except ActionRefused:
            self.doubtful.discard(doubt)
            raise

    async def _owner(self, transport: Transport, external_port: int) -> Endpoint | None:
        """Where the mapping of this port leads; None when there is none, or the gateway does not tell."""
        try:
            answer = await self._call("GetSpecificPortMappingEntry", **_key(transport, external_port))
            return Endpoint.of(answer.get("NewInternalClient", ""), int(answer.get("NewInternalPort", "")))
        except (ServiceError, AddressError, ValueError):
            return None


def _key(transport: Transport, external_port: int) -> dict[str, object]:
    return {
        "NewRemoteHost": WILDCARD,
        "NewExternalPort": external_port,
        "NewProtocol": transport.value.upper(),
    }


def _arguments(transport: Transport, internal: Endpoint, asked: Try) -> dict[str, object]:
    """Of AddPortMapping and AddAnyPortMapping, in their order."""
    return {
        **_key(transport, asked.external_port),
        "NewRemoteHost": asked.remote_host,
        "NewInternalPort": internal.port,
        "NewInternalClient": internal.ip,
        "NewEnabled": 1,
        "NewPortMappingDescription": DESCRIPTION,
        "NewLeaseDuration": asked.lease,
    }


class Pinholes(_Actions):
    """The IPv6 firewall of one gateway (WANIPv6FirewallControl:1), with the verbs of `Igd`: it lets in to `ip`.

    A pinhole is deleted by a number that only the answer tells. So one that was asked for is doubtful until the answer
    is there. Who cancels `map` does not stop that; `unmap` waits for it, `abandon` gives it up.
    """

    name = "UPnP IGD 2"

    def __init__(self, http: GatewayHttp, service: Service, ip: IPAddress) -> None:
        super().__init__(http, service)
        self._ip = ip
        self._ids: dict[Transport, int] = {}
        self._opening: dict[Transport, asyncio.Task[None]] = {}

    async def external_ip(self) -> IPAddress | None:
        return self._ip

    async def map(self, transport: Transport, internal: Endpoint, wanted: int, lease: int) -> IgdLease:
        """Let anybody in to `internal`; the port is its own, whatever is `wanted`."""
        doubt = (transport, internal.port)
        self.doubtful.add(doubt)
        opening = asyncio.ensure_future(self._open(transport, internal, lease))
        opening.add_done_callback(heed)
        self._opening[transport] = opening
        try:
            await asyncio.shield(opening)
        finally:
            if opening.done():
                self.doubtful.discard(doubt)
        return IgdLease(internal.port, float(lease))

    async def _open(self, transport: Transport, internal: Endpoint, lease: int) -> None:
        answer = await self._call(
            "AddPinhole",
            RemoteHost="",
            RemotePort=0,
            InternalClient=internal.ip,
            InternalPort=internal.port,
            Protocol=PROTOCOL_NUMBERS[transport],
            LeaseTime=lease,
        )
        number = answer.get("UniqueID", "")
        if not (number.isascii() and number.isdecimal() and len(number) <= 5):  # ui2
            raise ServiceError(f"{self.name}, AddPinhole: it names no pinhole")
        self._ids[transport] = int(number)

    async def renew(self, transport: Transport, internal: Endpoint, external_port: int, lease: int) -> IgdLease:
        """The gateway may have forgotten it: then it is added anew."""
        if transport in self._ids:
            with suppress(ServiceError):
                await self._call("UpdatePinhole", UniqueID=self._ids[transport], NewLeaseTime=lease)
                return IgdLease(external_port, float(lease))
        return await self.map(transport, internal, external_port, lease)

    async def unmap(self, transport: Transport, internal: Endpoint, external_port: int) -> None:
        opening = self._opening.pop(transport, None)
        if opening is not None:
            await asyncio.wait([opening])
        if transport in self._ids:
            await self._call("DeletePinhole", UniqueID=self._ids.pop(transport))

    def abandon(self) -> None:
        for opening in self._opening.values():
            opening.cancel()


async def find(network: Network, route: Route, rng: random.Random, in_vain: Collection[Service] = ()) -> Igd | Pinholes:
    """What the gateway of this route offers: a connection that has an external address, or for IPv6 its firewall.

    `in_vain`: what is taken only where there is nothing else. ServiceError when it does not answer a search, describes
    no such service, or cannot be understood.
    """
    http = GatewayHttp(network, route)
    failures: list[str] = []
    spare: Igd | Pinholes | None = None
    async with aclosing(_locations(network, route)) as locations:
        async for location in locations:
            try:
                found = await _choose(http, await _describe(http, location, route), route, rng, in_vain)
                if found.service not in in_vain:
                    return found
                spare = spare or found
            except ServiceError as error:
                failures.append(str(error))
    if spare is not None:
        return spare
    raise ServiceError("; ".join(failures) or f"no UPnP gateway answers at {route.gateway.ip}")


async def _describe(http: GatewayHttp, location: str, route: Route) -> Sequence[Service]:
    gateway = route.gateway.ip
    try:
        return decode_description(await http.get(place_at(location, gateway)), location, gateway)
    except (ServiceError, DecodeError) as error:
        raise ServiceError(f"UPnP device description at {location}: {error}") from error


async def _choose(
    http: GatewayHttp, services: Sequence[Service], route: Route, rng: random.Random, in_vain: Collection[Service]
) -> Igd | Pinholes:
    """The first of the right kind. Of several connections the first that is up; else the best, which may come up.
    Those that are `in_vain` come last.
    """
    services = sorted(services, key=lambda service: service in in_vain)
    if route.ip.version == 6:
        for service in services:
            if service.type == IPV6_FIREWALL_1:
                return Pinholes(http, service, route.ip)
        raise ServiceError("the UPnP device opens no IPv6 pinholes")
    connections = [Igd(http, service, rng) for service in services if service.type != IPV6_FIREWALL_1]
    if not connections:
        raise ServiceError("the UPnP device has no internet connection service")
    for connection in connections if len(connections) > 1 else ():
        with suppress(ServiceError):
            if await connection.external_ip() is not None:
                return connection
    return connections[0]


async def _locations(network: Network, route: Route) -> AsyncGenerator[str]:
    """The URLs at which the gateway's devices are described, as they become known, for 2.5 s."""
    events: asyncio.Queue[Found | Over] = asyncio.Queue()
    gateway = route.gateway.ip
    # A link-local gateway has to be asked from a link-local address, or it answers from a global one of its own.
    scope = route.interface.index if gateway.is_link_local else 0
    base = Endpoint(IPv6Address(0) if gateway.is_link_local else route.ip, 0)

    def received(data: bytes, source: SockAddr) -> None:
        if not scope or len(source) == 2 or source[3] == scope:  # another link has such an address, too
            driver.receive(data, Endpoint.from_sockaddr(source))

    def transmit(packet: Transmit) -> None:
        sock.send(packet.data, packet.remote.sockaddr)

    try:
        sock = network.open_udp(base, received)
    except NetworkError as error:
        raise ServiceError(f"UPnP search from {route.ip}: {error}") from error
    machine = Search(sock.local, gateway, asyncio.get_running_loop().time())
    driver: MachineDriver[Found | Over, Transmit] = MachineDriver(machine, transmit, events.put_nowait)
    try:
        machine.handle_timeout(driver.now())
        driver.drain()
        while isinstance(event := await events.get(), Found):
            yield event.location
    finally:
        driver.close()
        sock.close()
