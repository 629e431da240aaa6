"""Commands in process against a node without a network: what is printed, and with which status."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time

import pytest
from cli_fakes import REPORT, FakePipe, FakeWorld, lying_peer, silent_peer, target_text

from warpgate.cli import connect, ping
from warpgate.cli.main import main
from warpgate.cli.records import Pong
from warpgate.errors import ConnectFailed, NetworkError
from warpgate.model.endpoint import Mode, Transport
from warpgate_testing.clock import run_virtual

PIPE_FIELDS = [
    "event",
    "plugin",
    "mode",
    "transport",
    "relayed",
    "seconds",
    "local",
    "remote",
    "peer",
    "secure",
    "durable",
]


@pytest.fixture
def call(capsys):
    """Run a command; (status, stdout lines, stderr)."""

    def call(*words: str, world: FakeWorld | None = None) -> tuple[int, list[str], str]:
        world = world or FakeWorld()
        status = main(words, world.node_maker)
        assert world.running == 0, "a node was left open"
        captured = capsys.readouterr()
        return status, captured.out.splitlines(), captured.err

    return call


def objects(lines: list[str]) -> list[dict]:
    return [json.loads(line) for line in lines]


def test_ping_prints_the_pipe_and_a_pong_for_each_echo(call):
    world = FakeWorld()
    status, lines, errors = call("connect", target_text(), "--ping", "3", "--json", world=world)
    pipe, *pongs = objects(lines)
    assert status == 0
    assert errors == ""
    assert list(pipe) == PIPE_FIELDS
    assert pipe == {
        "event": "pipe",
        "plugin": "direct",
        "mode": "stream",
        "transport": "tcp",
        "relayed": False,
        "seconds": 0.0125,
        "local": "127.0.0.1:1000",
        "remote": "127.0.0.1:2000",
        "peer": "a" * 26,
        "secure": False,
        "durable": False,
    }
    assert [set(pong) for pong in pongs] == [{"event", "seconds"}] * 3
    assert all(pong["event"] == "pong" and 0 <= pong["seconds"] < 1 for pong in pongs)
    assert world.config.accept is False
    assert world.pipes[0].closed


def test_how_to_connect_reaches_the_node(call):
    world = FakeWorld()
    target = target_text()
    words = [
        "--via",
        "direct,reverse",
        "--via",
        "direct",
        "--datagram",
        "--transport",
        "udp",
        "--timeout",
        "2.5",
    ]
    status, _, _ = call("connect", target, *words, "--ping", "1", world=world)
    assert status == 0
    ((dest, *how),) = world.asked
    assert dest.to_text() == target
    assert how == [Mode.DATAGRAM, Transport.UDP, ("direct", "reverse"), 2.5, False]


def test_encryption_is_asked_for(call):
    world = FakeWorld()
    assert call("connect", target_text(), "--tls", "--ping", "1", world=world)[0] == 0
    ((_, mode, transport, *_, secure),) = world.asked
    assert (mode, transport, secure) == (Mode.STREAM, None, True)
    status, _, errors = call("connect", target_text(), "--tls", "--datagram", "--ping", "1", world=world)
    assert (status, "--tls encrypts streams" in errors) == (2, True)


@pytest.mark.parametrize("words", [(), ("--tls",)])
def test_a_listener_may_take_encrypted_pipes_only(call, words):
    world = FakeWorld(visitors=[(Mode.STREAM, greet)])
    assert call("listen", "--echo", "--once", *words, world=world)[0] == 0
    assert world.config.secure_only is bool(words)


@pytest.mark.parametrize("words", [(), ("--datagram",)])
def test_a_ping_that_is_not_echoed_fails(call, monkeypatch, words):
    monkeypatch.setattr(ping, "DATAGRAM_GAP", 0.002)
    monkeypatch.setattr(ping, "PATIENCE", 0.01)
    monkeypatch.setattr(ping, "LONGEST", 0.01)
    world = FakeWorld(peer=silent_peer)
    status, lines, _ = call("connect", target_text(), "--ping", "2", "--json", *words, world=world)
    assert status == 1
    assert [line["event"] for line in objects(lines)] == ["pipe", "failed"]
    assert "ping 1 of 2" in objects(lines)[-1]["error"]
    assert world.pipes[0].aborted


def test_an_echo_that_is_something_else_fails(call):
    status, lines, errors = call("connect", target_text(), "--ping", "1", world=FakeWorld(peer=lying_peer))
    assert status == 1
    assert "something else" in errors
    assert len(lines) == 1


def test_lost_datagrams_are_sent_again(call, monkeypatch):
    monkeypatch.setattr(ping, "DATAGRAM_GAP", 0.02)
    sent = []

    async def lossy(pipe: FakePipe) -> None:
        while True:
            sent.append(await pipe.recv())
            if len(sent) == 3:
                await pipe.send(b"something else")
                await pipe.send(sent[2])

    status, lines, _ = call(
        "connect", target_text(), "--datagram", "--ping", "1", "--json", world=FakeWorld(peer=lossy)
    )
    assert status == 0
    assert len(set(sent)) == len(sent) == 3
    assert 0 <= objects(lines)[1]["seconds"] < 0.02


@pytest.mark.parametrize("round_trip", [0.04, 0.6, 1.5, 2.5, 6.0])
def test_an_echo_counts_from_its_own_try_however_slow_the_world(round_trip):
    """Also when others have been sent since."""
    pongs: list[Pong] = []

    async def story() -> None:
        near, far = FakePipe.pair(Mode.DATAGRAM)
        loop = asyncio.get_running_loop()

        async def echo(data: bytes) -> None:
            await asyncio.sleep(round_trip)
            await far.send(data)

        async def peer() -> None:
            while True:
                echoes.append(loop.create_task(echo(await far.recv())))

        echoes = [loop.create_task(peer())]
        await ping.ping(near, 2, pongs.append)
        for task in echoes:
            task.cancel()

    run_virtual(story(), limit=60.0)
    assert [pong.seconds for pong in pongs] == [pytest.approx(round_trip)] * 2


def test_a_failed_connect_carries_the_report(call):
    world = FakeWorld(refusal=ConnectFailed("no strategy\nworked", REPORT))
    status, lines, errors = call("connect", target_text(), "--ping", "1", "--json", world=world)
    assert (status, errors) == (1, "")
    (failed,) = objects(lines)
    assert (failed["event"], failed["error"]) == ("failed", "no strategy worked")
    assert failed["report"][0] == {
        "plugin": "direct",
        "outcome": "failed",
        "reason": "refused",
        "started": 0.0,
        "ended": 0.02,
        "notes": [[0.001, "dialling 192.0.2.1:7"]],
    }
    status, lines, errors = call("connect", target_text(), world=world)
    assert (status, lines, errors) == (1, [], "warpgate: no strategy worked\n")


def test_explain_tells_what_every_strategy_did(call):
    status, lines, _ = call("explain", target_text())
    assert status == 0
    assert lines[0].startswith("stream with aaaa")
    assert [line.split()[0] for line in lines[1:]] == ["strategy", "direct", "udp_punch"]
    assert "only TCP was asked for" in lines[-1]
    status, lines, errors = call(
        "explain", target_text(), world=FakeWorld(refusal=ConnectFailed("no strategy worked", REPORT))
    )
    assert status == 1
    assert "dialling 192.0.2.1:7" in "\n".join(lines)
    assert errors == "warpgate: no strategy worked\n"
    status, lines, _ = call("explain", target_text(), "--json")
    assert [line["event"] for line in objects(lines)] == ["pipe", "explained"]


async def greet(pipe: FakePipe) -> None:
    await pipe.send(b"hello")
    pipe.write_eof()
    while data := await pipe.recv():
        GREETED.append(data)


GREETED: list[bytes] = []


def test_echo_answers_everybody_at_once_and_ends_with_the_first(call):
    GREETED.clear()
    world = FakeWorld(visitors=[(Mode.STREAM, greet), (Mode.STREAM, silent_peer)])
    status, lines, _ = call("listen", "--echo", "--once", "--json", world=world)
    assert status == 0
    ready, pipe = objects(lines)
    assert list(ready) == ["event", "node_id", "address"]
    assert (ready["event"], ready["node_id"]) == ("ready", world.identity.node_id)
    assert ready["address"].startswith("wg1")
    assert list(pipe) == PIPE_FIELDS
    assert GREETED == [b"hello"]
    assert world.pipes[0].closed
    assert world.config.accept is True


def test_a_listener_without_brokers_says_what_that_means(call):
    world = FakeWorld(visitors=[(Mode.STREAM, greet)])
    _, lines, errors = call("listen", "--echo", "--once", world=world)
    assert lines[0] == f"listening as {world.identity.node_id}"
    assert lines[1].startswith("wg1")
    assert "there is no broker" in errors


def test_exec_puts_a_command_on_the_pipe(call):
    GREETED.clear()
    world = FakeWorld(visitors=[(Mode.STREAM, greet)])
    status, lines, _ = call("listen", "--exec", "tr a-z A-Z; echo $WARPGATE_PEER", "--once", "--json", world=world)
    assert status == 0
    assert b"".join(GREETED) == b"HELLO" + b"a" * 26 + b"\n"
    assert [line["event"] for line in objects(lines)] == ["ready", "pipe"]


def test_a_command_that_fails_is_reported(call):
    world = FakeWorld(visitors=[(Mode.STREAM, greet)])
    status, lines, _ = call("listen", "--exec", "exit 3", "--once", "--json", world=world)
    assert status == 0
    unserved = objects(lines)[-1]
    assert unserved == {"event": "unserved", "peer": "a" * 26, "error": "the command ended with status 3"}


def test_forward_to_a_port_nobody_serves_is_reported_and_the_pipe_reset(call, unused_tcp_port):
    world = FakeWorld(visitors=[(Mode.STREAM, silent_peer)])
    status, _, errors = call("listen", "--forward", f"127.0.0.1:{unused_tcp_port}", "--once", world=world)
    assert status == 0
    assert f"127.0.0.1:{unused_tcp_port} cannot be reached" in errors
    assert world.pipes[0].aborted


def test_forward_joins_a_local_service(call):
    GREETED.clear()
    world = FakeWorld(visitors=[(Mode.STREAM, greet)])
    with LocalEcho() as port:
        status, _, _ = call("listen", "--forward", f"localhost:{port}", "--once", world=world)
    assert status == 0
    assert b"".join(GREETED) == b"hello"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_stop_a_listener_has_done_its_work(call, number):
    world = FakeWorld(visitors=[(Mode.STREAM, stopping(number))])
    status, _, _ = call("listen", "--echo", "--json", world=world)
    assert status == 0
    assert world.pipes[0].aborted


def test_told_to_stop_a_connect_has_not(call):
    world = FakeWorld(peer=stopping(signal.SIGTERM))
    assert call("connect", target_text(), "--ping", "1", world=world)[0] == 143


def test_an_interrupt_is_130_and_says_nothing(call):
    world = FakeWorld(visitors=[(Mode.STREAM, stopping(signal.SIGINT))])
    status, _, errors = call("listen", "--echo", "--json", world=world)
    assert (status, errors) == (130, "")


def test_a_child_does_not_outlive_its_listener(call, tmp_path):
    world = FakeWorld(visitors=[(Mode.STREAM, when_child_runs(tmp_path / "pid"))])
    status, _, _ = call("listen", "--exec", f"echo $$ > {tmp_path / 'pid'}; sleep 60; true", world=world)
    assert status == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_local_connections_get_a_pipe_each(call, unused_tcp_port):
    world = FakeWorld()
    answers = []

    def client() -> None:
        for word in (b"one", b"two"):
            with connected(unused_tcp_port) as local:
                local.sendall(word)
                local.shutdown(socket.SHUT_WR)
                answers.append(b"".join(iter(lambda sock=local: sock.recv(100), b"")))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=client)
    thread.start()
    status, lines, _ = call("connect", target_text(), "--listen", str(unused_tcp_port), "--json", world=world)
    thread.join()
    assert status == 0
    assert answers == [b"one", b"two"]
    assert [line["event"] for line in objects(lines)] == ["listening", "pipe", "pipe"]
    assert len(world.asked) == 2


def test_a_local_connection_that_cannot_be_carried_is_reset(call, unused_tcp_port):
    world = FakeWorld(refusal=ConnectFailed("no strategy worked", REPORT))
    seen = []

    def client() -> None:
        with connected(unused_tcp_port) as local:
            try:
                seen.append(local.recv(1))
            except ConnectionResetError:
                seen.append("reset")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=client)
    thread.start()
    status, lines, _ = call("connect", target_text(), "--listen", str(unused_tcp_port), "--json", world=world)
    thread.join()
    assert status == 0
    assert seen == ["reset"]
    assert objects(lines)[-1]["event"] == "unserved"


def test_a_port_in_use_is_a_failure(call):
    with LocalEcho() as port:
        status, lines, errors = call("connect", target_text(), "--listen", str(port))
    assert (status, lines) == (1, [])
    assert f"127.0.0.1:{port}" in errors
    assert "in use" in errors


def test_address_prints_it(call):
    world = FakeWorld()
    status, lines, _ = call("address", world=world)
    assert status == 0
    assert len(lines) == 1
    assert lines[0].startswith("wg1")
    status, lines, _ = call("address", "--json", world=world)
    assert objects(lines) == [
        {
            "event": "address",
            "node_id": world.identity.node_id,
            "address": lines and objects(lines)[0]["address"],
        }
    ]
    status, lines, _ = call("address", "--qr", world=world)
    assert status == 0
    assert len(lines) > 10


def test_id_opens_no_node(call):
    world = FakeWorld()
    status, lines, _ = call("id", "--json", world=world)
    (shown,) = objects(lines)
    assert status == 0
    assert list(shown) == ["event", "node_id", "public_key"]
    assert len(bytes.fromhex(shown["public_key"])) == 33
    assert world.config is None


def test_errors_of_the_system_are_sentences(call):
    status, _, errors = call("connect", target_text(), world=FakeWorld(refusal=NetworkError("port 7 is in use")))
    assert (status, errors) == (1, "warpgate: port 7 is in use\n")


def stopping(number: int):
    async def stop(pipe: FakePipe) -> None:
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    return stop


def when_child_runs(path):
    async def stop(pipe: FakePipe) -> None:
        while not (path.exists() and path.read_text().strip()):  # noqa: ASYNC110 - another process's file
            await asyncio.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    return stop


def connected(port: int):
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


class LocalEcho:
    """A TCP service on localhost in a thread: echoes until EOF."""

    def __enter__(self) -> int:
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()
        return self.listener.getsockname()[1]

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(4096):
                    connection.sendall(data)

    def __exit__(self, *_: object) -> None:
        self.listener.close()


def test_the_linger_of_datagrams_is_bounded():
    assert 0 < connect.DATAGRAM_LINGER <= 2
