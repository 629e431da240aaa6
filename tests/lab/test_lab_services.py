"""Several services of one process between two NATs: with names, keys that are let in, and encryption, together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from programs import events, script, seats

from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

# Two services, each of which says its name to whoever connects.
SERVICES = """\
import socket, threading
def serve(port, name):
    with socket.create_server(("127.0.0.1", port), backlog=100) as server:
        while True:
            with server.accept()[0] as client:
                client.sendall(name)
for port, name in ((9001, b"ssh"), (9002, b"web")):
    threading.Thread(target=serve, args=(port, name)).start()
print("up", flush=True)
"""
# Twenty connections at once to each of two entrances, and what each of them heard.
CLIENTS = """\
import json, socket, threading
answers = []
def ask(port, name):
    with socket.create_connection(("127.0.0.1", port), timeout=50) as client:
        answers.append((name, client.makefile("rb").read().decode()))
threads = [threading.Thread(target=ask, args=pair) for pair in ((8001, "ssh"), (8002, "web")) * 20]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(sorted(answers)))
"""
LISTEN = ("warpgate", "listen", "--json", "--forward", "ssh=9001", "--forward", "web=9002")


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_twenty_of_twenty_reach_the_right_one(lab: Lab, tmp_path: Path, transport: str) -> None:
    a, b = await seats(lab, tmp_path)
    async with b.running(*script(SERVICES), says=b"up"), b.running(*LISTEN, says=b"ready") as (_, ready):
        address = json.loads(ready)["address"]
        connect = (
            "warpgate",
            "connect",
            address,
            "-L",
            "8001:ssh",
            "-L",
            "8002:web",
            "--transport",
            transport,
        )
        async with a.running(*connect, says=b":8002"):
            done = await a.run(*script(CLIENTS))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["ssh", "ssh"]] * 20 + [["web", "web"]] * 20


async def test_with_a_list_of_who_is_let_in_and_encryption(lab: Lab, tmp_path: Path) -> None:
    a, b = await seats(lab, tmp_path)
    (own,) = events((await a.run("warpgate", "id", "--json")).stdout)
    listen = (*LISTEN, "--allow", own["node_id"], "--tls")
    async with b.running(*script(SERVICES), says=b"up"), b.running(*listen, says=b"ready") as (_, ready):
        target = f"{json.loads(ready)['address']}/web"
        for transport in ("tcp", "udp"):
            done = await a.run("warpgate", "connect", target, "--transport", transport, "--tls")
            assert (done.returncode, done.stdout) == (0, b"web"), done.stderr
        done = await a.run("warpgate", "connect", target, "--transport", "tcp")
        assert done.returncode == 1
        assert b"takes only encrypted pipes" in done.stderr
        (told,) = events((await b.run("warpgate", "status", "--json")).stdout)
        assert told["services"] == ["ssh", "web"]
        stranger = ("warpgate", "--identity", "stranger", "connect", target, "--tls")
        done = await a.run(*stranger)
        assert done.returncode == 1
        assert b"not among those allowed in" in done.stderr
        assert b"ssh" not in done.stderr
