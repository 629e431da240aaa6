"""A small name server on any `Network`, for nodes in virtual time and for tests: what it is asked is counted, and it
can be told to lie, to refuse, and to die. The real one is `warpgate serve`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from urllib.parse import unquote

import h11

from warpgate.errors import NetworkError, ProtocolError
from warpgate.model.endpoint import Endpoint
from warpgate.net.network import Network, TcpStream
from warpgate.proto.name_record import NameRecord, RecordKind, open_record
from warpgate.services.http_client import OCTETS

CHUNK = 65_536
CLOCK_SKEW = 300.0
PREFIX = "/v1/names/"

Reply = tuple[int, bytes]


class LabNameServer:
    """Up when made; `kill` and `revive` as for brokers. `close` in the end."""

    def __init__(self, network: Network, local: Endpoint, wall_clock: Callable[[], float]) -> None:
        self._network = network
        self._wall_clock = wall_clock
        self._streams: set[TcpStream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.records: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []  # method and path
        self.connections = 0
        # What to answer to a look-up of a name, and to a registration, instead of the truth.
        self.lie: Callable[[str], Reply] | None = None
        self.refusal: Reply | None = None
        self._listener = network.listen_tcp(local, self._accepted)
        self.local = self._listener.local

    @property
    def url(self) -> str:
        return f"http://{self.local}"

    def record(self, name: str) -> NameRecord:
        """KeyError when it has none."""
        return open_record(self.records[name])

    def count(self, method: str) -> int:
        """How many requests of this method came."""
        return sum(each == method for each, _ in self.requests)

    def kill(self) -> None:
        """Like the crash of a process: connections are reset, new ones refused; the records are on its disk."""
        self._listener.close()
        for stream in tuple(self._streams):
            stream.abort()

    def revive(self) -> None:
        self._listener = self._network.listen_tcp(self.local, self._accepted)

    async def close(self) -> None:
        self.kill()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accepted(self, stream: TcpStream) -> None:
        self.connections += 1
        self._streams.add(stream)
        task = asyncio.get_running_loop().create_task(self._serve(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: TcpStream) -> None:
        http = h11.Connection(h11.SERVER)
        try:
            while await self._answer_next(http, stream):
                http.start_next_cycle()
        except (NetworkError, h11.RemoteProtocolError):
            pass
        finally:
            self._streams.discard(stream)
            stream.close()

    async def _answer_next(self, http: h11.Connection, stream: TcpStream) -> bool:
        """Whether there was a request."""
        method, path, body = "", "", b""
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.ConnectionClosed):
                return False
            if isinstance(event, h11.Request):
                method, path = event.method.decode(), event.target.decode()
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                http.receive_data(await stream.recv(CHUNK))
        self.requests.append((method, path))
        status, answer = self._reply(method, path, body)
        headers = [("Content-Type", OCTETS), ("Content-Length", str(len(answer)))]
        head = h11.Response(status_code=status, headers=headers)
        events: tuple[h11.Event, ...] = (head, h11.Data(data=answer), h11.EndOfMessage())
        await stream.send(b"".join(http.send(each) or b"" for each in events))
        return True

    def _reply(self, method: str, path: str, body: bytes) -> Reply:
        if path == "/health":
            return 200, b'{"status": "ok"}'
        name = unquote(path.removeprefix(PREFIX))
        if method == "PUT":
            return self._take(name, body) if self.refusal is None else self.refusal
        if self.lie is not None:
            return self.lie(name)
        if name not in self.records:
            return refusal(404, "not_found", "no such name")
        return 200, self.records[name]

    def _take(self, name: str, body: bytes) -> Reply:
        try:
            record = open_record(body)
        except ProtocolError as error:
            return refusal(400, "malformed", str(error))
        if record.name != name:
            return refusal(400, "name_mismatch", "the record is of another name")
        if abs(record.issued - self._wall_clock()) > CLOCK_SKEW:
            return refusal(422, "clock", "the record is too old")
        if name in self.records and self.records[name] != body:
            stored = self.record(name)
            if stored.public_key != record.public_key:
                return refusal(409, "taken", f"{name!r} is registered by another key")
            if stored.sequence >= record.sequence:
                return refusal(409, "stale_sequence", "too low", stored.sequence)
        if record.kind is RecordKind.RELEASE:
            self.records.pop(name, None)
        else:
            self.records[name] = body
        return 200, b""


def refusal(status: int, code: str, reason: str, sequence: int | None = None) -> Reply:
    """As docs/names.md has it."""
    told = {"error": code, "reason": reason} | ({} if sequence is None else {"sequence": sequence})
    return status, json.dumps(told).encode()
