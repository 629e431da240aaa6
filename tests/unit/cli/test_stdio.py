"""A pipe joined to stdin and stdout, whatever these are."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import pty
import socket
import threading

import pytest
from cli_fakes import FakePipe, echo_peer

from warpgate.cli import stdio
from warpgate.cli.output import Output
from warpgate.errors import PipeClosed
from warpgate.model.endpoint import Mode

PAYLOAD = bytes(range(256)) * 2000  # several chunks


class Terminal:
    """Makes these descriptors stdin and stdout."""

    def __init__(self, monkeypatch, stdin: int, stdout: int) -> None:
        original = stdio.StdioEnd
        monkeypatch.setattr(
            stdio, "StdioEnd", lambda output, limit: original(output, limit, stdin=stdin, stdout=stdout)
        )


@pytest.fixture
def descriptors():
    """Their numbers stay taken: a thread that has yet to read for one test must not read what is the next one's."""
    opened = []
    yield opened
    with open(os.devnull, "r+b", buffering=0) as null:
        for descriptor in opened:
            with contextlib.suppress(OSError):
                os.fstat(descriptor)
                os.dup2(null.fileno(), descriptor)


@pytest.fixture(params=["pipe", "file", "socket"])
def source(request, tmp_path, descriptors):
    """A descriptor that yields PAYLOAD and ends."""
    if request.param == "file":
        (tmp_path / "in").write_bytes(PAYLOAD)
        reading = os.open(tmp_path / "in", os.O_RDONLY)
    else:
        if request.param == "pipe":
            reading, writing = os.pipe()
        else:
            reading, writing = (sock.detach() for sock in socket.socketpair())

        def feed() -> None:
            rest = memoryview(PAYLOAD)
            while rest:
                rest = rest[os.write(writing, rest) :]
            os.close(writing)

        threading.Thread(target=feed, daemon=True).start()
    descriptors.append(reading)
    return reading


async def test_all_of_stdin_goes_there_and_back_again(source, tmp_path, descriptors, monkeypatch):
    output = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    descriptors.append(output)
    Terminal(monkeypatch, source, output)
    near, far = FakePipe.pair()
    echoing = asyncio.create_task(echo_peer(far))
    await stdio.join_stdio(near, Output())
    await echoing
    assert (tmp_path / "out").read_bytes() == PAYLOAD
    assert near.ended


async def test_the_peers_end_closes_stdout_while_stdin_goes_on(descriptors, monkeypatch):
    typed_out, typed_in = os.pipe()
    shown_out, shown_in = os.pipe()
    descriptors += [typed_out, typed_in, shown_out, shown_in]
    Terminal(monkeypatch, typed_out, shown_in)
    near, far = FakePipe.pair()
    joining = asyncio.create_task(stdio.join_stdio(near, Output()))
    await far.send(b"bye")
    far.write_eof()
    assert await asyncio.to_thread(os.read, shown_out, 10) == b"bye"
    assert await asyncio.to_thread(os.read, shown_out, 10) == b""  # whoever reads us sees the end
    os.write(typed_in, b"late")
    assert await far.recv() == b"late"
    assert not joining.done()
    os.close(typed_in)
    await joining
    assert near.ended


@pytest.mark.parametrize("said_all", [True, False])
async def test_our_end_of_input_after_the_peer_has_gone(descriptors, monkeypatch, said_all):
    """In order if it had said everything: a stream over UDP then takes no end from us any more."""
    typed_out, typed_in = os.pipe()
    shown_out, shown_in = os.pipe()
    descriptors += [typed_out, shown_out, shown_in]
    Terminal(monkeypatch, typed_out, shown_in)
    near, far = FakePipe.pair()

    def gone() -> None:
        raise PipeClosed("closed by the peer")

    monkeypatch.setattr(near, "write_eof", gone)
    joining = asyncio.create_task(stdio.join_stdio(near, Output()))
    if said_all:
        far.write_eof()
        assert await asyncio.to_thread(os.read, shown_out, 10) == b""
    os.close(typed_in)
    with contextlib.nullcontext() if said_all else pytest.raises(PipeClosed):
        await joining


