"""What the first stream of a process costs: the QUIC library is never loaded on the event loop."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, importlib.abc, json, sys, threading
from warpgate import Config, Identity, Node

on_the_loop = []

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "qh3" and threading.current_thread() is threading.main_thread():
            on_the_loop.append(name)

sys.meta_path.insert(0, Watch())

async def accept(node):
    async for pipe in node:
        pass

async def main(words):
    nodes = [Node(Config(brokers=(), stun=(), port=0, interfaces=("lo",), port_map=False), identity=Identity.generate())
        for _ in range(2)]
    for node in nodes:
        await node.start()
    accepting = asyncio.create_task(accept(nodes[1]))
    pipe = await nodes[0].connect(nodes[1].address, **words)
    print(json.dumps({"on the loop": on_the_loop, "loaded": "qh3" in sys.modules}))
    await pipe.close()
    accepting.cancel()
    for node in nodes:
        await node.close()

asyncio.run(main(json.loads(sys.argv[1])))
"""


@pytest.mark.parametrize("words", [{"transport": "udp"}, {"durable": True}], ids=["plain", "durable"])
def test_the_first_stream_of_a_process_has_the_library_loaded_in_a_thread(words: dict) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen == {"on the loop": [], "loaded": True}
