"""`warpgate serve --stun --broker`: what runs beside the name server, and the line that clients are given."""

from __future__ import annotations

import argparse
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

from warpgate.cli.options import UsageError
from warpgate.cli.records import RendezvousShown, ServeWarning
from warpgate.cli.shell import Shell
from warpgate.errors import ConfigError
from warpgate.net.system import SystemNetwork
from warpgate.server.broker import Tls, choose_broker
from warpgate.server.child import raise_descriptor_limit
from warpgate.server.metrics import Metrics
from warpgate.server.rendezvous import (
    announcement,
    broker_service,
    broker_settings,
    public_host,
    served_interfaces,
    stun_service,
)


async def serve_rendezvous(
    arguments: argparse.Namespace, shell: Shell, names_port: int, metrics: Metrics, stack: AsyncExitStack
) -> RendezvousShown | None:
    """Start what was asked for, on `stack`, and have `metrics` show it; None when only names were asked for.

    Raises ConfigError, NetworkError and ServiceError for what cannot be served.
    """
    wants_broker = arguments.serve_broker or arguments.embedded_broker
    if not (arguments.serve_stun or wants_broker or arguments.public_host):
        return None
    raise_descriptor_limit()
    network = SystemNetwork()
    tls = tls_files(arguments)
    interfaces = served_interfaces(network, arguments.host, shell.settings.config.interfaces)
    host = arguments.public_host or _found_host(shell, public_host(interfaces))
    stun = broker_port = None
    places: tuple[str, ...] = ()
    broker_name = ""
    if arguments.serve_stun:
        stun = await stack.enter_async_context(stun_service(network, interfaces, arguments.stun_port))
        places = tuple(map(str, stun.places))
        metrics.others.append(stun.readings)
    if wants_broker:
        chosen = choose_broker(
            broker_settings(arguments.host, arguments.broker_port, tls),
            embedded=arguments.embedded_broker or None,
        )

        def trouble(message: str) -> None:
            shell.output.warn(ServeWarning(message))

        service = broker_service(network, arguments.host, chosen, trouble)
        broker = await stack.enter_async_context(service)
        broker_port, broker_name = broker.port, broker.name
        metrics.others.append(broker.readings)
    announced = announcement(
        host, names_port=names_port, broker_port=broker_port, stun=stun, tls=tls is not None
    )
    return RendezvousShown(str(announced), places, broker_name)


def tls_files(arguments: argparse.Namespace) -> Tls | None:
    """UsageError when one of the two files is missing on the command line."""
    if bool(arguments.tls_cert) is not bool(arguments.tls_key):
        raise UsageError("--tls-cert and --tls-key belong together")
    return Tls(Path(arguments.tls_cert), Path(arguments.tls_key)) if arguments.tls_cert else None


def tls_context(files: Tls | None) -> ssl.SSLContext | None:
    """For the HTTP part. ConfigError when the files do not make one."""
    if files is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"TLS files {files.certificate}, {files.key}: {error.strerror or error}") from error
    return context


def _found_host(shell: Shell, found: tuple[str, str]) -> str:
    host, warning = found
    if warning:
        shell.output.warn(ServeWarning(warning))
    return host
