"""What the program asks of a system, on the system at hand."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from ipaddress import ip_address
from pathlib import Path

import pytest
from portable_kit import WINDOWS, WINE, loopback

from warpgate.core.disk.identity_store import identity_file, load_or_create
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint
from warpgate.net.system import SystemNetwork
from warpgate.net.tcp import SystemTcpStream
from warpgate.platform import FILES, INTERFACES, PROCESSES, SOCKETS
from warpgate.platform.readiness import MOST_SOCKETS

HERE = Endpoint.of("127.0.0.1", 0)


def test_the_loopback_is_an_interface_and_no_way_out() -> None:
    found = [each for each in INTERFACES.assigned() if each.ip == ip_address("127.0.0.1")]
    assert [(each.prefix, each.running, each.tentative) for each in found] == [(8, True, False)]
    assert found[0].index
    assert loopback() not in [route.interface for route in INTERFACES.default_routes()]


def test_the_systems_name_servers_are_known() -> None:
    found = INTERFACES.resolvers()
    assert not [ip for ip in found if ip.is_unspecified or ip.is_link_local]
    if WINE:  # it asks Linux
        lines = Path("Z:/etc/resolv.conf").read_text().splitlines()
        told = [words[1] for words in map(str.split, lines) if words[:1] == ["nameserver"]]
        assert [str(ip) for ip in found] == told


async def test_signs_of_change_can_be_asked_for_and_given_up() -> None:
    stop = INTERFACES.watch(lambda: None)
    if stop is not None:
        stop()


async def connected() -> tuple[SystemTcpStream, SystemTcpStream]:
    accepted: asyncio.Queue[SystemTcpStream] = asyncio.Queue()
    listener = SystemNetwork().listen_tcp(HERE, accepted.put_nowait)
    dialled = await SystemNetwork().dial_tcp(listener.local)
    served = await accepted.get()
    listener.close()
    return dialled, served


async def test_a_stream_both_ways_and_its_end() -> None:
    one, other = await connected()
    blob = os.urandom(3_000_000)
    sending = asyncio.create_task(one.send(blob))
    received = b""
    while len(received) < len(blob):
        received += await other.recv(1 << 20)
    await sending
    assert received == blob
    one.write_eof()
    assert await other.recv(1) == b""
    assert one.stalled() == 0.0
    other.close()
    one.close()


@pytest.mark.skipif(WINE, reason="there is no reset")
async def test_a_reset_is_told_in_words() -> None:
    one, other = await connected()
    one.abort()
    with pytest.raises(NetworkError, match=r"connection (was )?(reset|aborted)|connection abort"):
        await other.recv(1)
    other.close()


async def test_nobody_there_is_told_in_words() -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        nobody = Endpoint.of(*placeholder.getsockname())
        with pytest.raises(NetworkError, match="refused"):
            await SystemNetwork().dial_tcp(nobody)


async def test_a_second_listener_is_not_let_in_while_dials_share_the_port() -> None:
    network, accepted = SystemNetwork(), asyncio.Queue()
    listener, beside = (
        network.listen_tcp(HERE, accepted.put_nowait),
        network.listen_tcp(HERE, accepted.put_nowait),
    )
    with pytest.raises(NetworkError, match="in use"):
        network.listen_tcp(listener.local, accepted.put_nowait)
    dialled = await network.dial_tcp(beside.local, listener.local)
    assert (dialled.local, (await accepted.get()).remote) == (listener.local, listener.local)
    dialled.abort()
    listener.close()
    beside.close()


async def test_datagrams_and_a_port_of_ones_own() -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()
    network = SystemNetwork()
    one = network.open_udp(HERE, lambda data, _: got.put_nowait(data))
    other = network.open_udp(HERE, lambda *_: None)
    assert other.send(b"plain", one.local.sockaddr)
    assert other.send(b"few hops", one.local.sockaddr, ttl=3)
    assert [await got.get(), await got.get()] == [b"plain", b"few hops"]
    with pytest.raises(NetworkError, match="in use"):
        network.open_udp(one.local, lambda *_: None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError):  # noqa: PT011 - EADDRINUSE, and EACCES on Windows
            thief.bind(one.local.sockaddr)
    one.close()
    other.close()


async def test_more_sockets_than_one_select_takes() -> None:
    got: list[bytes] = []
    network = SystemNetwork()
    FILES.ask_for_open_files(2 * MOST_SOCKETS)
    sockets = [network.open_udp(HERE, lambda data, _: got.append(data)) for _ in range(MOST_SOCKETS + 60)]
    for sock in sockets:
        sockets[0].send(b"x", sock.local.sockaddr)
    while len(got) < len(sockets):  # noqa: ASYNC110 - the test's own time-out ends it
        await asyncio.sleep(0.01)
    for sock in sockets:
        sock.close()


async def test_a_subprocess_beside_our_sockets() -> None:
    """The loop is the one that asyncio gives: it can start programs, whatever it lacks."""
    one, other = await connected()
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(7)", stdout=subprocess.PIPE)
    await one.send(b"x")
    assert await other.recv(1) == b"x"
    assert (await child.communicate())[0].split() == [b"7"]
    one.close()
    other.close()


async def test_a_group_goes_as_a_whole() -> None:
    """The grandchild holds our pipe open for as long as it lives."""
    grandchild = "import time; print('up', flush=True); time.sleep(600)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.PIPE, **PROCESSES.own_group()
    )
    group = PROCESSES.group_of(child.pid)
    assert child.stdout is not None
    assert (await child.stdout.readline()).split() == [b"up"]
    group.kill()
    assert await child.stdout.read() == b""
    assert await child.wait() != 0


def test_a_key_is_kept_from_others(tmp_path: Path) -> None:
    identity = load_or_create("default", tmp_path)
    assert load_or_create("default", tmp_path).node_id == identity.node_id
    path = identity_file("default", tmp_path)
    with path.open("rb") as file:
        assert FILES.others_may_read(path, file.fileno()) == ""
    if not WINDOWS:
        path.chmod(0o644)
        with path.open("rb") as file:
            assert "chmod 600" in FILES.others_may_read(path, file.fileno())


def test_a_lock_keeps_others_out_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "import sys, pathlib; from warpgate.platform import FILES\n"
        f"print(FILES.try_lock(FILES.open_lock(pathlib.Path({str(path)!r}))))"
    )

    def another() -> bytes:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.strip()

    held = FILES.open_lock(path)
    os.write(held, b"who")
    assert FILES.try_lock(held)
    assert another() == b"False"
    assert path.read_bytes() == b"who"  # it can be read who has it
    os.close(held)
    assert another() == b"True"


def test_a_file_is_replaced_while_it_is_read(tmp_path: Path) -> None:
    path, draft = tmp_path / "file", tmp_path / "draft"
    path.write_bytes(b"old")
    draft.write_bytes(b"new")
    reading = path.open("rb")
    threading.Timer(0.05, reading.close).start()  # Windows refuses for as long as it is open
    FILES.replace(draft, path)
    assert path.read_bytes() == b"new"
    reading.close()


def test_bytes_stay_bytes_and_times_stay(tmp_path: Path) -> None:
    with FILES.open_folder(tmp_path) as folder:
        descriptor = folder.open_file("file", os.O_RDWR | os.O_CREAT)
        os.write(descriptor, b"\r\n\n\x1a\r")
        FILES.set_modified(descriptor, 1_000_000_000_123_456_700)
        os.close(descriptor)
        assert (tmp_path / "file").read_bytes() == b"\r\n\n\x1a\r"
        there = folder.status("file")
        assert there is not None
        assert abs(there.st_mtime_ns - 1_000_000_000_123_456_700) < 1_000_000_000
        with pytest.raises(OSError):  # noqa: PT011 - ENOTDIR, ENOENT or EINVAL
            folder.below("file")
        folder.make("one")
        folder.link("file", "other")
        with pytest.raises(FileExistsError):
            folder.link("file", "other")
        with folder.below("one") as below:
            folder.replace("other", below, "moved")
        assert [entry[:3] for entry in folder.walk("one")] == [((), [], ["moved"])]
        assert folder.free() > 0
        folder.remove_tree("one")
        assert sorted(os.listdir(tmp_path)) == ["file"]


def test_data_has_a_place() -> None:
    folder = FILES.data_folder(os.environ)
    assert folder is not None
    assert folder.is_absolute()
    assert folder.name == "warpgate"


async def test_a_detached_flow_or_a_clear_word() -> None:
    network = SystemNetwork()
    one, other = network.open_udp(HERE, lambda *_: None), network.open_udp(HERE, lambda *_: None)
    if WINDOWS:
        with pytest.raises(NetworkError, match="this system gives the datagrams of a port to one socket"):
            one.detach(other.local)
    else:
        one.detach(other.local).close()
    one.close()
    other.close()


def test_errors_have_texts() -> None:
    with socket.socket() as sock:
        code = sock.connect_ex(("127.0.0.1", 1))
    assert "refused" in SOCKETS.reason(SOCKETS.failure(code)).lower()
