"""`warpgate lab up`: two hosts behind NATs and a server between them, to run programs in.

    warpgate lab up --a eim-apdf --b edm -- warpgate connect @b --ping 3
    warpgate lab up --a eim --b eim -- ./client :: ./service
    warpgate lab up --a eim --b edm

The hosts find the lab's broker and STUN server in their environment, and each has an identity of its own. Words `@b`
in the first command become the address that the second one prints (by default `warpgate listen --echo` is run).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence

from warpgate.cli.lab_rooms import Companion, Room
from warpgate.cli.options import UsageError
from warpgate.cli.shell import TERMINATED, Shell
from warpgate.errors import ConfigError
from warpgate.lab.kinds import kind_of
from warpgate.lab.line import Quality
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.topology import Lab
from warpgate.lazy_dataclass import dataclass

SEPARATOR = "::"
PEER = "@b"
DEFAULT_B = ("warpgate", "listen", "--echo")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build and what to run in it; without commands the lab stands until it is told to stop."""

    kind_a: str
    kind_b: str
    line: Quality
    command_a: tuple[str, ...] = ()
    command_b: tuple[str, ...] = ()

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Plan:
        """Raises UsageError for kinds and numbers that cannot be."""
        try:
            line = Quality(delay=arguments.delay / 1000, loss=arguments.loss / 100)
            kind_of(arguments.a), kind_of(arguments.b)
        except ConfigError as error:
            raise UsageError(str(error)) from error
        first, second = split_commands(arguments.lab_commands)
        return cls(arguments.a, arguments.b, line, first, second)


def split_commands(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What follows `--`: `COMMAND_A [:: COMMAND_B]`. UsageError when one side of `::` is empty."""
    if SEPARATOR not in words:
        first = tuple(words)
        return first, DEFAULT_B if PEER in first else ()
    cut = list(words).index(SEPARATOR)
    first, second = tuple(words[:cut]), tuple(words[cut + 1 :])
    if not first or not second:
        raise UsageError("lab up: write a command on both sides of '::'")
    return first, second


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    plan = Plan.of(arguments)
    # Standing until it is stopped is what a lab without commands is for.
    return shell.run(_up(plan, shell), stopped=TERMINATED if plan.command_a else 0)


async def _up(plan: Plan, shell: Shell) -> int:
    before = _user_namespace()
    with tempfile.TemporaryDirectory(prefix="warpgate-lab-") as folder:
        async with Lab(link=plan.line) as lab:
            # Two addresses: only then can a STUN server tell how NATs filter (RFC 5780).
            server = lab.add_host("server", ipv4=2)
            broker, stun = await asyncio.gather(start_mosquitto(server), start_coturn(server))
            known = {"WARPGATE_BROKER": broker.mqtt_url, "WARPGATE_STUN": str(stun.endpoint)}
            a, b = (
                Room(lab.add_host(name, behind=kind), kind, {**known, "WARPGATE_DATA": f"{folder}/{name}"})
                for name, kind in (("a", plan.kind_a), ("b", plan.kind_b))
            )
            if plan.command_a:
                return await _run_commands(plan, a, b)
            for room in (Room(server, "public", known), a, b):
                shell.output.show(room.way_in(user_namespace=_user_namespace() != before))
            shell.output.heading("the lab stands until Ctrl-C")
            await asyncio.get_running_loop().create_future()  # until cancelled
    return 0


async def _run_commands(plan: Plan, a: Room, b: Room) -> int:
    """The status of the first command; the second one is stopped when the first has ended."""
    companion = await Companion.start(b, plan.command_b) if plan.command_b else None
    command = plan.command_a
    if companion is not None and PEER in command:
        address = await companion.address()
        command = tuple(address if word == PEER else word for word in command)
    status = await (await a.start(command, quiet=False)).wait()
    if companion is not None:
        await companion.stop()
    return status if status >= 0 else 128 - status  # as shells report a signal


def _user_namespace() -> str:
    return os.readlink("/proc/self/ns/user")
