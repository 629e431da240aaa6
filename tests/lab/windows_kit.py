"""A host of the lab with Windows: CPython for Windows under Wine, in the host's network namespace.

`tools/windows.sh` has set it up in the folder that WINDOWS names. Wine's server makes the sockets of all its
programs, and there is one server for a prefix: so each host has a prefix of its own, of hard links.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from needs import missing
from programs import Seat

ROOT = Path(__file__).parents[2]
WINE = Path("/usr/lib/wine")
# A loader that is asked for `warpgate` like any other program: Wine takes pipes for standard streams, and neither files
# nor /dev/null nor what asyncio gives a child for its stdin, a socket.
PROGRAM = """#!/bin/bash
export PYTHONPATH={path} PYTHONPYCACHEPREFIX={compiled}
exec {wine} {python} -m warpgate "$@" < <(cat)
"""


def on_windows(path: Path) -> str:
    return "Z:" + str(path).replace("/", "\\")


def _machine(cache: Path, folder: Path) -> dict[str, str]:
    """Made in `folder`; what programs there find in their environment."""
    prefix, programs = folder / "prefix", folder / "programs"
    subprocess.run(["cp", "--archive", "--link", cache / "prefix", prefix], check=True)
    python = cache / "python" / "cp313" / "python.exe"
    words = {
        "wine": str(WINE / "wine64"),
        "python": str(python),
        "path": f"{on_windows(ROOT / 'src')};{on_windows(cache / 'packages')}",
        "compiled": on_windows(cache / "pycache"),
    }
    programs.mkdir()
    quoted = {name: shlex.quote(word) for name, word in words.items()}
    (programs / "warpgate").write_text(PROGRAM.format(**quoted))
    (programs / "warpgate").chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "WINEPREFIX": str(prefix),
        "LD_PRELOAD": str(cache / "wine_ports.so"),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml,winemenubuilder.exe=",
    }


@asynccontextmanager
async def with_windows(seat: Seat) -> AsyncIterator[Seat]:
    """The same seat at a Windows machine, `warpgate` on its path."""
    if "WINDOWS" not in os.environ:
        missing("WINDOWS names no folder that tools/windows.sh has set up")
    cache = Path(os.environ["WINDOWS"])
    # Beside the original: hard links stay in one file system.
    with tempfile.TemporaryDirectory(prefix="host-", dir=cache) as folder:
        data = on_windows(Path(seat.env["WARPGATE_DATA"]))
        env = {**seat.env, **_machine(cache, Path(folder)), "WARPGATE_DATA": data}
        windows = replace(seat, env=env)
        # Kept running, or it would end with the last program, and its services would start anew with the next one. They
        # are started by a program without pipes, which they would keep open.
        server = await seat.host.popen(
            [WINE / "wineserver64", "--foreground", "--persistent"], env=env, stdout=DEVNULL, stderr=DEVNULL
        )
        try:
            await windows.run("sh", "-c", 'exec "$0" wineboot </dev/null >/dev/null 2>&1', WINE / "wine64")
            yield windows
        finally:
            # Ends its services first, which outlive a server that is only stopped.
            await windows.run(WINE / "wineserver64", "-k")
            await seat.host.stop(server)
