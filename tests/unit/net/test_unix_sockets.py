"""Sockets in the file system: who may connect, what is left of them, and what is not taken away from others."""

from __future__ import annotations

import asyncio
import socket
import stat

import pytest

from warpgate.errors import NetworkError
from warpgate.net.stream import SocketStream
from warpgate.net.unix import UnixListener, dial_unix


async def test_bytes_and_ends_both_ways(tmp_path):
    path = str(tmp_path / "socket")
    accepted: asyncio.Queue[SocketStream] = asyncio.Queue()
    listener = UnixListener(path, accepted.put_nowait)
    near = await dial_unix(path)
    far = await accepted.get()
    await near.send(b"question")
    near.write_eof()
    assert await far.recv(100) == b"question"
    assert await far.recv(100) == b""
    await far.send(b"answer")
    far.close()
    assert await near.recv(100) == b"answer"
    assert await near.recv(100) == b""
    near.close()
    listener.close()
    assert list(tmp_path.iterdir()) == []


async def test_only_this_user_may_connect(tmp_path):
    listener = UnixListener(str(tmp_path / "socket"), lambda stream: stream.abort())
    assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == 0o600
    listener.close()


async def test_what_a_killed_program_left_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "socket"))
        left.listen()
    UnixListener(str(tmp_path / "socket"), lambda stream: stream.abort()).close()


async def test_a_socket_in_use_is_not_taken(tmp_path):
    path = str(tmp_path / "socket")
    first = UnixListener(path, lambda stream: stream.abort())
    with pytest.raises(NetworkError, match="already in use"):
        UnixListener(path, lambda stream: stream.abort())
    (await dial_unix(path)).close()
    first.close()


async def test_a_file_is_not_removed(tmp_path):
    (tmp_path / "socket").write_text("precious")
    with pytest.raises(NetworkError, match="already in use"):
        UnixListener(str(tmp_path / "socket"), lambda stream: stream.abort())
    assert (tmp_path / "socket").read_text() == "precious"


async def test_another_that_took_the_place_is_not_removed(tmp_path):
    path = str(tmp_path / "socket")
    first = UnixListener(path, lambda stream: stream.abort())
    (tmp_path / "socket").unlink()
    second = UnixListener(path, lambda stream: stream.abort())
    first.close()
    (await dial_unix(path)).close()
    second.close()


@pytest.mark.parametrize("name", ["missing", "x" * 200, "a\0b"])
async def test_a_place_where_there_is_none(tmp_path, name):
    with pytest.raises(NetworkError, match="connect to "):
        await dial_unix(str(tmp_path / name))
