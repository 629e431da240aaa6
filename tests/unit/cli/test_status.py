"""`warpgate status`, and metrics, of real processes on the loopback interface."""

from __future__ import annotations

import json
import os
import socket
import stat
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
from loopback_kit import PATIENCE

from warpgate.cli.status import Running
from warpgate.cli.status_door import _is_for_us, metrics_text
from warpgate.model.endpoint import Transport


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def status_of(start, name: str) -> list[dict]:
    status, output, _ = start(name, "status", "--json").finish()
    told = [json.loads(line) for line in output.splitlines()]
    assert status == (0 if told[0]["event"] == "status" else 1)
    return told


def test_nothing_runs(start):
    status, _, errors = start("there", "status").finish()
    assert status == 1
    assert b"nothing runs with the identity 'default'" in errors


def test_it_tells_services_pipes_and_the_address_as_pipes_come_and_go(start, tmp_path):
    listener = start("there", "listen", "--json", "--forward", "web=1", "--exec", "cat", "--receive", str(tmp_path))
    address = listener.ready()
    (told,) = status_of(start, "there")
    expected = {
        "command": "listen",
        "pid": listener.process.pid,
        "accepts": True,
        "address": address,
        "pipes": [],
    }
    assert {name: told[name] for name in expected} == expected
    assert sorted(told["services"]) == ["", "files", "web"]
    ways = ("--transport", "tcp"), ("--transport", "udp", "--no-durable"), ()
    visitors = [start("here", "connect", address, *way) for way in ways]
    opened = [listener.read_event() for _ in visitors]
    (told,) = status_of(start, "there")
    assert sorted(pipe["durable"] for pipe in told["pipes"]) == [False, False, True]
    assert {pipe["remote"] for pipe in told["pipes"]} == {event["remote"] for event in opened}
    assert {pipe["transport"] for pipe in told["pipes"]} == {"tcp", "udp"}
    assert all(pipe["peer"] == opened[0]["peer"] for pipe in told["pipes"])
    assert all(pipe["since"] >= told["since"] for pipe in told["pipes"])
    for visitor in visitors:
        assert visitor.finish(b"x")[:2] == (0, b"x")
    (told,) = status_of(start, "there")
    assert told["pipes"] == []


@pytest.mark.parametrize(
    ("command", "words"), [("connect", ("--ping", "1")), ("send", ("--text", "hello"))], ids=("ping", "send")
)
def test_commands_that_end_by_themselves_are_told_while_they_run(start, command, words):
    """Each waits for a peer whose service says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"localhost:{silent.getsockname()[1]}"
        listener = start("there", "listen", "--json", "--forward", place, "--forward", f"files={place}")
        address = listener.ready()
        last = (*words, address) if command == "send" else (address, *words)
        visitor = start("here", command, *last)
        listener.read_event()
        (told,) = status_of(start, "here")
        assert (told["command"], told["pid"], told["accepts"]) == (command, visitor.process.pid, False)
        assert [pipe["service"] for pipe in told["pipes"]] == ["files" if command == "send" else ""]


def test_people_read_it(start):
    listener = start("there", "listen", "--json", "--exec", "cat")
    address = listener.ready()
    visitor = start("here", "connect", address)
    event = listener.read_event()
    status, output, _ = start("there", "status").finish()
    assert status == 0
    text = output.decode()
    assert f"process {listener.process.pid}" in text
    assert "services  one without a name" in text
    way = f"by {event['plugin']} over {event['transport'].upper()}, durable, encrypted"
    assert f"stream with {event['peer']} {way}" in text
    assert visitor.finish(b"")[0] == 0


def test_who_searches_is_told_before_there_is_a_pipe(start, tmp_path):
    """The address is of a node that has ended; its port, where nobody answers, is there still."""
    listener = start("there", "listen", "--echo", "--json")
    address = listener.ready()
    port = status_of(start, "there")[0]["port"]
    listener.process.kill()
    listener.finish()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        silent.bind(("", port))
        silent.listen()
        visitor = start("here", "connect", address, "-v")
        while b" is up " not in visitor.process.stderr.readline():
            pass
        while b"started" not in visitor.process.stderr.readline():
            pass
        (told,) = status_of(start, "here")
        assert (told["command"], told["pipes"]) == ("connect", [])


PROGRAM = """
import asyncio, sys
from warpgate import Config, Node

