"""A Windows program and a Linux one behind different NATs: CPython for Windows under Wine, in the lab.

`make test-windows` runs these. They take minutes, most of which Windows' Python needs to start under Wine.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from asyncio import timeout
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from programs import (
    PATIENCE,
    Seat,
    events,
    next_event,
    script,
    seats,
    sent_although_the_receiver_is_killed,
)
from windows_kit import on_windows, with_windows

from warpgate.lab.topology import Lab

pytestmark = [pytest.mark.lab, pytest.mark.long, pytest.mark.timeout(600)]

BLOB = random.Random(8).randbytes(500_000)
SIZE = 16_000_000
# What is asked for, and what is then to be seen of the pipe. Both NATs filter by endpoint: all is punched.
WAYS = {
    ("--transport", "tcp"): ("stream", "tcp", "tcp_punch", False, False),
    ("--transport", "tcp", "--tls"): ("stream", "tcp", "tcp_punch", True, False),
    ("--transport", "udp"): ("stream", "udp", "udp_punch", True, False),
    ("--datagram",): ("datagram", "udp", "udp_punch", False, False),
    ("--durable", "--transport", "udp"): ("stream", "udp", "udp_punch", True, True),
    ("--durable", "--datagram"): ("datagram", "udp", "udp_punch", True, True),
}
SERVICE = """\
import socket
with socket.create_server(("127.0.0.1", 9000)) as server:
    print("up", flush=True)
    while True:
        with server.accept()[0] as client:
            client.sendall(client.makefile("rb").read()[::-1])
"""
CLIENT = """\
import socket
with socket.create_connection(("127.0.0.1", 8000), timeout=50) as client:
    client.sendall(b"forward")
    client.shutdown(socket.SHUT_WR)
    print(client.makefile("rb").read().decode())
