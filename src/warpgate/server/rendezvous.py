"""What `warpgate serve --stun --broker --relay` runs beside the names, and how clients are told of it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

from warpgate.errors import AddressError, ConfigError, NetworkError
from warpgate.model.endpoint import Endpoint, IPAddress, SockAddr
from warpgate.model.rendezvous import Rendezvous
from warpgate.net.network import Interface, Network, TcpStream
from warpgate.net.tls import secure
from warpgate.proto.stun import BINDING, StunClass, StunMessage, encode
from warpgate.server.addresses import announced_address, is_public, stun_places
from warpgate.server.broker import Broker, BrokerSettings, Tls
from warpgate.server.broker_process import BrokerProcess
from warpgate.server.coturn import coturn_relay
from warpgate.server.door import Door
from warpgate.server.relay import RelayService, RelaySettings
from warpgate.server.stun_responder import StunResponder

SALT_SIZE = 16
STUN_PATIENCE = 0.1  # of our own machine


def served_interfaces(network: Network, host: str | None, names: Sequence[str] | None = None) -> tuple[Interface, ...]:
    """The addresses for STUN: of all interfaces or those of these names, and of them only `host` if that is one.

    ConfigError when that is not an address of this machine.
    """
    interfaces = tuple(each for each in network.interfaces() if names is None or each.name in names)
    if not _is_one(host):
        return tuple(interface for interface in interfaces if not interface.spare)
    try:
        wanted = Endpoint.of(str(host), 0).ip
    except AddressError:
        raise ConfigError(f"--host {host}: STUN and the broker need an IP address here, not a name") from None
    chosen = tuple(interface for interface in interfaces if interface.ip == wanted)
    if not chosen:
        raise ConfigError(f"--host {host}: no network interface of this machine has this address")
    return chosen


def broker_settings(host: str | None, port: int | None, tls: Tls | None) -> BrokerSettings:
    """For a broker on `host`, or on all addresses."""
    return BrokerSettings((str(host),) if _is_one(host) else (), port, tls)


@asynccontextmanager
async def stun_service(network: Network, interfaces: Sequence[Interface], port: int) -> AsyncIterator[StunResponder]:
    """STUN on `port` and the next one until the end of the block. NetworkError when one of them is taken."""
    places = stun_places(interfaces, port, port + 1)
    if not places:
        raise NetworkError("no network interface is up: there is nothing to answer STUN on")
    responder = StunResponder.open(network, places, salt=secrets.token_bytes(SALT_SIZE))
    try:
        yield responder
    finally:
        await responder.close()


@asynccontextmanager
async def relay_service(
    network: Network,
    interfaces: Sequence[Interface],
    port: int,
    settings: RelaySettings,
    *,
    datagrams: bool = True,
) -> AsyncIterator[RelayService]:
    """A relay on `port` of all interfaces until the end of the block. NetworkError when it is taken.

    Without `datagrams` for clients over TCP alone.
    """
    places = [Endpoint(interface.ip, port) for interface in interfaces]
    service = RelayService.open(network, places, settings, datagrams=datagrams)
    try:
        yield service
    finally:
        await service.close()


@asynccontextmanager
async def coturn_service(
    network: Network,
    interfaces: Sequence[Interface],
    port: int,
    settings: RelaySettings,
    program: str,
    on_trouble: Callable[[str], None],
) -> AsyncIterator[BrokerProcess]:
    """coturn for UDP clients until the end of the block. ServiceError when it does not start."""
    places = [Endpoint(interface.ip, port) for interface in interfaces]
    process = BrokerProcess(
        coturn_relay(program, places, settings),
        places[0],
        network,
        on_trouble,
        accepts=partial(answers_stun, network, places[0]),
        metric="coturn",
    )
    await process.start()
    try:
        yield process
    finally:
        await process.close()


async def answers_stun(network: Network, place: Endpoint) -> bool:
    """Whether something of this machine answers a Binding request over UDP, within a tenth of a second."""
    heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def received(_data: bytes, source: SockAddr) -> None:
        if not heard.done() and Endpoint.from_sockaddr(source) == place:
            heard.set_result(None)

    sock = network.open_udp(Endpoint(place.ip, 0), received)
    try:
        request = StunMessage(BINDING, StunClass.REQUEST, secrets.token_bytes(12))
        sock.send(encode(request), place.sockaddr)
        async with asyncio.timeout(STUN_PATIENCE):
            await heard
    except TimeoutError:
        return False
    finally:
        sock.close()
    return True


@asynccontextmanager
async def door_service(
    network: Network,
    interfaces: Sequence[Interface],
    port: int,
    context: ssl.SSLContext,
    relay: RelayService | None,
    services: Mapping[int, Endpoint],
) -> AsyncIterator[Door]:
    """The relay, and by the first byte what is over TLS at these endpoints, on one TLS port. NetworkError when it is
    taken.
    """
    unverified = ssl.create_default_context()  # to ourselves
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE

    async def dial(endpoint: Endpoint) -> TcpStream:
        return await secure(await network.dial_tcp(endpoint), unverified, str(endpoint.ip))

    door = Door.open(
        network,
        [Endpoint(interface.ip, port) for interface in interfaces],
        context,
        salt=secrets.token_bytes(SALT_SIZE),
        relay=None if relay is None else partial(relay.accept, 0),
        services={first: partial(dial, endpoint) for first, endpoint in services.items()},
    )
    try:
        yield door
    finally:
        await door.close()


@asynccontextmanager
async def broker_service(
    network: Network, host: str | None, broker: Broker, on_trouble: Callable[[str], None]
) -> AsyncIterator[BrokerProcess]:
    """A broker until the end of the block. ServiceError when it does not start, ConfigError for its files.

    `on_trouble` gets a sentence each time it had to be started again.
    """
    process = BrokerProcess(broker, own_endpoint(host, broker.port), network, on_trouble)
    await process.start()
    try:
        yield process
    finally:
        await process.close()


def own_endpoint(host: str | None, port: int) -> Endpoint:
    """Where this machine reaches a service of its own."""
    return Endpoint.of(str(host) if _is_one(host) else "127.0.0.1", port)


def announcement(
    host: str,
    *,
    names_port: int | None,
    broker_port: int | None,
    stun: StunResponder | None,
    tls: bool,
    relay_port: int | None = None,
    door_port: int | None = None,
    secret: str = "",
) -> Rendezvous:
    """What clients need to know. ConfigError when `host` is neither a name nor an address.

    With two addresses a client finds the others by itself (RFC 5780); with one, the second port lets it see whether its
    NAT gives each port another mapping.
    """
    checked = Rendezvous.parse(f"warpgate://{_bracketed(host)}/names=1").host
    stun_ports = () if stun is None else stun.announced_ports(checked)
    return Rendezvous(
        checked, names_port, broker_port, stun_ports, tls, relay_port, door_port, secret if relay_port else ""
    )


async def announced_addresses(network: Network, host: str) -> tuple[IPAddress, ...]:
    """What clients that know us as `host` will come to; () where the name is not (yet) to be found here."""
    with contextlib.suppress(NetworkError):
        return tuple(endpoint.ip for endpoint in await network.resolve(host.strip("[]"), 0))
    return ()


def public_host(interfaces: Sequence[Interface]) -> tuple[str, str]:
    """The address to announce when nobody named one, and what is wrong with it ("" for nothing).

    ConfigError when there is none.
    """
    found = announced_address(interfaces)
    if found is None:
        raise ConfigError("no network interface is up: say what clients reach this machine by with --public-host")
    return str(found), "" if is_public(found) else _warning(found)


def _is_one(host: str | None) -> bool:
    """Whether this is one address, and not all of them."""
    return host not in (None, "", "0.0.0.0", "::")


def _warning(ip: IPAddress) -> str:
    return (
        f"{ip} is a private address: clients elsewhere cannot reach it. If this machine has a public address or name, "
        "say it with --public-host"
    )


def _bracketed(host: str) -> str:
    with contextlib.suppress(AddressError):
        if Endpoint.of(host.strip("[]"), 0).ip.version == 6:
            return f"[{host.strip('[]')}]"
    return host
