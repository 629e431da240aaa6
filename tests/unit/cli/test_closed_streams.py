"""Started without stdin, stdout or stderr: what would go there goes nowhere, and into nothing else."""

from __future__ import annotations

import json
import signal
import socket

import pytest
from loopback_kit import PATIENCE


def test_without_stdin_there_is_no_input(start):
    listener = start("b", "listen", "--exec", "wc -c", "--json")
    assert start("a", "connect", listener.ready(), redirected="<&-").finish()[:2] == (0, b"0\n")


@pytest.mark.parametrize("redirected", [">&-", ">&- 2>&-"])
def test_without_stdout_the_peers_bytes_go_nowhere(start, tmp_path, redirected):
    """More than the buffers of a socket hold: what a descriptor of the event loop would take soon ends."""
    talk = f"head -c 3000000 /dev/zero; cat >{tmp_path}/heard"
    listener = start("b", "listen", "--exec", talk, "--once", "--json")
    status, output, errors = start("a", "connect", listener.ready(), redirected=redirected).finish(b"said" * 1000)
    assert (status, output, errors) == (0, b"", b"")
    assert listener.finish()[0] == 0
    assert (tmp_path / "heard").read_bytes() == b"said" * 1000


def test_a_listener_without_any_of_them(start, unused_tcp_port):
    words = ("b", "listen", "--port", str(unused_tcp_port))
    announced = start(*words, "--echo", "--json")
    address = announced.ready()
    announced.process.send_signal(signal.SIGTERM)
    assert announced.finish()[0] == 0
    listener = start(*words, redirected="<&- >&- 2>&-")
    while not _accepts(unused_tcp_port):
        assert listener.process.poll() is None
    status, output, errors = start("a", "connect", address).finish(b"said" * 1_000_000)
    assert (status, output, errors) == (0, b"", b"")
    assert listener.process.wait(PATIENCE) == 0


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("redirected", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_files_arrive_all_the_same(start, tmp_path, redirected):
    (tmp_path / "in").mkdir()
    (tmp_path / "file").write_bytes(b"content" * 10_000)
    receiver = start("b", "receive", str(tmp_path / "in"), "--once", "--json")
    sender = start("a", "send", str(tmp_path / "file"), receiver.ready(), redirected=redirected)
    assert sender.finish()[0] == 0
    assert receiver.finish()[0] == 0
    assert (tmp_path / "in" / "file").read_bytes() == b"content" * 10_000


@pytest.mark.parametrize("words", [("id",), ("--help",), ("connect", "wg1AAAA")])
def test_short_commands_end_as_ever(start, words):
    status = start("a", *words).finish()[0]
    assert start("a", *words, redirected="<&- >&- 2>&-").finish() == (status, b"", b"")


def test_the_commands_that_it_runs_have_all_three(start):
    listener = start("b", "listen", "--exec", "readlink /proc/self/fd/2", "--json", redirected="2>&-")
    event = json.loads(listener.process.stdout.readline())
    assert start("a", "connect", event["address"]).finish()[:2] == (0, b"/dev/null\n")
