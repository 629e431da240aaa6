"""What does a gateway that attacks its client cost the real command: the most memory, and the share of a core?"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import chain, repeat

from bench.attacks import CORE, MOST_MEMORY, PATIENCE, memory, processor, swallow
from bench.rows import Row, show
from warpgate.lab.host import Host
from warpgate.net.system import SystemNetwork
from warpgate_testing.upnp_router import UpnpRouter, http_response

SECONDS = 4.0
GATEWAY, INSIDE = "192.168.1.1", "192.168.1.2"
LINK = """
ip link add in0 type veth peer name eth0 netns /proc/{pid}/fd/{inside}
ip addr add {gateway}/24 dev in0
ip link set in0 up
"""
HOST = f"ip addr add {INSIDE}/24 dev eth0; ip link set eth0 up; ip route add default via {GATEWAY}"
PLAIN = b"HTTP/1.1 200 OK\r\n\r\n"
BOMB = gzip.compress(b"<a/>" * (4 * 2**20))
# What it answers to each request: a head, and what follows without end.
ANSWERS = {
    "a redirect to our loopback": (http_response(302, "", "Location: http://127.0.0.1:8080/"), b""),
    "an endless body": (PLAIN, b"x" * 65_536),
    "tags without end": (PLAIN + b"<root>", b"<a/>" * 16_384),
    "chunks of a byte": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 8192),
    "a gzip bomb": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", BOMB),
}


def shell(host: Host, script: str) -> None:
    with host.entered():
        subprocess.run(["sh", "-ec", script], check=True)


@contextmanager
def gateway(host: Host, head: bytes, more: bytes) -> Iterator[UpnpRouter]:
    with host.entered():
        hostile = UpnpRouter(SystemNetwork(), ip_address(GATEWAY))
    hostile.override = lambda _method, _path: chain([head], repeat(more) if more else ())
    yield hostile


async def measure(router: Host, inside: Host, what: str) -> list[Row]:
    with (
        tempfile.TemporaryDirectory(prefix="warpgate-gateway-") as folder,
        gateway(router, *ANSWERS[what]) as hostile,
    ):
        env = {
            "WARPGATE_DATA": folder,
            "XDG_CONFIG_HOME": folder,
            "WARPGATE_BROKER": "",
            "WARPGATE_STUN": "",
        }
        command = [sys.executable, "-m", "warpgate", "listen", "--echo", "--json"]
        process = await inside.popen(command, env=env, stdout=PIPE)
        try:
            assert process.stdout is not None
            async with asyncio.timeout(PATIENCE):
                while not json.loads(await process.stdout.readline()).get("address"):
                    pass
            drain = asyncio.ensure_future(swallow(process.stdout))
            began, used = time.monotonic(), processor(process)
            await asyncio.sleep(SECONDS)
            share = 100 * (processor(process) - used) / (time.monotonic() - began)
            drain.cancel()
            asked = f"{len(hostile.requests)} requests"
            return [
                Row(f"gateway, {what}: memory", memory(process), MOST_MEMORY, "MB", note=asked),
                Row(f"gateway, {what}: processor", share, CORE, "%"),
            ]
        finally:
            await inside.stop(process, kill=True)
            await hostile.close()


async def run() -> bool:
    router, inside = hosts = [Host(name) for name in ("router", "inside")]
    try:
        shell(router, LINK.format(pid=os.getpid(), inside=inside.namespace.fd, gateway=GATEWAY))
        shell(inside, HOST)
        held = True
        for what in ANSWERS:
            held &= show(await measure(router, inside, what))
        return held
    finally:
        for host in hosts:
            await host.close()


def main() -> bool:
    return asyncio.run(run())


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
