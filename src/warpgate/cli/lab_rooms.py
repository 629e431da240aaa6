"""A lab host as a user meets it: with an environment, a way in, and programs running in it."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence

from warpgate.cli.records import LabHost
from warpgate.errors import ServiceError
from warpgate.lab.host import Host
from warpgate.lazy_dataclass import dataclass

ADDRESS = re.compile(r"\bwg1[A-Za-z0-9_-]{40,}")  # the shortest address holds a key: 44 characters
# Start-up of a Python program, plus what its node waits for servers, several times over.
ADDRESS_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Room:
    """`variables` tell programs in this host where the lab's servers are and where to keep their key."""

    host: Host
    kind: str
    variables: Mapping[str, str]

    async def start(self, command: Sequence[str], *, quiet: bool) -> asyncio.subprocess.Process:
        """Run a program here; `quiet`: no stdin, and its output is to be read from its pipe.

        The word `warpgate` at the beginning means this program, wherever it is installed.
        """
        words = [sys.executable, "-m", "warpgate", *command[1:]] if command[0] == "warpgate" else list(command)
        environment = dict(self.variables)
        if not quiet:
            return await self.host.popen(words, env=environment, stdin=None)
        pipe, together = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        return await self.host.popen(words, env=environment, stdout=pipe, stderr=together)

    def way_in(self, *, user_namespace: bool) -> LabHost:
        """How to get a shell here from another terminal, while this process lives."""
        own = f"/proc/{os.getpid()}"
        user = f" --user={own}/ns/user --preserve-credentials" if user_namespace else ""
        settings = " ".join(shlex.quote(f"{name}={value}") for name, value in self.variables.items())
        enter = f"nsenter{user} --net={own}/fd/{self.host.namespace.fd} env {settings} $SHELL"
        outside = [str(ip) for router in self.host.routers if router.nat for ip in router.nat.external]
        addresses = tuple(str(ip) for ip in self.host.addresses)
        return LabHost(self.host.name, self.kind, addresses, tuple(outside), enter)


class Companion:
    """A program whose output is passed on line by line, marked with its host's name, and searched for an address."""

    def __init__(self, room: Room, process: asyncio.subprocess.Process) -> None:
        self._room = room
        self._process = process
        self._address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._passing_on = asyncio.create_task(self._pass_on())

    @classmethod
    async def start(cls, room: Room, command: Sequence[str]) -> Companion:
        return cls(room, await room.start(command, quiet=True))

    async def address(self) -> str:
        """The first address it prints. ServiceError when it ends, or half a minute passes, without one."""
        name = self._room.host.name
        ended = asyncio.shield(self._passing_on)
        await asyncio.wait((self._address, ended), timeout=ADDRESS_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if not self._address.done():
            how = "ended" if ended.done() else f"ran for {ADDRESS_PATIENCE:g} s"
            raise ServiceError(f"the program in host {name} {how} without printing an address")
        return self._address.result()

    async def stop(self) -> None:
        """End it and show what it said last."""
        await self._room.host.stop(self._process)
        await self._passing_on

    async def _pass_on(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            text = line.decode("utf-8", "replace").rstrip("\n")
            print(f"{self._room.host.name}| {text}", file=sys.stderr, flush=True)
            if not self._address.done() and (found := ADDRESS.search(text)):
                self._address.set_result(found[0])
