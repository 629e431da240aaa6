"""The program in pipelines, as netcat would be used: ends of input, closed readers, children, signals."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys

import pytest
from loopback_kit import PATIENCE, Program

BLOB = random.Random(5).randbytes(8_000_000)


def address_told(listener: Program) -> str:
    """By a `listen` whose stdout belongs to the pipe."""
    assert listener.process.stderr.readline().startswith(b"listening as ")
    return listener.process.stderr.readline().decode().strip()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_much_through_a_pipeline(start, transport):
    """cat blob | warpgate connect X | sha256sum, with an echoing peer: all of it, both ways at once."""
    listener = start("b", "listen", "--echo", "--json")
    connector = start("a", "connect", listener.ready(), "--transport", transport)
    status, output, errors = connector.finish(BLOB)
    assert (status, errors, len(output)) == (0, b"", len(BLOB))
    assert hashlib.sha256(output).digest() == hashlib.sha256(BLOB).digest()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_the_end_of_our_input_is_the_end_of_theirs_and_they_go_on(start, transport):
    """The listener speaks only after it has seen the end of our input."""
    listener = start("b", "listen")
    connector = start("a", "connect", address_told(listener), "--transport", transport)
    connector.process.stdin.write(b"question")
    connector.process.stdin.close()
    assert listener.process.stdout.read() == b"question"
    listener.process.stdin.write(b"answer, ")
    listener.process.stdin.flush()
    assert connector.process.stdout.read(8) == b"answer, "
    assert connector.process.poll() is None
    listener.process.stdin.write(b"and more")
    listener.process.stdin.close()
    assert connector.process.stdout.read() == b"and more"
    assert (connector.process.wait(PATIENCE), listener.process.wait(PATIENCE)) == (0, 0)


def test_a_closed_reader_ends_the_program(start):
    """warpgate connect X | head: the peer's next bytes find nobody."""
    listener = start("b", "listen", "--exec", "cat", "--json")
    connector = start("a", "connect", listener.ready())
    connector.process.stdin.write(b"one")
    connector.process.stdin.flush()
    assert connector.process.stdout.read(3) == b"one"
    connector.process.stdout.close()
    connector.process.stdin.write(b"two")
    connector.process.stdin.flush()
    assert connector.process.wait(PATIENCE) == 1
    assert b"Traceback" not in connector.process.stderr.read()


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("head -c 3", b"giv"),  # reads a part of its input
        ("cat >/dev/null; echo $WARPGATE_PEER | wc -c", b"27\n"),  # goes on after the end of it
    ],
)
def test_children(start, command, output):
    listener = start("b", "listen", "--exec", command, "--once", "--json")
    status, received, errors = start("a", "connect", listener.ready()).finish(b"given" * 100)
    assert (status, received, errors) == (0, output, b"")
    assert listener.finish()[0] == 0


def test_a_child_that_ends_while_we_wait_ends_the_connect(start):
    """The input is still open: as with netcat at a closed peer, the output's end is not ours yet. Then it is."""
    listener = start("b", "listen", "--exec", "echo hello", "--json")
    connector = start("a", "connect", listener.ready())
    assert connector.process.stdout.read() == b"hello\n"
    assert connector.finish()[0] == 0


def test_a_child_that_fails_is_told_where_it_ran(start):
    """To the peer its output has come to an end, and that is all: a stream carries no exit status."""
    listener = start("b", "listen", "--exec", "echo sorry; exit 3", "--json")
    connector = start("a", "connect", listener.ready())
    assert connector.finish()[:2] == (0, b"sorry\n")
    told = [listener.read_event(), listener.read_event()]
    assert [event["event"] for event in told] == ["pipe", "unserved"]
    assert "status 3" in told[1]["error"]


