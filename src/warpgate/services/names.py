"""Clients of name servers (docs/names.md): one server, and all that are configured as one.

Servers are not believed: an answer counts only if the owner of the name signed it, for this name, and it is neither
out of date nor older than what was seen before. So a server can hide a name or fail, and no more. A look-up asks all
servers at once, one request each; the newest record wins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import msgspec

from warpgate.errors import NameNotFound, NameRefused, NetworkError, ServiceError, WarpgateError
from warpgate.events import Observer, ServerFailed
from warpgate.lazy_dataclass import dataclass
from warpgate.model.contact import Contact
from warpgate.model.servers import NameServerUrl
from warpgate.model.text import printable
from warpgate.net.network import Network
from warpgate.net.tls import Trust
from warpgate.services.http_client import HttpClient
from warpgate.services.name_answers import Found, NameAnswers
from warpgate.services.proxy import Proxies

if TYPE_CHECKING:
    from warpgate.services.http_connection import Answer

T = TypeVar("T")

SERVICE = "names"
# A user waits for a look-up; a server that takes longer is taken to be dead.
LOOK_UP_PATIENCE = 2.0
# A writing one waits for the disk, and nobody waits for it.
PUBLISH_PATIENCE = 5.0
# With one good answer there: how long the others may take to have a newer one, unless the first took longer itself.
GRACE = 0.05


class _Refusal(msgspec.Struct):
    """The JSON of an answer that is no record."""

    error: str = ""
    reason: str = ""
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class NameServerCheck:
    """What one server did when asked how it is: `seconds` of a round trip, or the `error`.

    `ahead`: by how many seconds our clock is ahead of its own, within one; None where it does not tell.
    """

    server: str
    seconds: float = 0.0
    error: str = ""
    ahead: float | None = None


class NameServer:
    """One server. Every verb raises ServiceError with a reason that does not name the server."""

    def __init__(self, network: Network, url: NameServerUrl, trust: Trust) -> None:
        self.url = str(url)
        self._client = HttpClient(network, url, trust, Proxies())
        # Whether it answered when it was last asked; None before that.
        self.answers: bool | None = None
        self._waiting: set[asyncio.Timeout] = set()
        self._closed = False

    async def warm(self) -> None:
        """Have a connection ready."""
        await self._attempt(self._client.warm(), PUBLISH_PATIENCE)

    async def look_up(self, name: str) -> bytes:
        """What it says is the record of a folded name, unchecked. NameNotFound."""
        answer = await self._attempt(self._client.ask("GET", _path(name)), LOOK_UP_PATIENCE)
        if answer.status == 404:
            raise NameNotFound("it knows no such name")
        if answer.status != 200:
            raise _refused(answer)
        return answer.body

    async def publish(self, name: str, sealed: bytes) -> None:
        """Give it a record, which it has when this returns. NameRefused."""
        answer = await self._attempt(self._client.ask("PUT", _path(name), sealed), PUBLISH_PATIENCE)
        if answer.status not in (200, 201, 204):
            raise _refused(answer)

    async def check(self, wall_clock: Callable[[], float]) -> NameServerCheck:
        """Whether it is well, and the time of a request on an open connection."""
        try:
            await self.warm()
            began = asyncio.get_running_loop().time()
            answer = await self._attempt(self._client.ask("GET", "/health"), LOOK_UP_PATIENCE)
            seconds = asyncio.get_running_loop().time() - began
            if answer.status != 200:
                raise _refused(answer)
        except WarpgateError as error:
            return NameServerCheck(self.url, error=str(error))
        return NameServerCheck(self.url, seconds, ahead=_ahead(answer.date, wall_clock() - seconds / 2))

    async def close(self) -> None:
        """Whoever waits for it gets a ServiceError."""
        self._closed = True
        for timeout in self._waiting:
            timeout.reschedule(asyncio.get_running_loop().time())
        await self._client.close()

    async def _attempt(self, request: Coroutine[None, None, T], patience: float) -> T:
        timeout = asyncio.timeout(patience)
        try:
            async with timeout:
                self._waiting.add(timeout)
                result = await request
        except TimeoutError:
            self.answers = False
            raise ServiceError("closed on this side" if self._closed else f"no answer within {patience:g} s") from None
        except (NetworkError, ServiceError) as error:
            self.answers = False
            raise ServiceError(str(error)) from None
        finally:
            self._waiting.discard(timeout)
        self.answers = True
        return result


class NameServers:
    """All servers of the settings. Life: made, used, `close`."""

    def __init__(
        self,
        network: Network,
        urls: Sequence[str],
        emit: Observer,
        *,
        trust: Trust | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`trust`: None for the system's authorities. ConfigError for what is no URL of a name server."""
        trust = Trust() if trust is None else trust
        parsed = dict.fromkeys(NameServerUrl.parse(url) for url in urls)
        self.servers = tuple(NameServer(network, url, trust) for url in parsed)
        self._emit = emit
        self._wall_clock = wall_clock

    async def warm(self) -> None:
        """Have a connection to each server ready; those that cannot be reached are told by events."""
        await asyncio.gather(*(self._warm(server) for server in self.servers))

    async def look_up(self, name: str, known: Awaitable[Contact | None]) -> Found:
        """The newest record of a folded name, as `NameAnswers` judges them.

        `known` is awaited while the servers are on it. NameNotFound, ServiceError (with every server's reason),
        PeerKeyChanged when the known contact has another key; and what `known` raises.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        answers: NameAnswers | None = None
        pending = {loop.create_task(server.look_up(name)): server for server in self.servers}
        deadline = began + LOOK_UP_PATIENCE + GRACE  # each has its own time-out
        try:
            answers = NameAnswers(name, await known)
            while pending and (left := deadline - loop.time()) > 0:
                done, _ = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in pending if task in done]:
                    self._judge(answers, pending.pop(task), task, loop.time() - began)
                if answers.found:
                    if all(server.answers is False for server in pending.values()):
                        break
                    deadline = min(deadline, loop.time() + max(GRACE, loop.time() - began))
        finally:
            for task, server in pending.items():
                task.cancel()
                if answers is not None and answers.found:
                    server.answers = False  # next time nobody waits for it
            if pending:
                await asyncio.wait(pending)
        return answers.verdict()

    def _judge(self, answers: NameAnswers, server: NameServer, task: asyncio.Task[bytes], seconds: float) -> None:
        """An answer that cannot be believed is the server's failure."""
        try:
            answers.take(server.url, task.result(), seconds, self._wall_clock())
        except NameNotFound as error:
            answers.failed(server.url, error)
        except WarpgateError as error:
            answers.failed(server.url, error)
            self._emit(ServerFailed(SERVICE, server.url, str(error)))

    async def check(self) -> tuple[NameServerCheck, ...]:
        """How each of them is: for doctor."""
        return tuple(await asyncio.gather(*(server.check(self._wall_clock) for server in self.servers)))

    async def close(self) -> None:
        await asyncio.gather(*(server.close() for server in self.servers))

    async def _warm(self, server: NameServer) -> None:
        try:
            await server.warm()
        except WarpgateError as error:
            self._emit(ServerFailed(SERVICE, server.url, str(error)))


def _ahead(date: str, now: float) -> float | None:
    """By the server's Date field (RFC 9110 section 6.6.1), which has whole seconds: half of one more, on average."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - 15 ms, and doctor alone asks

    try:
        return now - (parsedate_to_datetime(date).timestamp() + 0.5)
    except ValueError:
        return None


def _path(name: str) -> str:
    return f"/v1/names/{quote(name, safe='')}"


def _refused(answer: Answer) -> ServiceError:
    """The error for an answer that is neither a record nor "no such name"."""
    if 300 <= answer.status < 400:
        return ServiceError(f"it redirects to {printable(answer.location)}: configure that URL if you trust it")
    try:
        said = msgspec.json.decode(answer.body, type=_Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = _Refusal()
    if answer.status >= 500 or not said.error:
        return ServiceError(f"it answered with status {answer.status}")
    reason = printable(said.reason or said.error)
    return NameRefused(reason, printable(said.error), said.sequence, answer.retry_after)
