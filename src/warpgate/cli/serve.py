"""`warpgate serve`: a name server."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

from warpgate.cli.records import Serving
from warpgate.cli.rendezvous import relay_desk, serve_rendezvous, tls_context, tls_files
from warpgate.cli.shell import Shell
from warpgate.core.disk.identity_store import data_directory
from warpgate.errors import ConfigError
from warpgate.net import descriptors
from warpgate.server.limits import Limits

try:
    from warpgate.server.name_server import Place, name_server
except ModuleNotFoundError as missing:
    if missing.name != "aiohttp":
        raise
    raise ConfigError("`serve` needs the package aiohttp: pip install 'warpgate[serve]'") from None

DATABASE = "names.sqlite"
SPARE_FILES = 256  # for the database, the standard streams, and what else is served


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    descriptors.ask_for(arguments.connections + SPARE_FILES)
    # Being told to stop is how a service ends: nothing went wrong.
    return shell.run(_serve(arguments, shell), stopped=0)


async def _serve(arguments: argparse.Namespace, shell: Shell) -> int:
    """Until told to stop. What else is served goes onto the stack before `Serving` is shown."""
    async with AsyncExitStack() as stack:
        place = _place(arguments, shell)
        server = name_server(_database(arguments), _limits(arguments), place, relay_desk(arguments))
        names = await stack.enter_async_context(server)
        rendezvous = await serve_rendezvous(arguments, shell, place.port, names.metrics, stack)
        if rendezvous is not None:
            shell.output.heading("For the clients' config.toml (or as WARPGATE_RENDEZVOUS, or --rendezvous):")
            shell.output.show(rendezvous)
        shell.output.show(Serving(names.url, names.database))
        await asyncio.get_running_loop().create_future()
    return 0


def _database(arguments: argparse.Namespace) -> str:
    return arguments.database or str(data_directory() / DATABASE)


def _place(arguments: argparse.Namespace, shell: Shell) -> Place:
    tls = tls_context(tls_files(arguments))
    given = Place(host=arguments.host, trust_proxy=arguments.trust_proxy, tls=tls)
    port = shell.settings.config.port
    return given if port is None else replace(given, port=port)


def _limits(arguments: argparse.Namespace) -> Limits:
    """0 on the command line stands for no limit."""
    return Limits(
        names_per_key=arguments.names_per_key or None,
        names_per_network=arguments.names_per_network or None,
        writes_per_key=arguments.writes_per_key or None,
        writes_per_network=arguments.writes_per_network or None,
        lookups_per_network=arguments.lookups_per_network or None,
        connections=arguments.connections,
        connections_per_network=arguments.connections_per_network or None,
    )