async def test_at_a_terminal_the_peers_end_is_the_end(descriptors, monkeypatch):
    keyboard, terminal = pty.openpty()
    descriptors += [keyboard, terminal]
    Terminal(monkeypatch, terminal, terminal)
    near, far = FakePipe.pair()
    joining = asyncio.create_task(stdio.join_stdio(near, Output()))
    os.write(keyboard, b"hello\n")
    assert await far.recv() == b"hello\n"
    far.write_eof()
    await joining
    assert os.isatty(terminal)
    assert os.get_blocking(terminal)


async def test_with_json_what_arrives_is_json_too(descriptors, monkeypatch, capsys):
    reading, writing = os.pipe()
    descriptors.append(reading)
    os.close(writing)
    Terminal(monkeypatch, reading, 1)
    near, far = FakePipe.pair()
    await far.send(b"\x00\n\xff")
    far.write_eof()
    await stdio.join_stdio(near, Output(json=True))
    (line,) = capsys.readouterr().out.splitlines()
    shown = json.loads(line)
    assert shown.pop("event") == "data"
    assert base64.b64decode(shown["base64"]) == b"\x00\n\xff"


async def test_datagrams_keep_their_limits_and_linger_for_answers(tmp_path, descriptors, monkeypatch):
    (tmp_path / "in").write_bytes(b"x" * 3000)
    reading = os.open(tmp_path / "in", os.O_RDONLY)
    output = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    descriptors += [reading, output]
    Terminal(monkeypatch, reading, output)
    near, far = FakePipe.pair(Mode.DATAGRAM)
    joining = asyncio.create_task(stdio.join_stdio(near, Output(), linger=0.3))
    assert [len(await far.recv()) for _ in range(3)] == [1200, 1200, 600]
    await asyncio.sleep(0.05)
    await far.send(b"answer")
    answered = asyncio.get_running_loop().time()
    await joining
    assert asyncio.get_running_loop().time() - answered > 0.28  # the answer has started the silence anew
    assert (tmp_path / "out").read_bytes() == b"answer"


async def test_a_listener_waits_for_the_datagram_peer_to_close(tmp_path, descriptors, monkeypatch):
    reading, writing = os.pipe()
    os.close(writing)
    output = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    descriptors += [reading, output]
    Terminal(monkeypatch, reading, output)
    near, far = FakePipe.pair(Mode.DATAGRAM)
    joining = asyncio.create_task(stdio.join_stdio(near, Output()))
    await asyncio.sleep(0.02)
    assert not joining.done()
    await far.send(b"late")
    await far.close()
    await joining
    assert (tmp_path / "out").read_bytes() == b"late"


async def test_a_reset_is_raised_though_stdin_stays_silent(descriptors, monkeypatch):
    typed_out, typed_in = os.pipe()
    descriptors += [typed_out, typed_in]
    Terminal(monkeypatch, typed_out, 1)
    near, far = FakePipe.pair()
    joining = asyncio.create_task(stdio.join_stdio(near, Output()))
    far.abort()
    with pytest.raises(PipeClosed):
        await joining


async def test_nobody_reading_stdout_is_a_broken_pipe(descriptors, monkeypatch):
    typed_out, typed_in = os.pipe()
    shown_out, shown_in = os.pipe()
    descriptors += [typed_out, typed_in, shown_in]
    os.close(shown_out)
    Terminal(monkeypatch, typed_out, shown_in)
    near, far = FakePipe.pair()
    await far.send(b"x")
    with pytest.raises(BrokenPipeError):
        await stdio.join_stdio(near, Output())


async def test_a_non_blocking_descriptor_is_waited_for(tmp_path, descriptors, monkeypatch):
    typed_out, typed_in = os.pipe()
    os.set_blocking(typed_out, False)
    output = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    descriptors += [typed_out, output]
    Terminal(monkeypatch, typed_out, output)
    near, far = FakePipe.pair()
    echoing = asyncio.create_task(echo_peer(far))
    joining = asyncio.create_task(stdio.join_stdio(near, Output()))
    await asyncio.sleep(0.01)
    os.write(typed_in, b"x")
    os.close(typed_in)
    await joining
    await echoing
    assert (tmp_path / "out").read_bytes() == b"x"
