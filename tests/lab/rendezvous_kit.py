"""`warpgate serve` in a lab host, and sites whose users know nothing but the line that it printed."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from warpgate.lab.host import Host

WARPGATE = (sys.executable, "-m", "warpgate")
PATIENCE = 20.0


# Runs what follows where mosquitto and coturn are not installed: nobody can execute what lies on their places.
WITHOUT_SERVERS = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    "for each in mosquitto turnserver; do for folder in /usr/sbin /usr/bin /sbin /bin /usr/local/sbin /usr/local/bin;"
    ' do [ ! -e $folder/$each ] || mount --bind /dev/null $folder/$each || exit 1; done; done; exec "$@"',
    "sh",
)


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return (await process.stdout.readline()).decode().rstrip("\n")


@asynccontextmanager
async def served(host: Host, folder: Path, *words: str) -> AsyncIterator[str]:
    """The one line that the server prints for clients."""
    async with serving(host, folder, *words) as (line, process):
        yield line
    assert process.returncode == 0


@asynccontextmanager
async def serving(host: Host, folder: Path, *words: str, bare: bool = False) -> AsyncIterator[tuple[str, Process]]:
    """The line, and the server's process, which may be killed. `bare`: see `WITHOUT_SERVERS`."""
    command = [*(WITHOUT_SERVERS if bare else ()), *WARPGATE, "serve", "--stun", "--broker", *words]
    process = await host.popen(command, env={"WARPGATE_DATA": str(folder)}, stdout=PIPE, stderr=PIPE)
    try:
        assert (await line_of(process)).startswith("For the clients' config.toml")
        printed = await line_of(process)
        assert (await line_of(process)).startswith("serving names at ")
        yield printed, process
    finally:
        await host.stop(process)


class Site:
    """A host whose user has put the line into his config file, and nothing else."""

    def __init__(self, host: Host, folder: Path, line: str) -> None:
        folder.mkdir()
        (folder / "config.toml").write_text(line + "\n")
        self.host = host
        self.env = {"WARPGATE_DATA": str(folder), "WARPGATE_CONFIG": str(folder / "config.toml")}

    async def run(self, *words: str) -> list[dict[str, Any]]:
        done = await self.host.run([*WARPGATE, *words, "--json"], env=self.env, timeout=PATIENCE)
        return [json.loads(text) for text in done.stdout.splitlines()]

    @asynccontextmanager
    async def listening(self, *words: str) -> AsyncIterator[str]:
        """Its address."""
        command = [*WARPGATE, "listen", "--echo", "--json", *words]
        process = await self.host.popen(command, env=self.env, stdout=PIPE, stderr=PIPE)
        try:
            ready = json.loads(await line_of(process))
            if "--name" in words:
                assert json.loads(await line_of(process))["event"] == "named"
            yield ready["address"]
        finally:
            await self.host.stop(process)
