"""Where a process of this user's is asked for its status: a socket in the file system, open to this user alone.

Where the system has none (Windows as Python knows it), the file at that path holds a port of the loopback address and a
key. Any user's program can connect to a port, and after a crash any can listen there, so both sides show that they have
read the file, whose access list is that of a private key:

    process -> asker   nonce of 16 bytes
    asker -> process   nonce of 16 bytes, HMAC-SHA-256(key, "ask" + both nonces)
    process -> asker   HMAC-SHA-256(key, "answer" + both nonces + answer), the answer, the end
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

from warpgate.core.disk.whole_file import read_small, replace_file
from warpgate.errors import AddressError, NetworkError
from warpgate.model.endpoint import Endpoint
from warpgate.net.network import read_exactly
from warpgate.net.system import SystemNetwork
from warpgate.net.unix import UnixListener, dial_unix, remove_left_over
from warpgate.platform import FILES, SOCKETS

LARGEST_ANSWER = 8 * 1024 * 1024  # 400 bytes for a pipe: 20,000 of them
HERE = "127.0.0.1"
_KEY_SIZE, _NONCE_SIZE, _PROOF_SIZE = 32, 16, 32
_LARGEST_FILE = 128


class Stream(Protocol):
    async def recv(self, limit: int) -> bytes: ...
    async def send(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


Accepted = Callable[[Callable[[Stream], Awaitable[None]], Stream], None]


@contextlib.contextmanager
def answering(path: Path, answer: Callable[[], bytes], accepted: Accepted) -> Iterator[None]:
    """While the block lasts, `accepted` is called for whoever asks at `path`, with what answers and the connection.

    NetworkError, OSError.
    """
    if SOCKETS.in_file_system:
        with (
            FILES.short_path(path) as reachable,
            contextlib.closing(UnixListener(reachable, partial(accepted, partial(_say, answer)))),
        ):
            yield
        return
    key = secrets.token_bytes(_KEY_SIZE)
    say = partial(_say_to_who_knows, key, answer)
    with contextlib.closing(SystemNetwork().listen_tcp(Endpoint.of(HERE, 0), partial(accepted, say))) as listener:
        replace_file(path, f"{listener.local.port} {key.hex()}\n".encode("ascii"))
        try:
            yield
        finally:
            _remove(path)


async def ask(path: Path) -> bytes:
    """The answer. NetworkError when nobody is there, and then what a killed process has left behind is gone."""
    if not SOCKETS.in_file_system:
        return await _ask_at_port(path)
    with FILES.short_path(path) as reachable:
        try:
            return await _all_from(await dial_unix(reachable))
        except NetworkError:
            with contextlib.suppress(OSError):
                remove_left_over(reachable)
            raise


async def _say(answer: Callable[[], bytes], stream: Stream) -> None:
    await stream.send(answer())


async def _say_to_who_knows(key: bytes, answer: Callable[[], bytes], stream: Stream) -> None:
    ours = secrets.token_bytes(_NONCE_SIZE)
    await stream.send(ours)
    nonces = ours + await _exactly(stream, _NONCE_SIZE)
    if not hmac.compare_digest(await _exactly(stream, _PROOF_SIZE), _proof(key, b"ask", nonces)):
        raise NetworkError("who asks does not have the key")
    said = answer()
    await stream.send(_proof(key, b"answer", nonces + said) + said)


async def _ask_at_port(path: Path) -> bytes:
    """The file stays where the process only has no time, or may have."""
    where, key = _place(path)
    try:
        stream = await SystemNetwork().dial_tcp(where)
    except NetworkError as error:
        if isinstance(error.__cause__, ConnectionRefusedError):  # nobody listens there
            _remove(path)
        raise
    try:
        ours = secrets.token_bytes(_NONCE_SIZE)
        nonces = await _exactly(stream, _NONCE_SIZE) + ours
        await stream.send(ours + _proof(key, b"ask", nonces))
        proof = await _exactly(stream, _PROOF_SIZE)
        answer = await _all_from(stream)
    finally:
        stream.abort()
    if not hmac.compare_digest(proof, _proof(key, b"answer", nonces + answer)):
        _remove(path)
        raise NetworkError("another program has the port")
    return answer


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _place(path: Path) -> tuple[Endpoint, bytes]:
    try:
        port, key = read_small(path, _LARGEST_FILE).decode("ascii").split()
        return Endpoint.of(HERE, int(port)), bytes.fromhex(key)
    except (OSError, ValueError, AddressError) as error:
        raise NetworkError(f"{path} names no port and key") from error


def _proof(key: bytes, what: bytes, said: bytes) -> bytes:
    return hmac.digest(key, what + said, "sha256")


async def _exactly(stream: Stream, size: int) -> bytes:
    return await read_exactly(stream.recv, size, NetworkError("the connection ended"))


async def _all_from(stream: Stream) -> bytes:
    try:
        answer = b""
        while len(answer) < LARGEST_ANSWER and (more := await stream.recv(65536)):
            answer += more
        return answer
    finally:
        stream.abort()
