"""Two nodes of one process on the loopback interface: every kind of pipe, on the loop that asyncio gives."""

from __future__ import annotations

import asyncio
import os

import pytest
from portable_kit import PATIENCE, quiet_config

from warpgate import Identity, Node

KINDS = {
    "default": {},
    "tcp": {"transport": "tcp"},
    "tls": {"transport": "tcp", "secure": True},
    "quic": {"transport": "udp"},
    "datagram": {"mode": "datagram"},
    "durable": {"durable": True},
    "durable datagram": {"mode": "datagram", "durable": True},
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pipe(kind: str) -> None:
    blob = os.urandom(300_000)
    async with asyncio.timeout(PATIENCE):
        async with (
            Node(quiet_config(port=0), identity=Identity.generate()) as a,
            Node(quiet_config(port=0), identity=Identity.generate()) as b,
        ):
            pipe = await a.connect(b.address, **KINDS[kind])
            accepted = await b.accept()
            assert (pipe.peer, accepted.peer) == (b.node_id, a.node_id)
            if "datagram" in kind:
                await pipe.send(b"ping")
                assert await accepted.recv() == b"ping"
                await accepted.send(b"pong")
                assert await pipe.recv() == b"pong"
            else:
                sending = asyncio.create_task(pipe.send(blob))
                received = b""
                while len(received) < len(blob):
                    received += await accepted.recv()
                await sending
                assert received == blob
                pipe.write_eof()
                assert await accepted.recv() == b""
            await pipe.close()
            await accepted.close()
