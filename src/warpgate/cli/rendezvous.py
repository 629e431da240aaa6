"""`warpgate serve --stun --broker --relay`: what runs beside the name server, and the line that clients are given."""

from __future__ import annotations

import argparse
import ssl
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from warpgate.cli.options import UsageError
from warpgate.cli.records import RendezvousShown, ServeWarning
from warpgate.cli.shell import Shell
from warpgate.config import Config
from warpgate.core.disk.identity_store import data_directory
from warpgate.errors import ConfigError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.scope import IPNetwork
from warpgate.net.network import Interface
from warpgate.net.system import SystemNetwork
from warpgate.net.tls import server_context
from warpgate.proto.relay_limits import MEGABIT, RelayLimits
from warpgate.server.broker import Tls, choose_broker
from warpgate.server.broker_process import BrokerProcess
from warpgate.server.child import raise_descriptor_limit
from warpgate.server.coturn import find_coturn
from warpgate.server.door import HTTP_GET, MQTT_CONNECT
from warpgate.server.metrics import Metrics
from warpgate.server.relay import RelayService, RelaySettings
from warpgate.server.relay_desk import RelayDesk
from warpgate.server.relay_setup import group_secret, relay_addresses
from warpgate.server.rendezvous import (
    announced_addresses,
    announcement,
    broker_service,
    broker_settings,
    coturn_service,
    door_service,
    own_endpoint,
    public_host,
    relay_service,
    served_interfaces,
    stun_service,
)
from warpgate.server.stun_responder import StunResponder

RELAY_SECRET = "relay-secret"
IDS_SECRET = "relay-ids-secret"
GIGABYTE = 1e9
# What `--relay-limit` takes, and its unit there.
LIMITS = {
    "allocations": ("allocations", 1),
    "user-allocations": ("allocations_per_user", 1),
    "mbits": ("bytes_per_second", MEGABIT),
    "user-mbits": ("bytes_per_second_per_user", MEGABIT),
    "daily-gb": ("bytes_per_day", GIGABYTE),
    "user-daily-gb": ("bytes_per_day_per_user", GIGABYTE),
}


async def serve_rendezvous(
    arguments: argparse.Namespace, shell: Shell, names_port: int, metrics: Metrics, stack: AsyncExitStack
) -> RendezvousShown | None:
    """Start what was asked for, on `stack`, and have `metrics` show it; None when only names were asked for.

    Raises ConfigError, NetworkError and ServiceError for what cannot be served.
    """
    wants_broker = arguments.serve_broker or arguments.embedded_broker
    wants_relay = arguments.serve_relay or arguments.embedded_relay
    wanted = (arguments.serve_stun, wants_broker, wants_relay, arguments.public_host)
    if arguments.door_port and not (arguments.tls_cert and (wants_broker or wants_relay)):
        raise UsageError("--door-port needs --tls-cert, and --relay or --broker")
    if not any(wanted):
        return None
    raise_descriptor_limit()
    network = SystemNetwork(follow_routes=True)
    interfaces = served_interfaces(network, arguments.host, shell.settings.config.interfaces)
    host = arguments.public_host or _found_host(shell, public_host(interfaces))
    serving = _Serving(arguments, shell, network, interfaces, metrics, stack)
    stun = await serving.stun() if arguments.serve_stun else None
    broker = await serving.broker() if wants_broker else None
    secret, relay = await serving.relay(host) if wants_relay else ("", None)
    if arguments.door_port:
        await serving.door(relay, broker, names_port)
    announced = announcement(
        host,
        names_port=names_port,
        broker_port=None if broker is None else broker.port,
        stun=stun,
        tls=arguments.tls_cert is not None,
        relay_port=None if relay is None else arguments.relay_port,
        door_port=arguments.door_port,
        secret=secret,
    )
    return RendezvousShown(
        str(announced),
        () if stun is None else tuple(map(str, stun.places)),
        "" if broker is None else broker.name,
        "" if relay is None else "embedded" if relay.takes_datagrams else "coturn",
    )


