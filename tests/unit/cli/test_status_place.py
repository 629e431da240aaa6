"""Where a status is asked for: a socket in the file system, and what stands for one where a system has none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from warpgate.cli import status_door
from warpgate.cli.status_place import answering, ask
from warpgate.config import Config
from warpgate.errors import NetworkError
from warpgate.platform import SOCKETS
from warpgate_testing.clock import run_virtual

ANSWER = b"answer" * 50_000


@pytest.fixture(params=[True, False], ids=["socket", "port"])
def in_file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(SOCKETS, "in_file_system", request.param)
    return request.param


@pytest.fixture
def without_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SOCKETS, "in_file_system", False)


class Process:
    """Who is asked: it answers each at once, and keeps what became of it."""

    def __init__(self) -> None:
        self.outcomes: asyncio.Queue[str] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    def accepted(self, answer, stream) -> None:
        async def talk() -> None:
            try:
                await answer(stream)
            except NetworkError as error:
                stream.abort()
                self.outcomes.put_nowait(str(error))
            else:
                stream.close()
                self.outcomes.put_nowait("answered")

        task = asyncio.create_task(talk())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def test_who_may_read_the_file_gets_the_answer(in_file_system: bool, tmp_path: Path) -> None:
    path = tmp_path / "place.sock"
    process = Process()
    with answering(path, lambda: ANSWER, process.accepted):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_ISSOCK(path.stat().st_mode) is in_file_system
        assert await asyncio.gather(ask(path), ask(path)) == [ANSWER, ANSWER]
    assert os.listdir(tmp_path) == []
    with pytest.raises(NetworkError):
        await ask(path)


async def test_a_process_that_has_no_time_can_be_asked_again(in_file_system: bool, tmp_path: Path) -> None:
    path = tmp_path / "place.sock"
    process = Process()
    busy = True

    def accepted(answer, stream) -> None:
        if busy:
            stream.abort()
        else:
            process.accepted(answer, stream)

    with answering(path, lambda: ANSWER, accepted):
        with contextlib.suppress(NetworkError):  # an end without a word, where a socket is asked
            assert await ask(path) == b""
        busy = False
        assert await ask(path) == ANSWER


def port_in(path: Path) -> int:
    return int(path.read_text().split()[0])


def with_another_key(path: Path) -> Path:
    port, key = path.read_text().split()
    other = path.with_name("other")
    other.write_text(f"{port} {bytes(len(key) // 2).hex()}\n")
    return other


async def test_who_has_only_the_port_gets_nothing(without_sockets: None, tmp_path: Path) -> None:
    path = tmp_path / "place.sock"
    process = Process()
    with answering(path, lambda: ANSWER, process.accepted):
        with pytest.raises(NetworkError):
            await ask(with_another_key(path))
        assert await process.outcomes.get() == "who asks does not have the key"
        reader, writer = await asyncio.open_connection("127.0.0.1", port_in(path))
        writer.write(bytes(200))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(17)  # a nonce is all there is
        writer.close()
        assert await process.outcomes.get() == "who asks does not have the key"
        assert await ask(path) == ANSWER


async def test_a_proof_is_for_one_connection(without_sockets: None, tmp_path: Path) -> None:
    """Whoever listens where a killed process did may hear a proof: said to the next process it opens nothing."""
    path = tmp_path / "place.sock"
    process = Process()
    with answering(path, lambda: ANSWER, process.accepted):
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(bytes(16))
            heard.put_nowait(await reader.readexactly(48))
            writer.close()

        async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
            other = path.with_name("other")
            other.write_text(f"{server.sockets[0].getsockname()[1]} {path.read_text().split()[1]}\n")
            with pytest.raises(NetworkError):
                await ask(other)
        reader, writer = await asyncio.open_connection("127.0.0.1", port_in(path))
        writer.write(await heard.get())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(17)
        writer.close()
        assert await process.outcomes.get() == "who asks does not have the key"


async def test_another_program_at_the_port_is_not_believed(without_sockets: None, tmp_path: Path) -> None:
    """The process was killed, and somebody else listens there now: that is told, and its file goes."""

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(16))
        await reader.readexactly(48)
        writer.write(bytes(32) + b'{"pid": 1}')
        writer.close()

    async with await asyncio.start_server(lie, "127.0.0.1", 0) as server:
        path = tmp_path / "place.sock"
        path.write_text(f"{server.sockets[0].getsockname()[1]} {bytes(32).hex()}\n")
        with pytest.raises(NetworkError, match="another program has the port"):
            await ask(path)
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "one", "70000 00", "1 zz", "x" * 200, "-1 00", "1 00 00"])
async def test_a_file_that_is_none_of_ours(without_sockets: None, tmp_path: Path, text: str) -> None:
    path = tmp_path / "place.sock"
    path.write_text(text)
    with pytest.raises(NetworkError):
        await ask(path)


async def test_what_a_killed_process_has_left_behind_goes(in_file_system: bool, tmp_path: Path) -> None:
    path = tmp_path / "place.sock"
    if in_file_system:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    else:
        with socket.socket() as left:
            left.bind(("127.0.0.1", 0))
            path.write_text(f"{left.getsockname()[1]} {bytes(32).hex()}\n")
    with pytest.raises(NetworkError):
        await ask(path)
    assert not path.exists()


class Silent:
    """Who asks, and then takes nothing of the answer."""

    aborted = False

    async def send(self, data: bytes) -> None:
        await asyncio.Event().wait()

    def close(self) -> None: ...

    def abort(self) -> None:
        self.aborted = True


def test_eight_at_a_time_are_told_and_who_takes_nothing_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    doors: list[Any] = []

    @contextlib.contextmanager
    def caught(path: Path, answer: Any, accepted: Any) -> Iterator[None]:
        doors.append(accepted)
        yield

    async def story() -> None:
        shell = SimpleNamespace(settings=SimpleNamespace(config=Config()))
        async with status_door.told(None, shell, "listen"):  # type: ignore[arg-type]
            crowd = [Silent() for _ in range(20)]
            for stream in crowd:
                doors[0](lambda stream: stream.send(ANSWER), stream)
            await asyncio.sleep(4.9)
            assert [stream.aborted for stream in crowd] == [False] * 8 + [True] * 12
            await asyncio.sleep(0.2)
            assert all(stream.aborted for stream in crowd)
            doors[0](lambda stream: stream.send(ANSWER), after := Silent())
            await asyncio.sleep(0.1)
            assert not after.aborted

    monkeypatch.setattr(status_door, "answering", caught)
    run_virtual(story())
