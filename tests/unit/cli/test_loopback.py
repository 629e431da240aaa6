"""Two real programs on the loopback interface, without brokers or STUN: what a user types, end to end."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest
from loopback_kit import PATIENCE


@pytest.mark.parametrize(("words", "mode", "transport"), [((), "stream", "tcp"), (("--datagram",), "datagram", "udp")])
def test_ping(start, words, mode, transport):
    listener = start("b", "listen", "--echo", "--once", "--json")
    address = listener.ready()
    status, output, errors = start("a", "connect", address, "--ping", "3", "--json", *words).finish()
    assert (status, errors) == (0, b"")
    pipe, *pongs = [json.loads(line) for line in output.splitlines()]
    assert (pipe["event"], pipe["mode"], pipe["transport"], pipe["relayed"]) == (
        "pipe",
        mode,
        transport,
        False,
    )
    assert [pong["event"] for pong in pongs] == ["pong"] * 3
    accepted = listener.read_event()
    assert (accepted["mode"], accepted["plugin"]) == (mode, pipe["plugin"])
    assert listener.finish()[0] == 0


def test_a_file_goes_one_way_and_another_comes_back(start, tmp_path):
    there, back = os.urandom(3_000_000), os.urandom(1_000_000)
    (tmp_path / "there").write_bytes(there)
    (tmp_path / "back").write_bytes(back)
    with (tmp_path / "there").open("rb") as sent, (tmp_path / "back").open("rb") as answer:
        listener = start("b", "listen", stdin=answer)
        assert listener.process.stderr.readline().startswith(b"listening as ")
        address = listener.process.stderr.readline().decode().strip()
        with (tmp_path / "received").open("wb") as received:
            connector = start("a", "connect", address, stdin=sent, stdout=received)
            status, output, _ = listener.finish()
            assert (status, output == there) == (0, True)
            assert connector.finish()[0] == 0
    assert (tmp_path / "received").read_bytes() == back


def test_exec(start):
    listener = start("b", "listen", "--exec", "sort", "--json")
    address = listener.ready()
    for _ in range(2):
        assert start("a", "connect", address).finish(b"b\na\n")[:2] == (0, b"a\nb\n")
    listener.process.send_signal(signal.SIGTERM)
    assert listener.finish()[0] == 0


def test_local_connections_come_out_at_a_remote_service(start, unused_tcp_port, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as service:
        listener = start("b", "listen", "--forward", f"127.0.0.1:{service.getsockname()[1]}", "--json")
        connector = start("a", "connect", listener.ready(), "--listen", str(unused_tcp_port), "--json")
        assert connector.read_event()["event"] == "listening"
        with socket.create_connection(("127.0.0.1", unused_tcp_port), timeout=PATIENCE) as client:
            client.sendall(b"request")
            client.shutdown(socket.SHUT_WR)
            served, _ = service.accept()
            with served:
                assert served.recv(100) == b"request"
                assert served.recv(100) == b""
                served.sendall(b"response")
            assert client.recv(100) == b"response"
            assert client.recv(100) == b""
        connector.process.send_signal(signal.SIGTERM)
        assert connector.finish()[0] == 0


def test_only_the_allowed_get_in(start):
    """The others are told why, first of all and whatever they asked for; and the owner is, once."""
    friend, stranger = (json.loads(start(name, "id", "--json").finish()[1])["node_id"] for name in ("a", "stranger"))
    listener = start("b", "listen", "--echo", "--allow", friend)
    peer = listener.process.stdout.readline().split()[-1].decode()
    address = listener.process.stdout.readline().decode().strip()
    assert start("a", "connect", address, "--ping", "1").finish()[0] == 0
    reason = f"{stranger} is not among those allowed in"
    for words in ([], ["--no-durable"], ["--transport", "tcp"], ["--datagram"], ["--ping", "1"]):
        done = start("stranger", "connect", address, "--timeout", "10", *words).finish()
        assert done == (1, b"", f"warpgate: refused: {reason}, says node {peer}\n".encode())
    status, output, _ = start("stranger", "connect", address, "--json").finish()
    failed = json.loads(output)
    assert (status, failed["event"]) == (1, "failed")
    assert failed["report"]
    listener.process.terminate()
    _, _, told = listener.finish()
    assert told.count(f"warpgate: refused {stranger}: {reason}\n".encode()) == 1


def test_datagrams_from_stdin(start):
    listener = start("b", "listen", "--echo", "--json")
    address = listener.ready()
    assert start("a", "connect", address, "--datagram").finish(b"hello")[:2] == (0, b"hello")
    long = bytes(range(256)) * 10  # more than one carries
    assert start("a", "connect", address, "--datagram", "--durable").finish(long)[:2] == (0, long)
    for kind in (False, True):
        pipe = listener.read_event()
        assert (pipe["mode"], pipe["durable"], pipe["secure"]) == ("datagram", kind, kind)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)])
def test_a_connect_that_waits_for_its_input_can_be_stopped(start, number, status):
    listener = start("b", "listen", "--echo", "--json")
    connector = start("a", "connect", listener.ready())
    connector.process.stdin.write(b"x")
    connector.process.stdin.flush()
    assert connector.process.stdout.read(1) == b"x"
    connector.process.send_signal(number)
    assert connector.process.wait(PATIENCE) == status
    assert connector.finish() == (status, b"", b"")


def test_explain(start):
    listener = start("b", "listen", "--echo", "--json")
    status, output, _ = start("a", "explain", listener.ready()).finish()
    assert status == 0
    assert b"direct" in output
    assert b"won" in output


def test_explain_watches_the_paths_of_a_durable_pipe(start, tmp_path):
    listener = start("b", "listen", "--echo", "--json")
    page = tmp_path / "page.html"
    explain = start("a", "explain", listener.ready(), "--watch", "0.5", "--html", str(page), "--json")
    status, output, _ = explain.finish()
    assert status == 0
    told = [json.loads(line) for line in output.splitlines()]
    assert {event["event"] for event in told} == {"path", "pipe", "explained", "page"}
    assert [event["durable"] for event in told if event["event"] == "pipe"] == [True]
    assert "The paths it went by" in page.read_text("utf-8")
    assert start("a", "explain", "wg1x", "--watch", "1", "--transport", "tcp").finish()[0] == 2


def test_nobody_there_is_a_failure_with_a_report(start):
    listener = start("b", "listen", "--echo", "--json")
    address = listener.ready()
    listener.process.kill()
    listener.process.wait()
    status, output, errors = start("a", "connect", address, "--ping", "1", "--timeout", "3", "--json").finish()
    (line,) = output.splitlines()
    failed = json.loads(line)
    assert (status, errors, failed["event"]) == (1, b"", "failed")
    assert {row["plugin"] for row in failed["report"]} >= {"direct"}


def test_ones_own_address_is_told_from_others(start):
    listener = start("b", "listen", "--echo", "--json")
    status, _, errors = start("b", "connect", listener.ready(), "--ping", "1").finish()
    assert status == 2
    assert b"--identity" in errors


@pytest.mark.parametrize("words", [("--via", "teleport"), ("--via", ",")])
def test_strategies_that_do_not_exist(start, words):
    listener = start("b", "listen", "--echo", "--json")
    status, _, errors = start("a", "connect", listener.ready(), *words).finish()
    assert status == 2
    assert errors.count(b"\n") == 1
    assert b"--via" in errors


def test_a_port_in_use(start, unused_tcp_port):
    start("b", "listen", "--echo", "--json", "--port", str(unused_tcp_port)).ready()
    status, output, errors = start("c", "listen", "--echo", "--json", "--port", str(unused_tcp_port)).finish()
    (line,) = output.splitlines()
    assert (status, errors) == (1, b"")
    assert str(unused_tcp_port) in json.loads(line)["error"]


def test_an_interface_that_is_not_there(start):
    status, output, errors = start("a", "address", "--interface", "", "--interface", "nosuch0").finish()
    assert (status, output) == (2, b"")
    assert b"nosuch0" in errors


def test_doctor_tests_a_list_of_servers(start):
    status, output, _ = start(
        "a", "doctor", "--servers", "--broker", "mqtt://127.0.0.1:9", "--stun", "127.0.0.1:9?transport=tcp"
    ).finish()
    assert status == 0
    assert b"- mqtt://127.0.0.1:9: " in output
    assert b"- 127.0.0.1:9?transport=tcp: TCP: " in output
    assert b'# "mqtt://127.0.0.1:9",  # ' in output
    assert b"no newer one is fetched: the settings name all servers" in output


def test_doctor_runs_without_any_server(start):
    status, output, errors = start("a", "doctor").finish()
    assert (status, errors) == (0, b"")
    assert b"lo: 127.0.0.1" in output
    assert b"in short" in output