async def main():
    async with Node(Config.from_user()):
        print("up", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def test_a_program_that_uses_the_library_is_told_of_as_far_as_it_is_known(start):
    program = start("there", program=("-c", PROGRAM))
    assert program.process.stdout.readline() == b"up\n"
    pid = str(program.process.pid)
    (told,) = [json.loads(line) for line in start("there", "status", "--json").finish()[1].splitlines()]
    assert told == {"event": "in_use", "identity": "default", "process": pid}
    status, output, _ = start("there", "status").finish()
    assert status == 0
    assert output.startswith(f"process {pid} accepts peers with the identity default".encode())
    status, _, errors = start("there", "listen", "--echo").finish()
    assert status == 2
    assert f"in use by process {pid}".encode() in errors
    assert program.finish(b"")[0] == 0
    assert start("there", "status").finish()[0] == 1


def test_each_process_of_the_identity_is_told_and_others_are_not(start):
    there = start("there", "listen", "--echo", "--json")
    address = there.ready()
    here = start("here", "listen", "--echo", "--json")
    here.ready()
    port = free_port()
    carrier = start("here", "connect", address, "--listen", str(port), "--json")
    assert carrier.read_event()["event"] == "listening"
    told = status_of(start, "here")
    assert [(one["command"], one["pid"], one["accepts"]) for one in told] == [
        ("listen", here.process.pid, True),
        ("connect", carrier.process.pid, False),
    ]


def test_the_address_is_that_of_the_process_that_accepts(start):
    listener = start("there", "listen", "--echo", "--json")
    address = listener.ready()
    status, output, _ = start("there", "address").finish()
    assert (status, output.decode().strip()) == (0, address)


def test_the_socket_is_the_users_alone_and_goes_with_the_process(start, tmp_path):
    listener = start("there", "listen", "--echo", "--json")
    listener.ready()
    folder = tmp_path / "there" / "identities"
    (file,) = folder.glob("*.sock")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    listener.process.terminate()
    listener.finish()
    assert list(folder.glob("*.sock")) == []


def test_what_a_killed_process_has_left_behind_is_removed(start, tmp_path):
    listener = start("there", "listen", "--echo", "--json")
    listener.ready()
    listener.process.kill()
    listener.finish()
    folder = tmp_path / "there" / "identities"
    assert len(list(folder.glob("*.sock"))) == 1
    assert status_of(start, "there")[0]["event"] == "failed"
    assert list(folder.glob("*.sock")) == []


def test_a_long_path_to_the_data(start):
    long = "/".join(["a-folder-with-a-long-name"] * 5)
    listener = start(long, "listen", "--echo", "--json")
    listener.ready()
    (told,) = status_of(start, long)
    assert told["pid"] == listener.process.pid


def test_metrics(start):
    port = free_port()
    listener = start("there", "listen", "--json", "--exec", "cat", "--metrics", str(port))
    address = listener.ready()
    visitor = start("here", "connect", address, "--transport", "tcp")
    listener.read_event()
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        lines = answer.read().decode().splitlines()
    assert 'warpgate_pipes{service="",strategy="direct",transport="tcp",relayed="false",durable="false"} 1' in lines
    assert 'warpgate_events_total{event="PipeOpened"} 1' in lines
    assert not any(listener.process.args[0] in line or "wg1" in line for line in lines)
    elsewhere = urllib.request.Request(url, headers={"Host": "pages.example"})
    for asked in (f"http://127.0.0.1:{port}/", elsewhere):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(asked, timeout=PATIENCE)
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(b"x" * 20000)
        try:
            while client.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert visitor.finish(b"")[0] == 0


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("127.0.0.1:{}", True),
        ("LocalHost:{}", True),
        ("127.0.0.1", True),
        ("pages.example:{}", False),
        ("", False),
    ],
)
def test_a_web_page_whose_name_leads_here_reads_no_metrics(host: str, told: bool) -> None:
    fields = [b"Accept: */*", f"Host: {host.format(9100)}".encode()]
    assert _is_for_us(fields) == told
    assert _is_for_us([*fields, b"host: pages.example"]) is False
    assert _is_for_us(fields[:1])  # a program of its own that speaks HTTP/1.0


def test_metrics_have_no_word_of_a_peers():
    """The strategy of a pipe is what its HELLO or its check says."""
    told = {"service": "web", "transport": Transport.TCP, "relayed": False, "durable": False}
    pipes = [(SimpleNamespace(plugin=plugin, **told), 0.0) for plugin in ("direct", "2lbgtqdcwyvmrkmmdx3bqadjgm")]
    status = SimpleNamespace(pipes=pipes, since=0.0, brokers=(), counts=(), strays=0)
    text = metrics_text(SimpleNamespace(status=lambda: status))
    assert 'strategy="direct"' in text
    assert 'strategy="other"' in text
    assert "2lbgtqdcwyvmrkmmdx3bqadjgm" not in text


def test_metrics_at_a_port_that_is_taken(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, _, errors = start("there", "listen", "--echo", "--metrics", str(taken.getsockname()[1])).finish()
    assert status == 1
    assert b"in use" in errors


def test_times_are_told_in_their_two_largest_units():
    pipe = {
        "mode": "stream", "peer": "p", "service": "web", "plugin": "direct", "transport": "udp", "relayed": True,
        "secure": True, "local": "l", "remote": "r", "since": 1000.0,
    }  # fmt: skip
    told = {
        "command": "listen", "node_id": "n", "identity": "i", "pid": os.getpid(), "since": 0.0, "accepts": True,
        "services": ["web"], "address": "wg1", "brokers": [], "pipes": [pipe], "twin": "another node",
        "server_list": 7,
    }  # fmt: skip
    text = Running(told, 100_000.0).text()
    assert "(1 d 3 h)" in text
    assert "for web by direct over UDP, encrypted, relayed: l - r, for 1 d 3 h" in text
    assert "warning   another node" in text
    assert "servers   list 7 of public servers" in text
    assert "servers" not in Running({**told, "server_list": 0}, 100_000.0).text()


def test_a_lent_machine_tells_its_owner_who_uses_it(start):
    member = start("here", "id", "--json").read_event()["node_id"]
    listener = start("there", "listen", "--json", "--relay", "--allow", member)
    listener.ready()
    (told,) = status_of(start, "there")
    assert told["services"] == ["relay"]
    assert told["relay"] == {
        "reachable": [],
        "allocations": {},
        "relayed": 0,
    }  # loopback is no public address
    _, output, _ = start("there", "status").finish()
    assert b"relay     at nowhere" in output


@pytest.mark.parametrize(
    "words",
    [["--relay"], ["--relay", "--allow", "a" * 26, "--once"], ["--relay", "70000", "--allow", "a" * 26]],
)
def test_a_machine_is_not_lent_to_anybody(start, words):
    status, _, errors = start("there", "listen", *words).finish()
    assert status == 2
    assert b"--relay" in errors