def test_a_signal_ends_the_listener_and_its_children(start, tmp_path):
    listener = start("b", "listen", "--exec", f"echo $$ >{tmp_path}/child; exec sleep 60", "--json")
    connector = start("a", "connect", listener.ready())
    assert listener.read_event()["event"] == "pipe"
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        assert connector.process.poll() is None
    listener.process.send_signal(signal.SIGTERM)
    assert listener.finish()[0] == 0
    child = int((tmp_path / "child").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert connector.finish()[0] == 1  # its peer was cut off: no orderly end


def test_only_this_machine_can_use_a_forwarded_port(start, unused_tcp_port):
    listener = start("b", "listen", "--echo", "--json")
    connector = start("a", "connect", listener.ready(), "--listen", str(unused_tcp_port), "--json")
    assert connector.read_event() == {"event": "listening", "local": f"127.0.0.1:{unused_tcp_port}"}
    with socket.create_connection(("127.0.0.1", unused_tcp_port), timeout=PATIENCE) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        table = subprocess.run(
            [sys.executable, "-c", "print(open('/proc/net/tcp').read(), open('/proc/net/tcp6').read())"],
            capture_output=True,
            check=True,
        )
        listening = [
            line.split()[1]
            for line in table.stdout.decode().splitlines()
            if f":{unused_tcp_port:04X} " in line and line.split()[3] == "0A"
        ]
        assert listening == [f"0100007F:{unused_tcp_port:04X}"]


def test_one_failed_connection_does_not_end_the_others(start, unused_tcp_port):
    """The service resets one of two connections: that one is reset here, and the other goes on."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        forward = f"127.0.0.1:{service.getsockname()[1]}"
        listener = start("b", "listen", "--forward", forward, "--json")
        connector = start("a", "connect", listener.ready(), "--listen", str(unused_tcp_port), "--json")
        assert connector.read_event()["event"] == "listening"
        local = ("127.0.0.1", unused_tcp_port)
        with (
            socket.create_connection(local, timeout=PATIENCE) as one,
            socket.create_connection(local, timeout=PATIENCE) as other,
        ):
            one.sendall(b"1")
            other.sendall(b"2")
            served = {}
            for _ in range(2):
                there, _ = service.accept()
                served[there.recv(1)] = there
            served[b"1"].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            served[b"1"].close()
            with pytest.raises(ConnectionResetError):
                one.recv(1)
            served[b"2"].sendall(b"still here")
            assert other.recv(10) == b"still here"
            served[b"2"].close()
            assert other.recv(1) == b""
    told = []
    while "unserved" not in told:
        told.append(json.loads(connector.process.stdout.readline())["event"])
    assert set(told) == {"path", "pipe", "unserved"}


def test_sockets_in_the_file_system_at_both_ends(start, tmp_path):
    """curl --unix-socket, through the tunnel, to a web server that has no port."""
    web = subprocess.Popen([sys.executable, "-c", WEB_AT_A_PATH, tmp_path / "there"], stdout=subprocess.PIPE)
    try:
        assert web.stdout.readline() == b"ready\n"
        listener = start("b", "listen", "--forward", str(tmp_path / "there"), "--json")
        connector = start("a", "connect", listener.ready(), "--listen", f"unix:{tmp_path}/here", "--json")
        assert connector.read_event() == {"event": "listening", "local": f"{tmp_path}/here"}
        curl = ("curl", "-sS", "--unix-socket", tmp_path / "here", "http://any.example/hello")
        answer = subprocess.run(curl, capture_output=True, timeout=PATIENCE, check=False)
        assert (answer.stdout, answer.stderr) == (b"you asked for /hello", b"")
        connector.process.send_signal(signal.SIGTERM)
        assert connector.finish()[0] == 0
        assert not (tmp_path / "here").exists()
    finally:
        web.kill()
        web.communicate()


WEB_AT_A_PATH = """
import sys
from http.server import BaseHTTPRequestHandler
from socketserver import UnixStreamServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        answer = b"you asked for " + self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def address_string(self):
        return "a peer"
    def log_message(self, *words):
        pass

with UnixStreamServer(sys.argv[1], Handler) as server:
    print("ready", flush=True)
    server.serve_forever()
"""


def test_a_bare_port_and_two_entrances(start, unused_tcp_port_factory):
    one, other = unused_tcp_port_factory(), unused_tcp_port_factory()
    with socket.create_server(("127.0.0.1", 0)) as service:
        listener = start("b", "listen", "--forward", str(service.getsockname()[1]), "--json")
        connector = start("a", "connect", listener.ready(), "-L", str(one), "-L", f"0.0.0.0:{other}", "--json")
        assert [connector.read_event()["local"] for _ in range(2)] == [f"127.0.0.1:{one}", f"0.0.0.0:{other}"]
        for port, word in ((one, b"one"), (other, b"other")):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
                client.sendall(word)
                served, _ = service.accept()
                with served:
                    assert served.recv(10) == word
