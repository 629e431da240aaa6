"""What a start waits for, seen in processes of their own, where nothing is loaded yet."""

from __future__ import annotations

import subprocess
import sys

STARTS = """
import asyncio, threading
from warpgate import Config, Identity, Node
from warpgate.core.connection import quic_library

async def ready(*brokers):
    config = Config(brokers=brokers, stun=(), port=0, interfaces=("lo",), port_map=False, accept=False)
    async with Node(config, identity=Identity.generate()):
        return quic_library.is_loaded()

real, gate = quic_library.load, threading.Event()
quic_library.load = lambda: gate.wait() and real()

async def main():
    offline = asyncio.ensure_future(ready("mqtt://127.0.0.1:1"))
    print(await asyncio.wait_for(asyncio.shield(offline), 20))
    alone = asyncio.ensure_future(ready())
    await asyncio.sleep(0)
    gate.set()
    print(await alone)

asyncio.run(main())
"""


def test_a_start_that_waits_for_no_server_loads_quic() -> None:
    """A pipe that is opened at once finds it there. Where no broker is reached nobody is connected to: not so."""
    done = subprocess.run(
        [sys.executable, "-c", STARTS], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["False", "True"], done.stderr
