"""Programs as integrators write them, in two processes on two hosts behind NATs: streams, events, moves."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from needs import need_programs

from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.topology import Lab
from warpgate.model.address import NodeAddress

pytestmark = pytest.mark.lab

PATIENCE = 30.0
SERVER = """
import asyncio
from warpgate import Config, Node, start_server

async def shout(reader, writer):
    peer = writer.get_extra_info("pipe").peer
    while line := await reader.readline():
        writer.write(peer.encode() + b" " + line.upper())
        await writer.drain()
    writer.close()

async def main():
    async with Node(Config.from_user()) as node, await start_server(node, shout):
        print("at", node.address.to_text(), flush=True)
        while True:
            address = await node.address_changed()
            print("at", address.to_text(), flush=True)

asyncio.run(main())
"""
CLIENT = """
import asyncio, sys
from warpgate import Config, Node, open_connection

async def tell(node):
    async for event in node.events():
        print("event", type(event).__name__, flush=True)

async def main(address):
    async with Node(Config.from_user()) as node:
        telling = asyncio.create_task(tell(node))
        print("me", node.node_id, flush=True)
        for options in ({"transport": "tcp"}, {"transport": "udp"}, {"secure": True}, {"durable": True}):
            reader, writer = await open_connection(node, address, **options)
            writer.write(b"hello\\n")
            print("said", (await reader.readline()).decode().strip(), flush=True)
            if "durable" in options:
                await asyncio.to_thread(sys.stdin.readline)
                writer.write(b"still there\\n")
                print("said", (await reader.readline()).decode().strip(), flush=True)
            writer.close()
        telling.cancel()

asyncio.run(main(sys.argv[1]))
"""


def hosts(address: str) -> set[str]:
    return {str(attachment.host) for attachment in NodeAddress.from_text(address).attachments}


async def line(process: asyncio.subprocess.Process, *words: str) -> str:
    """The rest of the next one that begins with one of these words."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while read := (await process.stdout.readline()).decode().strip():
            word, _, rest = read.partition(" ")
            if word in words:
                return rest
    raise AssertionError(f"the program ended without a word of {words}")


async def test_a_server_of_streams_and_its_client_and_a_move(lab: Lab, tmp_path: Path) -> None:
    need_programs("mosquitto", "turnserver")
    broker, stun = (
        await start_mosquitto(lab.add_host("broker")),
        await start_coturn(lab.add_host("stun", ipv4=2)),
    )
    here, there = (lab.add_host(name, behind="eim-apdf") for name in ("here", "there"))
    pipe, settings = (
        asyncio.subprocess.PIPE,
        {
            "WARPGATE_BROKER": broker.mqtt_url,
            "WARPGATE_STUN": str(stun.endpoint),
        },
    )
    server = await there.popen(
        (sys.executable, "-c", SERVER),
        env={**settings, "WARPGATE_DATA": str(tmp_path / "there")},
        stdout=pipe,
    )
    address = await line(server, "at")
    client = await here.popen(
        (sys.executable, "-c", CLIENT, address),
        env={**settings, "WARPGATE_DATA": str(tmp_path / "here")},
        stdin=pipe,
        stdout=pipe,
    )
    me = await line(client, "me")
    for _ in range(4):
        assert await line(client, "said") == f"{me} HELLO"
    before = there.ipv4
    lab.move(there, "eim-apdf")
    assert there.ipv4 != before
    while str(there.ipv4) not in hosts(await line(server, "at")):
        pass
    while await line(client, "event") != "PathChosen":
        pass
    assert client.stdin is not None
    client.stdin.write(b"go on\n")
    assert await line(client, "said") == f"{me} STILL THERE"
    async with asyncio.timeout(PATIENCE):
        assert await client.wait() == 0
    await there.stop(server)
