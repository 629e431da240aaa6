"""Sockets in the file system (unix(7)): what programs on this machine meet at, a path instead of a port."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress

from warpgate.errors import NetworkError
from warpgate.net.sockets import network_error
from warpgate.net.stream import BACKLOG, SocketListener, SocketStream
from warpgate.platform import SOCKETS

# Who may connect: this user. TCP on the loopback address is open to every user of the machine; a path need not be.
_ONLY_THIS_USER = 0o177
_BACKLOG_PAUSE = 0.05


class UnixListener(SocketListener[SocketStream]):
    """Its socket's file goes with it, unless another has taken the place."""

    def __init__(self, path: str, acceptor: Callable[[SocketStream], None]) -> None:
        """NetworkError where there can be none, and when another program accepts there already."""
        sock = _listening(path)
        super().__init__(sock, lambda accepted, _: _stream(accepted, path), acceptor)
        self._path = path
        self._file = _file_at(path)

    def close(self) -> None:
        if self._file is not None and _file_at(self._path) == self._file:
            with suppress(OSError):
                os.unlink(self._path)
        self._file = None
        super().close()


async def dial_unix(path: str) -> SocketStream:
    """NetworkError when nobody accepts there."""
    sock = _new_socket(path)
    try:
        code = sock.connect_ex(path)
        while code == errno.EAGAIN:  # the backlog is full: unlike TCP, the kernel does not queue us (connect(2))
            await asyncio.sleep(_BACKLOG_PAUSE)
            code = sock.connect_ex(path)
        if code:
            raise SOCKETS.failure(code)
        return _stream(sock, path)
    except (OSError, ValueError) as error:
        sock.close()
        raise _failed(f"connect to {path}", error) from error
    except BaseException:
        sock.close()
        raise


def _listening(path: str) -> socket.socket:
    sock = _new_socket(path)
    try:
        remove_left_over(path)
        mask = os.umask(_ONLY_THIS_USER)
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
        sock.listen(BACKLOG)
    except (OSError, ValueError) as error:
        sock.close()
        raise _failed(f"listen at {path}", error) from error
    return sock


def remove_left_over(path: str) -> None:
    """A socket at which nobody accepts any more: its program was killed. OSError when it cannot be told."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with SOCKETS.unix_socket() as probe:
            probe.setblocking(False)
            if probe.connect_ex(path) == errno.ECONNREFUSED:
                os.unlink(path)


def _new_socket(path: str) -> socket.socket:
    try:
        sock = SOCKETS.unix_socket()
    except OSError as error:
        raise NetworkError(f"{path}: {error.strerror}") from error
    sock.setblocking(False)
    return sock


def _stream(sock: socket.socket, path: str) -> SocketStream:
    sock.setblocking(False)
    return SocketStream(sock, path)


def _file_at(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _failed(doing: str, error: OSError | ValueError) -> NetworkError:
    """Python says itself that a path is too long (108 bytes on Linux), or has a zero in it."""
    if isinstance(error, OSError) and error.errno is not None:
        return network_error(doing, error)
    return NetworkError(f"{doing}: {error}")
