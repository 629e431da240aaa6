"""Several services of one process, by name, on the loopback interface: each connection gets to its own."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from loopback_kit import PATIENCE


@pytest.fixture
def service():
    """A TCP service that says its name and closes; returns its port."""
    listening = []

    def begin(name: str) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)

        def answer() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.sendall(name.encode())

        threading.Thread(target=answer, daemon=True).start()
        return server.getsockname()[1]

    yield begin
    for server in listening:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def told(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        return client.makefile("rb").read()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_each_name_leads_to_its_own(start, service, tmp_path) -> None:
    ssh, web, plain = (service(name) for name in ("ssh", "web", "plain"))
    into = tmp_path / "into"
    into.mkdir()
    listener = start(
        "there",
        *("listen", "--json", "--forward", f"ssh=127.0.0.1:{ssh}", "--forward", f"web={web}"),
        *("--forward", str(plain), "--receive", str(into)),
    )
    address = listener.ready()
    for transport in ("tcp", "udp"):
        for name in ("ssh", "web", "plain"):
            target = address if name == "plain" else f"{address}/{name}"
            status, output, errors = start("here", "connect", target, "--transport", transport).finish(b"")
            assert (status, output) == (0, name.encode()), errors
    file = tmp_path / "file"
    file.write_bytes(b"a file")
    status, _, errors = start("here", "send", str(file), address).finish()
    assert status == 0, errors
    assert (into / "file").read_bytes() == b"a file"
    first, second, third = free_port(), free_port(), free_port()
    forwarder = start(
        "here",
        *("connect", f"{address}/web", "--json", "-L", f"{first}:ssh", "-L", f"127.0.0.1:{second}:web"),
        *("-L", str(third)),
    )
    for _ in range(3):
        assert forwarder.read_event()["event"] == "listening"
    assert (told(first), told(second), told(third)) == (b"ssh", b"web", b"web")


def test_a_name_that_there_is_not_is_answered_with_those_that_there_are(start, service) -> None:
    listener = start("there", "listen", "--json", "--forward", f"ssh={service('ssh')}", "--forward", "web=80")
    address = listener.ready()
    peer = json.loads(start("there", "id", "--json").finish()[1])["node_id"]
    for target, said in ((f"{address}/pg", "there is no service 'pg'"), (address, "say which service")):
        for way in (("--transport", "tcp"), ("--transport", "udp", "--no-durable"), ()):
            status, output, _ = start("here", "connect", target, *way, "--json").finish(b"")
            assert status == 1
            told = json.loads(output.splitlines()[-1])["error"]
            assert told == f"refused: {said} (there are: ssh, web), says node {peer}", way
    status, _, errors = start("here", "send", __file__, address).finish()
    assert status == 1
    assert b"there is no service 'files' (there are: ssh, web)" in errors


def test_the_pipe_tells_its_service(start, service) -> None:
    listener = start("there", "listen", "--json", "--forward", f"ssh={service('ssh')}", "--once")
    address = listener.ready()
    status, _, errors = start("here", "connect", f"{address}/ssh").finish(b"")
    assert status == 0, errors
    assert listener.read_event()["service"] == "ssh"
    assert listener.finish()[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--forward", "1", "--forward", "2"), b"only one service goes without a name"),
        (("--echo", "--forward", "2"), b"only one service goes without a name"),
        (("--forward", "a=1", "--forward", "a=2"), b"2 services with the name 'a'"),
        (("--receive", ".", "--forward", "files=2"), b"--receive is the service 'files'"),
        (("--receive", "/nowhere"), b"is not a directory"),
        (
            (
                "--forward",
                "a b=1",
            ),
            b"--forward",
        ),
    ],
)
def test_contradictions(start, words, said) -> None:
    status, _, errors = start("there", "listen", *words).finish()
    assert status == 2
    assert said in errors