"""


@dataclass(frozen=True, slots=True)
class Systems:
    windows: Seat
    linux: Seat

    def both_ways(self) -> list[tuple[Seat, Seat]]:
        return [(self.windows, self.linux), (self.linux, self.windows)]

    def named(self, path: Path, seat: Seat) -> str:
        """The path as programs of this seat write it."""
        return on_windows(path) if seat is self.windows else str(path)


@pytest.fixture
async def systems(lab: Lab, tmp_path: Path) -> AsyncIterator[Systems]:
    a, linux = await seats(lab, tmp_path)
    async with with_windows(a) as windows:
        yield Systems(windows, linux)


@pytest.mark.parametrize("towards", ["linux", "windows"])
async def test_every_kind_of_pipe(systems: Systems, towards: str) -> None:
    there, here = (systems.linux, systems.windows)[:: 1 if towards == "linux" else -1]
    found = {}
    async with there.running("warpgate", "listen", "--echo", "--json", says=b"ready") as (_, ready):
        address = json.loads(ready)["address"]
        for words in WAYS:
            done = await here.run("warpgate", "connect", address, "--ping", "2", "--json", *words)
            assert done.returncode == 0, (words, done)
            pipe, *pongs = [each for each in events(done.stdout) if each["event"] in ("pipe", "pong")]
            assert len(pongs) == 2, done
            found[words] = tuple(pipe[key] for key in ("mode", "transport", "plugin", "secure", "durable"))
        # Without a word: a durable stream for stdin and stdout.
        done = await here.host.run(["warpgate", "connect", address], env=here.env, given=BLOB, timeout=PATIENCE)
        assert (done.returncode, done.stdout == BLOB) == (0, True), done.stderr
    assert found == WAYS


async def test_a_file_arrives_although_its_receiver_was_killed(systems: Systems, tmp_path: Path) -> None:
    content = random.Random(4).randbytes(SIZE)
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "blob").write_bytes(content)
    for here, there in systems.both_ways():
        (incoming := tmp_path / f"at-{there.host.name}").mkdir()
        file, folder = systems.named(tmp_path / "blob", here), systems.named(incoming, there)
        sent, received = await sent_although_the_receiver_is_killed(here, there, file, folder, SIZE)
        assert sent["sha256"] == received["sha256"] == digest
        assert sent["resumed"] == received["resumed"] >= 1_000_000
        assert [path.name for path in incoming.iterdir()] == ["blob"]
        assert hashlib.sha256((incoming / "blob").read_bytes()).hexdigest() == digest


async def test_a_forwarded_port(systems: Systems) -> None:
    for here, there in systems.both_ways():
        listen = ("warpgate", "listen", "--forward", "127.0.0.1:9000", "--json")
        async with (
            there.running(*script(SERVICE), says=b"up"),
            there.running(*listen, says=b"ready") as (_, ready),
        ):
            address = json.loads(ready)["address"]
            connect = ("warpgate", "connect", address, "--listen", "8000", "--json")
            async with here.running(*connect, says=b"listening"):
                done = await here.run(*script(CLIENT))
        assert (done.returncode, done.stdout) == (0, b"drawrof\n"), done


async def test_a_durable_stream_goes_on_when_either_side_moves(lab: Lab, systems: Systems) -> None:
    """Which Windows notices by comparing addresses, if not by a sign."""
    windows, linux = systems.windows, systems.linux
    async with linux.running("warpgate", "listen", "--echo", "--json", says=b"ready") as (_, ready):
        address = json.loads(ready)["address"]
        command = ("warpgate", "connect", address)
        process = await windows.host.popen(command, env=windows.env, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        for mover in (None, windows.host, linux.host):
            if mover is not None:
                lab.move(mover, "eim-apdf")
            process.stdin.write(line := f"moved: {mover and mover.name}\n".encode())
            async with timeout(PATIENCE):
                assert await process.stdout.readline() == line
        process.stdin.close()
        async with timeout(PATIENCE):
            assert (await process.wait(), await process.stdout.read()) == (0, b"")
        await windows.host.stop(process)


async def test_a_name_is_registered_and_looked_up(lab: Lab, systems: Systems, tmp_path: Path) -> None:
    server = lab.add_host("names")
    url = f"http://{server.ipv4}:8421"
    env = {"WARPGATE_DATA": str(tmp_path / "names")}
    process = await server.popen((sys.executable, "-m", "warpgate", "serve", "--json"), env=env, stdout=PIPE)
    await next_event(process, "ready")
    for here, there in systems.both_ways():
        name = f"at-{there.host.name}"
        listen = ("warpgate", "listen", "--echo", "--name", name, "--names", url, "--json")
        async with there.running(*listen, says=b"named"):
            done = await here.run("warpgate", "connect", name, "--names", url, "--ping", "1", "--json")
        assert (done.returncode, events(done.stdout)[-1]["event"]) == (0, "pong"), done
    await server.stop(process)


@pytest.mark.parametrize("kind", ["edm-block", "eim-apdf"])
async def test_many_sockets_guess_the_ports_of_a_symmetric_nat(lab: Lab, tmp_path: Path, kind: str) -> None:
    """`kind` is Windows' NAT. The side of the symmetric one opens the sockets, the other sends to many ports."""
    a, linux = await seats(lab, tmp_path, kind, "eim-apdf" if kind == "edm-block" else "edm-block")
    async with with_windows(a) as windows:
        listen = ("warpgate", "listen", "--echo", "--json")
        async with linux.running(*listen, says=b"ready") as (_, ready):
            address = json.loads(ready)["address"]
            done = await windows.run("warpgate", "connect", address, "--datagram", "--ping", "1", "--json")
    assert done.returncode == 0, done
    assert {each["plugin"] for each in events(done.stdout) if each["event"] == "pipe"} == {"random_probe"}


async def test_doctor_says_of_the_lab_what_it_is(systems: Systems) -> None:
    """The router and the address on the only interface are Windows' to know; the rest is learned from servers."""
    host = systems.windows.host
    done = await systems.windows.run("warpgate", "doctor", "--json")
    assert done.returncode == 0, done
    found = {section: [] for section in ("interfaces", "NAT", "port mapping", "brokers", "STUN")}
    for each in events(done.stdout):
        found.setdefault(each["section"], []).append((each["state"], each["message"]))
    assert found["interfaces"] == [("ok", f"net0: {host.ipv4}/24 (IPv4)")]
    words = " ".join(message for _, message in found["NAT"])
    assert "endpoint-independent mapping" in words
    assert "address-and-port-dependent filtering" in words
    gateway = host.ipv4 - 1
    assert found["port mapping"][0] == (
        "missing",
        f"{gateway} maps no ports for this node. Where it is your router, switch on UPnP or NAT-PMP/PCP there: then "
        "anybody can connect to this node directly",
    )
    assert {state for state, _ in (*found["brokers"], *found["STUN"])} == {"ok"}
