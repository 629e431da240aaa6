"""`warpgate name`: register, show, release a nickname; forget what the contact book has of one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from warpgate.cli.name_records import Forgotten, Named, NameShown, Released
from warpgate.cli.shell import Shell, contact_book
from warpgate.cli.target import check_name
from warpgate.model.identity import listen_port_of
from warpgate.model.nickname import fold

ELSEWHERE = (
    "another program listens on this identity's port: if that is a node of the same identity, let it register the "
    "name itself (warpgate listen --name), since the record now names this command's port"
)


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    if arguments.action == "forget":
        return _forget(shell, fold(arguments.name))
    actions: dict[str, Callable[[Shell, str], Coroutine[Any, Any, int]]] = {
        "register": _register,
        "show": _show,
        "release": _release,
    }
    name = check_name(arguments.name, shell.settings.config)
    return shell.run(actions[arguments.action](shell, name))


async def _register(shell: Shell, name: str) -> int:
    """With the address that the node has now; `listen --name` keeps it up to date."""
    async with shell.node(accept=False, beside=False) as node:
        servers = await node.nickname(name)
        shell.output.show(Named(name, node.node_id, servers))
        if shell.settings.config.port is None and node.port != listen_port_of(node.public_key):
            shell.output.note(ELSEWHERE)
    return 0


async def _release(shell: Shell, name: str) -> int:
    """A release says nothing of where the node is: no server but those for names is asked."""
    quiet = replace(shell.settings.config, brokers=(), stun=(), turn=(), port_map=False)
    offline = replace(shell, settings=replace(shell.settings, config=quiet))
    async with offline.node(accept=False) as node:
        shell.output.show(Released(name, await node.release_nickname(name)))
    return 0


async def _show(shell: Shell, name: str) -> int:
    """Needs no node, and pins nothing."""
    from warpgate.core.names.known_peers import FileKnownPeers  # noqa: PLC0415 - only here
    from warpgate.net.system import SystemNetwork  # noqa: PLC0415
    from warpgate.net.tls import Trust  # noqa: PLC0415
    from warpgate.services.names import NameServers  # noqa: PLC0415

    config = shell.settings.config
    contacts = FileKnownPeers(contact_book(config).path)
    servers = NameServers(SystemNetwork(), config.names, shell.output.observe, trust=Trust(config.ca_file))
    try:
        found = await servers.look_up(name, contacts.find(name))
    finally:
        await servers.close()
    shell.output.show(NameShown.of_found(found, await contacts.find(name)))
    return 0


def _forget(shell: Shell, name: str) -> int:
    known = contact_book(shell.settings.config).forget(name)
    shell.output.show(Forgotten(name, "" if known is None else known.node_id))
    return 0
