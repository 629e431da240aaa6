"""A program that sets up logging hears of its own doings and ours, and nothing of the libraries beneath."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from quic_kit import Path

PROGRAM = """
import logging, sys
logging.basicConfig(level=sys.argv[1], stream=sys.stderr, format="%(name)s: %(message)s")
sys.path.insert(0, "tests/unit/core")
from quic_kit import Path
path = Path()
client, server = path.open()
client.close(2, "reset by the peer")
path.steps(60)
assert server.failure is not None
"""


# As an integrator's program has it: pipes of each kind, of which the peer closes some and resets others.
NODES = """
import asyncio, logging, sys
from warpgate import Config, Identity, Node
from warpgate.events import PipeOpened
logging.basicConfig(level=sys.argv[1], stream=sys.stderr, format="%(name)s: %(message)s")

async def peer(node):
    number = 0
    async for pipe in node:
        await pipe.recv()
        number += 1
        if number % 2:
            pipe.abort()
        else:
            await pipe.close()

async def count(node):
    opened = 0
    async for event in node.events():
        opened += isinstance(event, PipeOpened)
    return opened

async def main():
    here, there = (
        Node(Config(brokers=(), stun=(), port=0, interfaces=("lo",), port_map=False), identity=Identity.generate())
        for _ in range(2)
    )
    ways = {"durable": True}, {"transport": "udp"}, {"transport": "tcp", "secure": True}, {"mode": "datagram"}
    async with here, there:
        counting = asyncio.create_task(count(here))
        serving = asyncio.create_task(peer(there))
        for way in ways * 2:
            pipe = await here.connect(there.address, **way)
            await pipe.send(b"x")
            try:
                await pipe.recv(timeout=10.0)
            except Exception:
                pass
            await pipe.close()
        serving.cancel()
    print(await counting)

asyncio.run(main())
"""


@pytest.mark.parametrize("level", ["WARNING", "DEBUG"])
def test_pipes_of_each_kind_leave_no_line(level: str) -> None:
    """Their events come as long as the node runs, and then end."""
    nodes = [sys.executable, "-c", NODES, level]
    run = subprocess.run(nodes, capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout == "8\n"
    others = [line for line in run.stderr.splitlines() if not line.startswith("asyncio: Using selector")]
    assert others == []


@pytest.mark.parametrize("level", ["WARNING", "DEBUG"])
def test_a_closed_stream_leaves_no_line_of_its_library(level: str) -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM, level], capture_output=True, text=True, check=True, timeout=60)
    assert run.stderr == ""


def test_who_has_set_up_the_librarys_logger_hears_it() -> None:
    program = PROGRAM.replace("sys.path.insert", "logging.getLogger('quic').setLevel('WARNING'); sys.path.insert")
    run = subprocess.run(
        [sys.executable, "-c", program, "WARNING"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "quic: Native peer close" in run.stderr


def test_a_program_that_makes_many_streams_gets_no_handler_for_each() -> None:
    handlers = logging.getLogger("quic").handlers
    Path().open()
    before = len(handlers)
    Path().open()
    assert len(handlers) == before
