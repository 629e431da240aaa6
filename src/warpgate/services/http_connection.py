"""One HTTP/1.1 connection of a client (RFC 9112): h11 knows the protocol, one task reads.

Imported when the first one is opened: `http_client.connection_class`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import h11

from warpgate.errors import NetworkError, ServiceError
from warpgate.lazy_dataclass import dataclass
from warpgate.net.network import TcpStream

# All bytes of one answer. What we ask for has 2 kB at most; header fields of real servers have 300 bytes.
LARGEST_ANSWER = 16 * 1024
CHUNK = 16 * 1024
# Heads, chunks and pieces of one answer: each takes h11 up to 0.2 ms, however short it is.
MOST_EVENTS = 2048
USER_AGENT = "warpgate"

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A final response: `retry_after` in seconds, 0.0 where the server gives none in seconds."""

    status: int
    body: bytes
    location: str = ""
    retry_after: float = 0.0
    date: str = ""


class HttpConnection:
    """Read all the time, so that its end is seen while it rests, too. Whatever a server sends counts against one
    limit: an endless body, endless header fields, endless provisional answers.
    """

    def __init__(
        self, stream: TcpStream, on_end: Callable[[HttpConnection], None], limit: int = LARGEST_ANSWER
    ) -> None:
        """Takes over the stream. `limit` in bytes, for each answer."""
        self._stream = stream
        self._limit = limit
        self._http = h11.Connection(h11.CLIENT)
        self._waiting: asyncio.Future[Answer] | None = None
        self._head: h11.Response | None = None
        self._body = bytearray()
        self._received = 0
        self._events = 0
        self._resting: asyncio.TimerHandle | None = None
        self._reading = asyncio.get_running_loop().create_task(self._read(), name=f"HTTP {stream.remote}")
        self._reading.add_done_callback(lambda _: on_end(self))

    @property
    def usable(self) -> bool:
        """For another request."""
        return not self._reading.done() and self._http.our_state is h11.IDLE

    @property
    def heard(self) -> bool:
        """Whether anything of the present answer has come."""
        return self._received > 0

    async def ask(self, method: str, target: str, authority: str, body: bytes | None, fields: Fields = ()) -> Answer:
        """The final response, whatever its status. `fields` are sent besides the usual ones.

        NetworkError when the connection ends before it; ServiceError when it is not HTTP, too long, or compressed
        although that was not asked for: what it unpacks to has no limit.
        """
        if self._resting is not None:
            self._resting.cancel()
        self._received, self._events, self._head = 0, 0, None
        self._body.clear()
        if self._reading.done():
            raise NetworkError("the server has closed the connection")
        data = self._encode(method, target, authority, body, fields)
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._stream.send(data)
            return await self._waiting
        finally:
            self._waiting.cancel()

    def _encode(self, method: str, target: str, authority: str, body: bytes | None, fields: Fields) -> bytes:
        headers = [("Host", authority), ("User-Agent", USER_AGENT), ("Accept-Encoding", "identity"), *fields]
        if body is not None:
            headers.append(("Content-Length", str(len(body))))
        events: list[h11.Event] = [h11.Request(method=method, target=target, headers=headers)]
        events += [h11.Data(data=body)] if body else []
        return b"".join(self._http.send(event) or b"" for event in (*events, h11.EndOfMessage()))

    def rest(self, seconds: float) -> None:
        """Nobody needs it now: close it after so long."""
        self._resting = asyncio.get_running_loop().call_later(seconds, self.close)

    def close(self) -> asyncio.Task[None]:
        """At once; all is over when the task is done. Idempotent."""
        if self._resting is not None:
            self._resting.cancel()
        self._stream.close()
        self._reading.cancel()
        return self._reading

    @property
    def _unanswered(self) -> bool:
        return self._waiting is not None and not self._waiting.done()

    async def _read(self) -> None:
        error: NetworkError | ServiceError = NetworkError("the server hung up")
        try:
            while data := await self._stream.recv(CHUNK):
                if not self._unanswered:
                    break  # it speaks without being asked
                self._take(data)
            if self.heard and self._unanswered:
                self._take(b"")  # for a body that ends with the connection
        except (NetworkError, ServiceError) as caught:
            error = caught
        finally:
            if self._resting is not None:
                self._resting.cancel()
            self._stream.close()
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_exception(error)

    def _take(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self._limit:
            raise ServiceError(f"the answer has more than {self._limit} bytes")
        try:
            self._http.receive_data(data)
            while (event := self._http.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                self._events += 1
                if self._events > MOST_EVENTS:
                    raise ServiceError("the answer comes in too many pieces")
                if isinstance(event, h11.Response):
                    self._check_plain(event)
                    self._head = event
                elif isinstance(event, h11.Data):
                    self._body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    self._finish()
                    return
        except h11.RemoteProtocolError as error:
            raise ServiceError(f"the answer is not HTTP: {error}") from None

    @staticmethod
    def _check_plain(head: h11.Response) -> None:
        if dict(head.headers).get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
            raise ServiceError("the answer is compressed, although that was not asked for")

    def _finish(self) -> None:
        head, waiting = self._head, self._waiting
        if head is None or waiting is None:
            raise ServiceError("the answer has no head")
        fields = dict(head.headers)
        after = fields.get(b"retry-after", b"")
        answer = Answer(
            head.status_code,
            bytes(self._body),
            fields.get(b"location", b"").decode("latin-1"),
            float(after) if after.isdigit() and len(after) < 10 else 0.0,
            fields.get(b"date", b"").decode("latin-1"),
        )
        ready = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        if ready and not self._http.trailing_data[0]:
            self._http.start_next_cycle()
        waiting.set_result(answer)
