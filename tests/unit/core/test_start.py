"""What a start waits for, seen in processes of their own, where nothing is loaded yet."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from warpgate.config import Config
from warpgate.core.connection import quic_library
from warpgate.core.node import Node
from warpgate.model.identity import Identity

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
    done = subprocess.run([sys.executable, "-c", STARTS], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["False", "True"], done.stderr


async def test_a_node_starts_where_the_quic_library_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise ImportError("no QUIC here")

    monkeypatch.setattr(quic_library, "load", load)
    monkeypatch.setattr(quic_library, "_is_loaded", threading.Event())
    config = Config(brokers=(), stun=(), port=0, interfaces=("lo",), port_map=False)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)  # the task's crash is told there
    async with Node(config, identity=Identity.generate()) as node:
        assert node.port
