"""Several processes with one identity, through the real program: each address leads to its own process."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest
from programs import Seat, script, seats

from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

TRIES = 10
# Connections at once to two entrances, and what each of them heard.
CLIENTS = f"""\
import json, socket, threading
answers = []
def ask(port):
    with socket.create_connection(("127.0.0.1", port), timeout=50) as client:
        answers.append((port, client.makefile("rb").read().decode()))
threads = [threading.Thread(target=ask, args=(port,)) for port in (8001, 8002) * {TRIES}]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(sorted(answers)))
"""


async def answer(seat: Seat, address: str, transport: str) -> bytes:
    """What the command at the other end says."""
    done = await seat.run("warpgate", "connect", address, "--transport", transport)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def cloned(lab: Lab, b: Seat, folder: Path) -> Seat:
    """Another machine with b's data directory, as it was when its disk was cloned."""
    assert (await b.run("warpgate", "id")).returncode == 0
    await asyncio.to_thread(shutil.copytree, b.env["WARPGATE_DATA"], folder / "clone")
    return Seat(lab.add_host("clone", "eim-apdf"), {**b.env, "WARPGATE_DATA": str(folder / "clone")})


async def test_a_second_process_is_refused_and_one_that_connects_is_not(lab: Lab, tmp_path: Path) -> None:
    a, b = await seats(lab, tmp_path)
    listen = ("warpgate", "listen", "--exec", "echo first", "--json")
    async with b.running(*listen, says=b"ready") as (process, ready):
        address = json.loads(ready)["address"]
        for second in (["listen", "--echo"], ["receive", str(tmp_path), "--yes"]):
            done = await b.run("warpgate", *second)
            assert done.returncode == 2
            assert f"in use by process {process.pid}".encode() in done.stderr
            assert b"--identity NAME" in done.stderr
        async with a.running("warpgate", "listen", "--echo", "--json", says=b"ready") as (_, ready_a):
            address_a = json.loads(ready_a)["address"]
            async with b.running("warpgate", "connect", address_a, "--listen", "8000", says=b"8000"):
                for transport in ("tcp", "udp") * 2:
                    assert await answer(a, address, transport) == b"first\n"
        other = ("warpgate", "--identity", "other", "listen", "--exec", "echo second", "--json")
        async with b.running(*other, says=b"ready") as (_, ready_2):
            assert await answer(a, json.loads(ready_2)["address"], "udp") == b"second\n"
            assert await answer(a, address, "udp") == b"first\n"


@pytest.mark.parametrize("transport", [pytest.param("tcp", marks=pytest.mark.long), "udp"])
async def test_of_two_machines_with_one_key_the_one_that_is_meant_answers(
    lab: Lab, tmp_path: Path, transport: str
) -> None:
    a, b = await seats(lab, tmp_path)
    clone = await cloned(lab, b, tmp_path)
    async with (
        b.running("warpgate", "listen", "--exec", "echo b", "--json", says=b"ready") as (_, ready),
        clone.running("warpgate", "listen", "--exec", "echo clone", "--json", says=b"ready") as (_, ready_2),
    ):
        for _ in range(TRIES):
            assert await answer(a, json.loads(ready)["address"], transport) == b"b\n"
            assert await answer(a, json.loads(ready_2)["address"], transport) == b"clone\n"


async def test_so_it_is_with_many_plain_pipes_at_once(lab: Lab, tmp_path: Path) -> None:
    """Who brings them is told of the other machine, and not for each."""
    a, b = await seats(lab, tmp_path)
    clone = await cloned(lab, b, tmp_path)
    async with (
        b.running("warpgate", "listen", "--exec", "printf b", "--json", says=b"ready") as (_, ready),
        clone.running("warpgate", "listen", "--exec", "printf clone", "--json", says=b"ready") as (
            _,
            ready_2,
        ),
    ):
        addresses = [json.loads(line)["address"] for line in (ready, ready_2)]
        for transport in ("tcp", "udp"):
            plain = ("--transport", transport, *(["--no-durable"] if transport == "udp" else []))
            one, other = (
                ("warpgate", "connect", address, "-L", f"{port}", *plain)
                for address, port in zip(addresses, (8001, 8002), strict=True)
            )
            async with a.running(*one, says=b"8001") as (first, _), a.running(*other, says=b"8002"):
                done = await a.run(*script(CLIENTS))
                first.terminate()
                assert first.stdout is not None
                said = await first.stdout.read()
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == [[8001, "b"]] * TRIES + [[8002, "clone"]] * TRIES
            assert said.count(b"another node runs with the same key") <= 1, said


async def test_both_machines_are_told(lab: Lab, tmp_path: Path) -> None:
    _, b = await seats(lab, tmp_path)
    clone = await cloned(lab, b, tmp_path)
    told = b"another node runs with this identity"
    async with (
        b.running("warpgate", "listen", "--echo", says=b"listening") as (process, _),
        clone.running("warpgate", "listen", "--echo", says=told),
        asyncio.timeout(20),
    ):
        assert process.stdout is not None
        while told not in await process.stdout.readline():
            pass


async def test_after_a_restart_an_old_address_leads_to_the_new_process(lab: Lab, tmp_path: Path) -> None:
    a, b = await seats(lab, tmp_path)
    listen = ("warpgate", "listen", "--exec", "echo here", "--json")
    async with b.running(*listen, says=b"ready") as (_, ready):
        old = json.loads(ready)["address"]
    async with b.running(*listen, says=b"ready") as (_, ready):
        assert json.loads(ready)["address"] != old
        for transport in ("tcp", "udp"):
            assert await answer(a, old, transport) == b"here\n"


async def test_a_file_by_a_one_time_code_comes_beside_one_that_listens(lab: Lab, tmp_path: Path) -> None:
    a, b = await seats(lab, tmp_path)
    file, into = tmp_path / "file", tmp_path / "into"
    file.write_bytes(os.urandom(1000))
    into.mkdir()
    async with (
        b.running("warpgate", "listen", "--exec", "echo first", "--json", says=b"ready") as (_, ready),
        a.running("warpgate", "send", str(file), "--json", says=b"code") as (sending, code),
    ):
        done = await b.run("warpgate", "receive", json.loads(code)["code"], str(into))
        assert done.returncode == 0, done.stderr
        assert (into / "file").read_bytes() == file.read_bytes()
        assert await sending.wait() == 0
        assert await answer(a, json.loads(ready)["address"], "udp") == b"first\n"
