"""What a connect needs compiled is compiled before it: seen in a process of its own, where nothing is yet."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import asyncio, json
from warpgate import Config, Identity, Node, lazy_dataclass
from warpgate.core.search.prepared import VALUES

compiled, real = [], lazy_dataclass._compiled

def compile_and_tell(made, name, frozen):
    compiled.append(f"{made.__module__}.{made.__name__}.{name}")
    return real(made, name, frozen)

lazy_dataclass._compiled = compile_and_tell

async def main():
    config = Config(brokers=(), stun=(), port=0, interfaces=("lo",), port_map=False)
    nodes = [Node(config, identity=Identity.generate()) for _ in range(2)]
    for node in nodes:
        await node.start()
    while any(hasattr(value.__init__, "compile_now") for value in VALUES):
        await asyncio.sleep(0)
    before = len(compiled)
    for words in ({"mode": "datagram"}, {"transport": "tcp"}, {"durable": True}):
        pipe = await nodes[0].connect(nodes[1].address, **words)
        await pipe.close()
    print(json.dumps({"before": before, "late": compiled[before:]}))
    for node in nodes:
        await node.close()

asyncio.run(main())
"""


def test_a_connect_compiles_next_to_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["before"] > 30
    # An `__eq__`, when two values are compared first; what more there may be depends on the moment.
    assert len(seen["late"]) <= 4, seen["late"]


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
