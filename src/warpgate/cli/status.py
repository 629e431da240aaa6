"""`warpgate status`: what runs with this identity, asked of each process of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

from warpgate.cli.records import Record, milliseconds, span
from warpgate.cli.shell import Shell
from warpgate.cli.status_door import PATIENCE, socket_file
from warpgate.cli.status_place import ask
from warpgate.core.disk.claim import holder
from warpgate.errors import NetworkError, ServiceError
from warpgate.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Running(Record):
    """One process. `told` is what it says of itself, see `status_door.snapshot`."""

    event = "status"
    told: dict[str, Any]
    now: float

    def members(self) -> dict[str, Any]:
        return self.told

    def text(self) -> str:
        told = self.told
        lines = [
            f"{told['command']} as {told['node_id']} (identity {told['identity']}, process {told['pid']})",
            f"  since     {_when(told['since'], self.now)}",
        ]
        if told["accepts"]:
            services = ", ".join(name or "one without a name" for name in told["services"])
            lines += [f"  services  {services or 'none'}", f"  address   {told['address']}"]
        for broker in told["brokers"]:
            rtt = "" if broker["rtt"] is None else f", round trip {milliseconds(broker['rtt'])}"
            lines.append(f"  broker    {broker['url']}{rtt}")
        if told.get("server_list"):
            lines.append(f"  servers   list {told['server_list']} of public servers")
        lines += [f"  pipe      {_pipe(pipe, self.now)}" for pipe in told["pipes"]]
        if told.get("relay"):
            lines.append(f"  relay     {_relay(told['relay'])}")
        if told["twin"]:
            lines.append(f"  warning   {told['twin']}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Held(Record):
    """A process that accepts peers and cannot be asked: a program that uses the library."""

    event = "in_use"
    identity: str
    process: str

    def text(self) -> str:
        return (
            f"process {self.process} accepts peers with the identity {self.identity}: it is no warpgate command that "
            "could be asked for more"
        )


def run(_arguments: argparse.Namespace, shell: Shell) -> int:
    return shell.run(_show(shell))


async def _show(shell: Shell) -> int:
    """ServiceError when nothing runs."""
    identity = shell.settings.config.identity
    found = await running(identity)
    held = None if any(told["accepts"] for told in found) else holder(identity)
    if not found and held is None:
        raise ServiceError(f"nothing runs with the identity {identity!r}")
    for told in found:
        shell.output.show(Running(told, time.time()))
    if held is not None:
        shell.output.show(Held(identity, held.process))
    return 0


async def running(identity: str) -> list[dict[str, Any]]:
    """What each process of this identity says of itself (`status_door.snapshot`), the oldest first."""
    pattern = socket_file(identity, "*")
    found = await asyncio.gather(*(_ask(path) for path in sorted(pattern.parent.glob(pattern.name))))
    return sorted((told for told in found if told is not None), key=lambda told: told["since"])


async def _ask(path: Path) -> dict[str, Any] | None:
    """None when nobody answers."""
    try:
        async with asyncio.timeout(PATIENCE):
            told = json.loads(await ask(path))
    except (NetworkError, TimeoutError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def _relay(relay: dict[str, Any]) -> str:
    where = ", ".join(relay["reachable"]) or "nowhere: no public address, no mapped port"
    users = ", ".join(f"{count} for {user}" for user, count in relay["allocations"].items())
    return f"at {where}; allocations: {users or 'none'}; {relay['relayed'] / 1e6:.1f} MB relayed"


def _pipe(pipe: dict[str, Any], now: float) -> str:
    what = f" for {pipe['service']}" if pipe["service"] else ""
    more = ", durable" * pipe.get("durable", False) + ", encrypted" * pipe["secure"] + ", relayed" * pipe["relayed"]
    return (
        f"{pipe['mode']} with {pipe['peer']}{what} by {pipe['plugin']} over {pipe['transport'].upper()}{more}: "
        f"{pipe['local']} - {pipe['remote']}, for {span(now - pipe['since'])}"
    )


def _when(since: float, now: float) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(since))} ({span(now - since)})"