@dataclass(frozen=True, slots=True)
class _Serving:
    """Each method starts one service, on the stack, with its readings in the metrics."""

    arguments: argparse.Namespace
    shell: Shell
    network: SystemNetwork
    interfaces: tuple[Interface, ...]
    metrics: Metrics
    stack: AsyncExitStack

    async def stun(self) -> StunResponder:
        service = stun_service(self.network, self.interfaces, self.arguments.stun_port)
        responder = await self.stack.enter_async_context(service)
        self.metrics.others.append(responder.readings)
        return responder

    async def broker(self) -> BrokerProcess:
        chosen = choose_broker(
            broker_settings(self.arguments.host, self.arguments.broker_port, tls_files(self.arguments)),
            embedded=self.arguments.embedded_broker or None,
        )
        service = broker_service(self.network, self.arguments.host, chosen, self._trouble)
        process = await self.stack.enter_async_context(service)
        self.metrics.others.append(process.readings)
        return process

    async def relay(self, host: str) -> tuple[str, RelayService]:
        """The group's secret ("" where it is nobody's to know) and its relay."""
        secret = relay_secret(self.arguments)
        addresses = relay_addresses(self.interfaces, await announced_addresses(self.network, host))
        if not addresses:
            raise ConfigError("no address to relay from: say what clients reach this machine by with --public-host")
        settings = RelaySettings(
            secret,
            addresses,
            frozenset(interface.ip for interface in self.network.interfaces()),
            tuple(map(_network, self.arguments.relay_allow)),
            relay_limits(self.arguments.relay_limit),
        )
        port = self.arguments.relay_port
        # Coturn knows a rate for each allocation alone: what anybody asked to be counted, ours counts.
        counted = any(not text.partition("=")[0].endswith("allocations") for text in self.arguments.relay_limit)
        program = None if self.arguments.embedded_relay or counted else find_coturn()
        if program is not None:
            half = (settings.ports.start + settings.ports.stop) // 2
            theirs = replace(settings, ports=range(half, settings.ports.stop))
            settings = replace(settings, ports=range(settings.ports.start, half))
            coturn = coturn_service(self.network, self.interfaces, port, theirs, program, self._trouble)
            process = await self.stack.enter_async_context(coturn)
            self.metrics.others.append(process.readings)
        service = relay_service(self.network, self.interfaces, port, settings, datagrams=program is None)
        relay = await self.stack.enter_async_context(service)
        self.metrics.others.append(relay.readings)
        return "" if self.arguments.relay_for else secret, relay

    async def door(self, relay: RelayService | None, broker: BrokerProcess | None, names_port: int) -> None:
        context = tls_context(tls_files(self.arguments))
        assert context is not None
        ports = {} if broker is None else {MQTT_CONNECT: broker.port}
        if self.arguments.relay_for:  # who is let in gets a log-in by HTTP
            ports[HTTP_GET] = names_port
        inside = {first: own_endpoint(self.arguments.host, port) for first, port in ports.items()}
        service = door_service(self.network, self.interfaces, self.arguments.door_port, context, relay, inside)
        door = await self.stack.enter_async_context(service)
        self.metrics.others.append(door.readings)

    def _trouble(self, message: str) -> None:
        self.shell.output.warn(ServeWarning(message))


def relay_secret(arguments: argparse.Namespace) -> str:
    """That of the group, or where the relay is for node ids one that no line has ever held. ConfigError."""
    named = arguments.relay_secret_file
    usual = data_directory() / (IDS_SECRET if arguments.relay_for else RELAY_SECRET)
    return group_secret(Path(named) if named else usual)


def relay_desk(arguments: argparse.Namespace) -> RelayDesk | None:
    """Where nodes log in, if the relay is for node ids. ConfigError, UsageError."""
    if not arguments.relay_for:
        return None
    if not (arguments.serve_relay or arguments.embedded_relay):
        raise UsageError("--relay-for needs --relay")
    ids = Config(allow=frozenset(arguments.relay_for)).allow or frozenset()  # which judges ids
    return RelayDesk(relay_secret(arguments), ids, clock=time.time, timer=time.monotonic)


def relay_limits(said: Sequence[str]) -> RelayLimits:
    """What `--relay-limit` gives, and else the usual. UsageError."""
    given: dict[str, Any] = {}
    for text in said:
        what, _, number = text.partition("=")
        name, unit = LIMITS.get(what, ("", 0.0))
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        if not (name and 0 < value * unit < float("inf")):  # a relay that may carry nothing is none
            raise UsageError(f"--relay-limit {text}: write one of {', '.join(LIMITS)}, = and a number above 0")
        given[name] = int(value) or 1 if unit == 1 else value * unit
    return replace(RelayLimits(), **given)


def _network(text: str) -> IPNetwork:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigError(f"--relay-allow {text}: {error}") from None


def tls_files(arguments: argparse.Namespace) -> Tls | None:
    """UsageError when one of the two files is missing on the command line."""
    if bool(arguments.tls_cert) is not bool(arguments.tls_key):
        raise UsageError("--tls-cert and --tls-key belong together")
    return Tls(Path(arguments.tls_cert), Path(arguments.tls_key)) if arguments.tls_cert else None


def tls_context(files: Tls | None) -> ssl.SSLContext | None:
    """For the HTTP part. ConfigError when the files do not make one."""
    return None if files is None else server_context(files.certificate, files.key)


def _found_host(shell: Shell, found: tuple[str, str]) -> str:
    host, warning = found
    if warning:
        shell.output.warn(ServeWarning(warning))
    return host
