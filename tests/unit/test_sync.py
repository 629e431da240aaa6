"""`warpgate.sync` from real threads, over the loopback interface: sockets as threads and libraries use them."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import queue
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest

import warpgate
from warpgate import Config, ConfigError, ConnectFailed, Identity, PipeClosed, sync

HERE = Config(interfaces=("lo",), brokers=(), stun=(), port=0, port_map=False)
PATIENCE = 30
KINDS = [
    pytest.param({"transport": "tcp"}, id="tcp"),
    pytest.param({"transport": "tcp", "secure": True}, id="tls"),
    pytest.param({"transport": "udp"}, id="quic"),
    pytest.param({"durable": True}, id="durable"),
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[sync.Node, sync.Node]]:
    """One that connects, one that accepts."""
    with (
        sync.Node(HERE, identity=Identity.generate()) as here,
        sync.Node(HERE, identity=Identity.generate()) as there,
    ):
        yield here, there


def pair(nodes: tuple[sync.Node, sync.Node], **how: object) -> tuple[sync.Socket, sync.Socket]:
    here, there = nodes
    mine = here.connect(there.address, **how)  # type: ignore[arg-type]
    theirs = there.accept(PATIENCE)
    for sock in (mine, theirs):
        sock.settimeout(PATIENCE)
    return mine, theirs


def all_of(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65_536), b""))


def test_datagrams_of_threads(nodes: tuple[sync.Node, sync.Node]) -> None:
    here, there = nodes
    with ThreadPoolExecutor(1) as threads:
        accepting = threads.submit(there.accept_datagrams, PATIENCE)
        with here.connect(there.address) as stream:
            stream.settimeout(PATIENCE)
            with pytest.raises(ConnectionResetError):  # turned away
                stream.recv(1)
        with here.connect_datagrams(there.address) as mine:
            theirs = accepting.result(PATIENCE)
            assert (mine.peer, theirs.peer) == (there.node_id, here.node_id)
            waiting = threads.submit(theirs.recv, PATIENCE)  # blocks its thread, not the node
            mine.send(b"one")
            assert waiting.result(PATIENCE) == b"one"
            theirs.send(bytes(1000))
            assert mine.recv(PATIENCE) == bytes(1000)
            with pytest.raises(TimeoutError):
                mine.recv(0.01)
        with pytest.raises(PipeClosed):
            theirs.recv(PATIENCE)
        mine.close()


def test_a_datagram_pipe_that_is_not_wanted_is_turned_away(nodes: tuple[sync.Node, sync.Node]) -> None:
    here, there = nodes
    with ThreadPoolExecutor(1) as threads:
        accepting = threads.submit(there.accept, PATIENCE)
        with here.connect_datagrams(there.address) as mine, pytest.raises(PipeClosed):
            mine.recv(PATIENCE)
        with here.connect(there.address), accepting.result(PATIENCE) as theirs:
            assert theirs.peer == here.node_id


def test_it_is_there_without_being_imported() -> None:
    assert warpgate.sync is sync


@pytest.mark.parametrize("how", KINDS)
def test_threads_exchange_what_they_say(nodes: tuple[sync.Node, sync.Node], how: dict[str, object]) -> None:
    """Six clients at once; each ends its side, and hears the digest of what it said."""
    here, there = nodes
    data = os.urandom(600_000)
    expected = hashlib.sha256(data).digest()

    def serve(_: int) -> None:
        with there.accept(PATIENCE) as sock:
            sock.sendall(hashlib.sha256(all_of(sock)).digest())

    def ask(_: int) -> bytes:
        with here.connect(there.address, **how) as sock:  # type: ignore[arg-type]
            assert (sock.peer, sock.secure) == (there.node_id, how != {"transport": "tcp"})
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            return all_of(sock)

    with ThreadPoolExecutor(12) as threads:
        serving = threads.map(serve, range(6))
        assert list(threads.map(ask, range(6))) == [expected] * 6
        list(serving)


@pytest.mark.parametrize("how", KINDS)
def test_what_breaks_off_is_no_orderly_end(nodes: tuple[sync.Node, sync.Node], how: dict[str, object]) -> None:
    with sync.Node(HERE, identity=Identity.generate()) as leaving:
        mine, theirs = pair((leaving, nodes[1]), **how)
        theirs.sendall(b"first")
        assert mine.recv(100) == b"first"
        mine.sendall(b"last words")
        assert theirs.recv(100) == b"last words"
        if not mine.secure:
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            mine.close()
    with theirs, pytest.raises(ConnectionResetError):  # not b""
        theirs.recv(100)


@pytest.mark.parametrize("how", KINDS)
def test_what_a_closed_socket_had_sent_arrives(nodes: tuple[sync.Node, sync.Node], how: dict[str, object]) -> None:
    """Also when the node is closed next, and the peer reads slowly."""
    data = os.urandom(3_000_000)
    leaving = sync.Node(HERE, identity=Identity.generate())
    mine, theirs = pair((leaving, nodes[1]), **how)

    def leave() -> None:
        mine.sendall(data)
        mine.close()
        leaving.close()

    thread = threading.Thread(target=leave)
    thread.start()
    with theirs:
        assert all_of(theirs) == data
    thread.join()


@pytest.mark.parametrize("how", KINDS)
def test_a_socket_that_is_closed_is_gone_for_the_peer(
    nodes: tuple[sync.Node, sync.Node], how: dict[str, object]
) -> None:
    """Who goes on sending to it is told."""
    mine, theirs = pair(nodes, **how)
    mine.close()
    with theirs:
        assert all_of(theirs) == b""
        with pytest.raises(OSError, match=r"[Bb]roken pipe|reset"):
            theirs.sendall(bytes(100_000_000))


def test_sockets_are_sockets(nodes: tuple[sync.Node, sync.Node]) -> None:
    """select, timeouts, files, a child process, asyncio in another loop."""
    mine, theirs = pair(nodes, secure=True)
    with mine, theirs:
        assert select.select([mine], [mine], [], 0) == ([], [mine], [])
        mine.settimeout(0.01)
        with pytest.raises(TimeoutError):
            mine.recv(1)
        theirs.sendall(b"one\ntwo\n")
        assert select.select([mine], [], [], PATIENCE)[0] == [mine]
        mine.settimeout(PATIENCE)
        with mine.makefile("r") as lines:
            assert lines.readline() == "one\n"
            assert lines.readline() == "two\n"
        echo = (sys.executable, "-c", "print(input()[::-1])")
        theirs.sendall(b"abc\n")
        subprocess.run(echo, stdin=mine, stdout=mine, check=True)
        with theirs.makefile("rb") as lines:  # what a child writes may come in pieces
            assert lines.readline() == b"cba\n"


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{self.path} for {self.client_address[0]}".encode())

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize("how", KINDS)
def test_http_by_a_named_service(nodes: tuple[sync.Node, sync.Node], how: dict[str, object]) -> None:
    here, there = nodes
    service = f"web{len(how)}{'-'.join(map(str, how.values()))}"
    there.serve(service, lambda sock: Hello(sock, (sock.peer, 0), None))  # type: ignore[arg-type]
    for path in ("/one", "/two"):
        client = http.client.HTTPConnection(there.node_id)
        client.sock = here.connect(there.address, service=service, **how)  # type: ignore[arg-type]
        client.request("GET", path)
        assert client.getresponse().read().decode() == f"{path} for {here.node_id}"
        client.close()


def test_a_handler_that_fails_ends_its_stream_alone(
    nodes: tuple[sync.Node, sync.Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = nodes
    told: queue.SimpleQueue[object] = queue.SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", lambda failed: told.put(failed.exc_value))

    def handler(sock: sync.Socket) -> None:
        raise ValueError(sock.recv(10))

    there.serve("broken", handler)
    for _ in range(2):
        with here.connect(there.address, service="broken", secure=True) as sock:
            sock.sendall(b"x")
            assert all_of(sock) == b""
        assert str(told.get(timeout=10.0)) == "b'x'"  # which is told when the stream has ended


def test_datagrams_are_turned_away(nodes: tuple[sync.Node, sync.Node]) -> None:
    there = nodes[1]

    async def main() -> None:
        async with (
            warpgate.Node(HERE, identity=Identity.generate()) as node,
            await node.connect(there.address, mode="datagram") as pipe,
        ):
            await pipe.send(b"anybody?")

    asyncio.run(main())
    with pytest.raises(TimeoutError):
        there.accept(0.1)


def test_closing_ends_what_waits() -> None:
    node = sync.Node(HERE, identity=Identity.generate())
    with ThreadPoolExecutor() as threads:
        accepting = threads.submit(node.accept)
        with pytest.raises(TimeoutError):
            accepting.result(0.1)
        node.close()
        with pytest.raises(PipeClosed, match="the node was closed"):
            accepting.result(PATIENCE)
    node.close()
    with pytest.raises(ConfigError, match="the node is closed"):
        node.accept()


def test_nobody_there(nodes: tuple[sync.Node, sync.Node]) -> None:
    with sync.Node(HERE, identity=Identity.generate()) as gone:
        address = gone.address
    with pytest.raises(ConnectFailed):
        nodes[0].connect(address, timeout=1.0)


def test_one_stream_alone(nodes: tuple[sync.Node, sync.Node]) -> None:
    """Its node ends with it: no thread is left."""
    before = set(threading.enumerate())
    for secure in (False, True):
        with sync.connect(nodes[1].address, config=HERE, secure=secure) as mine:
            theirs = nodes[1].accept(PATIENCE)
            with theirs:
                mine.sendall(b"hello")
                assert theirs.recv(100) == b"hello"
        for thread in set(threading.enumerate()) - before:
            if thread.name == "warpgate":
                thread.join(PATIENCE)
                assert not thread.is_alive()
    with pytest.raises(ConnectFailed):
        sync.connect(warpgate.NodeAddress(Identity.generate().public_key, (), ()), config=HERE, timeout=0.1)


def test_a_running_loop_is_not_blocked(nodes: tuple[sync.Node, sync.Node]) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match=r"use warpgate\.Node"):
            nodes[0].accept(0.1)

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_it_is_not_taken_through_a_fork(nodes: tuple[sync.Node, sync.Node]) -> None:
    """As servers do that fork their workers: it would wait for a thread that is not there."""
    child = os.fork()
    if child == 0:
        try:
            nodes[0].accept(0.1)
        except ConfigError as error:
            os._exit(7 if "make one in each process" in str(error) else 1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


SCRIPT = """
import sys
from warpgate import Config, Identity, sync
config = Config(interfaces=("lo",), brokers=(), stun=(), port=0, port_map=False)
node = sync.Node(config, identity=Identity.generate())
sock = node.connect(sys.argv[1], secure=True)
sock.sendall(b"0123456789" * 200_000)
sock.close()
"""


def test_a_script_that_just_ends_has_sent_all(nodes: tuple[sync.Node, sync.Node]) -> None:
    with subprocess.Popen((sys.executable, "-c", SCRIPT, nodes[1].address.to_text())) as script:
        with nodes[1].accept(PATIENCE) as sock:
            sock.settimeout(PATIENCE)
            assert all_of(sock) == b"0123456789" * 200_000
        assert script.wait(PATIENCE) == 0


def test_threads_are_bounded(nodes: tuple[sync.Node, sync.Node], monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = nodes
    monkeypatch.setattr(sync, "THREADS_AT_ONCE", 1)
    there.serve("slow", lambda sock: sock.sendall(sock.recv(10)))
    with here.connect(there.address, service="slow", secure=True) as first:
        second = here.connect(there.address, service="slow", secure=True)
        with second, pytest.raises(ConnectionResetError):
            second.recv(10)
        first.sendall(b"x")
        assert all_of(first) == b"x"
