"""`connect --listen` and `listen --forward` between two NATs: many connections at once, each with a pipe of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from programs import script, seats

from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

COUNT = 50
SIZE = 40_000
# The service answers only when it has read to the end: half-close must get through, in both directions.
SERVICE = """\
import socket, threading
def serve(client):
    with client:
        data = client.makefile("rb").read()
        if data.startswith(b"reset"):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
            return
        client.sendall(data[::-1])
with socket.create_server(("127.0.0.1", 9000), backlog=100) as server:
    print("up", flush=True)
    while True:
        threading.Thread(target=serve, args=server.accept()[:1]).start()
"""
CLIENTS = f"""\
import random, socket, threading, time
count, size = {COUNT}, {SIZE}
outcomes = ["nothing"] * count
def talk(number):
    data = b"reset" if number == 7 else random.Random(number).randbytes(size)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", 8000), timeout=50) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        try:
            answer = client.makefile("rb").read()
        except ConnectionResetError:
            outcomes[number] = "reset"
            return
        outcomes[number] = "right" if answer == data[::-1] else f"{{len(answer)}} bytes"
        times.append(time.monotonic() - began)
times = []
threads = [threading.Thread(target=talk, args=(number,)) for number in range(count)]
for thread in threads: thread.start()
for thread in threads: thread.join()
import json
print(json.dumps([outcomes, sorted(times)]))
"""


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_fifty_connections_at_once(lab: Lab, tmp_path: Path, transport: str) -> None:
    a, b = await seats(lab, tmp_path)
    async with (
        b.running(*script(SERVICE), says=b"up"),
        b.running("warpgate", "listen", "--forward", "127.0.0.1:9000", "--json", says=b"ready") as (_, ready),
    ):
        address = json.loads(ready)["address"]
        connect = ("warpgate", "connect", address, "--listen", "8000", "--transport", transport, "--json")
        async with a.running(*connect, says=b"listening"):
            done = await a.run(*script(CLIENTS))
    assert done.returncode == 0, done.stderr
    outcomes, times = json.loads(done.stdout)
    assert outcomes[7] == "reset"
    assert outcomes[:7] + outcomes[8:] == ["right"] * (COUNT - 1)
    assert times[-1] < 40.0, times  # 2 s on an idle machine
