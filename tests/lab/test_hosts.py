"""Hosts: programs in namespaces, uplinks, and what is left afterwards (nothing)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from wires import Echo, Udp, closing

from warpgate.errors import ConfigError, NetworkError, ServiceError
from warpgate.lab import namespace
from warpgate.lab.topology import Lab
from warpgate.model.endpoint import Endpoint

pytestmark = pytest.mark.lab
PYTHON = sys.executable
PRIMED_DIAL = """
import asyncio, sys
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint
from warpgate.net import tcp
try:
    asyncio.run(tcp.dial(Endpoint.parse(sys.argv[1]), None, None, 2))
except NetworkError as error:
    print(error)
"""


def runs(pid: int) -> bool:
    """Neither gone nor a zombie that init has yet to collect."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


async def test_a_program_sees_its_host_alone(lab: Lab) -> None:
    host = lab.add_host("a", behind="edm", ipv6=1)
    done = await host.run(
        ["sh", "-c", "cat /proc/net/fib_trie /proc/net/if_inet6; echo $COLOUR; cat"],
        env={"COLOUR": "red"},
        given=b"in",
    )
    assert done.returncode == 0
    assert str(host.ipv4).encode() in done.stdout
    assert host.ipv6.packed.hex().encode() in done.stdout
    assert b"red" in done.stdout
    assert done.stdout.endswith(b"in")
    devices = {line.split()[-1] for line in done.stdout.decode().splitlines() if len(line.split()) == 6}
    assert devices == {"lo", "net0"}


async def test_results_come_back(lab: Lab) -> None:
    host = lab.add_host("a")
    done = await host.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    with pytest.raises(ServiceError, match="no-such-program"):
        await host.run(["no-such-program"])


async def test_a_run_that_takes_too_long_is_ended_with_its_children(lab: Lab, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with pytest.raises(TimeoutError):
        await lab.add_host("a").run(["sh", "-c", f"sleep 60 & echo $! > {note}; wait"], timeout=0.3)
    assert not runs(int(note.read_text()))


async def test_closing_the_lab_ends_what_runs(privileges: None) -> None:
    async with Lab() as lab:
        deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
        process = await lab.add_host("a").popen([PYTHON, "-c", deaf], stdout=subprocess.PIPE)
        assert process.stdout is not None
        await process.stdout.readline()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_lab_takes_its_programs_along(privileges: None) -> None:
    script = """
import asyncio
from warpgate.lab.topology import Lab
async def main():
    async with Lab() as lab:
        process = await lab.add_host("a").popen(["sleep", "60"])
        print(process.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([PYTHON, "-c", script], stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert runs(child)
        process.kill()
    deadline = time.monotonic() + 5
    while runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runs(child)


async def test_two_uplinks(lab: Lab) -> None:
    """Each uplink answers for its own addresses; what is bound to nothing takes the first."""
    host, server = lab.add_host("a", behind="eim"), lab.add_host("server", ipv6=1)
    second = lab.add_uplink(host, behind="edm", ipv6=1)
    first_ip, second_ip, second_ip6 = host.addresses
    echo, echo6 = Echo(server), Echo(server, 8, server.ipv6)
    wires = [Udp(host, ip=ip) for ip in (first_ip, second_ip)]
    wire6 = Udp(host, ip=second_ip6)
    with closing(echo, echo6, wire6, *wires):
        seen = [(await echo.ask(wire)).ip for wire in wires]
        assert seen == [host.routers[0].outside[0], second.routers[0].outside[0]]
        assert (await echo6.ask(wire6)).ip == second_ip6
        with host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unbound:
            unbound.connect(echo.local.sockaddr)
            assert Endpoint.from_sockaddr(unbound.getsockname()).ip == first_ip


async def test_entered_comes_back(lab: Lab) -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    host = lab.add_host("a")
    with contextlib.suppress(ZeroDivisionError), host.entered():
        assert os.readlink("/proc/thread-self/ns/net") != before
        raise ZeroDivisionError
    assert os.readlink("/proc/thread-self/ns/net") == before


async def test_names_and_families(lab: Lab) -> None:
    host = lab.add_host("a", ipv4=0, ipv6=1)
    assert lab.host("a") is host
    with pytest.raises(NetworkError, match="IPv4"):
        _ = host.ipv4
    with pytest.raises(ConfigError, match="already"):
        lab.add_host("a")
    with pytest.raises(ConfigError, match="there are a"):
        lab.host("b")


async def test_an_unknown_kind_leaves_no_host(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="unknown kind"):
        lab.add_host("a", behind="cone")
    assert lab.hosts == ()


async def test_a_hundred_hosts(lab: Lab) -> None:
    start = time.monotonic()
    hosts = [lab.add_host(f"h{number}", behind="edm") for number in range(100)]
    assert time.monotonic() - start < 2
    echo = Echo(lab.add_host("server"))
    wires = [Udp(host) for host in hosts]
    with closing(echo, *wires):
        seen = await asyncio.gather(*(echo.ask(wire) for wire in wires))
    assert len({endpoint.ip for endpoint in seen}) == 100


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


# As an ordinary user. /dev/net/tun is given the mode that distributions give it, in a mount namespace of this process's
# own; what the user may not read (the test's Python may be root's) is imported first.
UNPRIVILEGED = """
import asyncio, ctypes, os, socket, sys, tempfile
from warpgate.lab.topology import Lab
libc = ctypes.CDLL(None, use_errno=True)
if os.getuid() == 0:
    assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
    assert libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None) == 0  # private
    node = sys.argv[1]
    os.mknod(node, 0o020666, os.makedev(10, 200))
    os.chmod(node, 0o666)
    assert libc.mount(node.encode(), b"/dev/net/tun", None, 0x1000, None) == 0  # bind
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    libc.prctl(4, 1)  # PR_SET_DUMPABLE: setuid made /proc/self root's

async def main():
    loop = asyncio.get_running_loop()
    async with Lab() as lab:
        server, a = lab.add_host("server"), lab.add_host("a", behind="edm", ipv6=1)
        print((await a.run(["cat", "/proc/net/if_inet6"])).stdout.decode())
        with server.entered():
            listener = socket.create_server((str(server.ipv4), 80))
        with a.entered():
            dialler = socket.socket()
        listener.setblocking(False)
        dialler.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await loop.sock_connect(dialler, (str(server.ipv4), 80))
        print((await accepting)[1], open("/proc/self/uid_map").read())

asyncio.run(main())
"""


def test_without_root_in_a_user_namespace(privileges: None) -> None:
    node = Path("/dev/shm/warpgate-test-tun")
    node.unlink(missing_ok=True)
    command = [PYTHON, "-c", UNPRIVILEGED, str(node)]
    try:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, cwd="/")
    finally:
        node.unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
    assert "net0" in done.stdout
    assert "203.0.113." in done.stdout
    assert done.stdout.split()[-3] == "0"  # it is root in a user namespace of its own


def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(namespace, "TUN_DEVICE", tmp_path / "tun")
    with pytest.raises(ConfigError, match="kernel module tun"):
        namespace.acquire_privileges()


async def test_a_first_syn_that_dies_on_its_way_does_not_end_the_dial(lab: Lab) -> None:
    """The ICMP error (EHOSTUNREACH) is ignored; the SYN's repetition goes all the way, to a port that refuses."""
    dialler, stranger = lab.add_host("dialler", behind="eim-apdf"), lab.add_host("stranger")
    done = await dialler.run([PYTHON, "-c", PRIMED_DIAL, f"{stranger.ipv4}:9"], timeout=20)
    assert b"connection refused" in done.stdout, done.stdout + done.stderr
