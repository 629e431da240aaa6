"""What commands that wait for peers have in common: who is let in, where peers can connect, and by what nickname."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from warpgate.cli.name_records import Named, Unnamed
from warpgate.cli.options import UsageError
from warpgate.cli.records import Ready
from warpgate.cli.target import check_name
from warpgate.events import Event, NameNotRegistered, Observer

if TYPE_CHECKING:
    from warpgate.cli.shell import Shell
    from warpgate.core.node import Node

NODE_ID = re.compile(r"[a-z2-7]{26}")


def parse_allowed(ids: list[str] | None) -> frozenset[str] | None:
    """None: anybody. UsageError for what cannot be a node id."""
    if ids is None:
        return None
    for text in ids:
        if NODE_ID.fullmatch(text.lower()) is None:
            raise UsageError(f"--allow: {text!r} is no node id (26 letters and digits, see warpgate id)")
    return frozenset(text.lower() for text in ids)


def announce(node: Node, shell: Shell) -> None:
    """Tell that and where peers can connect now."""
    shell.output.show(Ready(node.node_id, node.address.to_text()))
    directly = "only peers who can reach this machine directly can connect"
    if not node.address.brokers:
        shell.output.note(f"there is no broker: {directly}")
    elif not node.status().brokers:
        shell.output.note(f"no broker has answered yet: until one does, {directly}")


def parse_name(text: str | None, shell: Shell) -> str | None:
    """The folded --name. NicknameError for what is none, ServiceError when no name server is configured."""
    return None if text is None else check_name(text, shell.settings.config)


def naming_news(shell: Shell) -> Observer:
    """An observer that tells when a server does not take the name: with the library alone that is just an event."""

    def observe(event: Event) -> None:
        if isinstance(event, NameNotRegistered):
            retry = round(event.retry, 3)
            shell.output.warn(Unnamed(event.name, event.server, event.reason, event.refused, retry))

    return observe


async def while_named(work: Coroutine[Any, Any, int], node: Node, name: str | None, shell: Shell) -> int:
    """Run `work` to its end, with `name` registered as soon as a server can be reached.

    A server that refuses it ends the work: NameRefused. Who was told a name shall not wait behind another.
    """
    if name is None:
        return await work
    working = asyncio.ensure_future(work)
    naming = asyncio.ensure_future(_register(node, name, shell))
    try:
        await asyncio.wait((working, naming), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await naming
        return await working
    finally:
        for task in (working, naming):
            task.cancel()
        await asyncio.gather(working, naming, return_exceptions=True)


async def _register(node: Node, name: str, shell: Shell) -> None:
    servers = await node.nickname(name, wait=True)
    shell.output.show(Named(name, node.node_id, servers))
