"""The paths of a connection: what carries its datagrams between an endpoint of ours and one of the peer's.

Each was proved by a session of its own, which is over; what is left of it is here. A path belongs to one connection
from the first datagram on that names it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from warpgate.core.tasks import Tasks
from warpgate.core.udp.demultiplexer import UNVALIDATED_DATAGRAMS, Demultiplexer, FlowKey, SessionChecks
from warpgate.core.udp.outflow import Outflow
from warpgate.errors import NetworkError, ProtocolError, WarpgateError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.net.network import TcpStream
from warpgate.plan.ages import Life
from warpgate.plan.paths import PathState, ask_after
from warpgate.proto.check import CheckEvent, CheckingEnded, PathValidated
from warpgate.proto.datagram_frames import FrameReader, encode_frame

# Of datagrams that wait for a slow TCP path; what exceeds it is lost, and QUIC slows down.
TCP_BACKLOG = 256 * 1024
READ = 64 * 1024
# What waits for a TCP path when it is closed, the connection's last word most of all, is sent within so many seconds.
LAST_WORD = 0.5
# Datagrams that wait until a UDP path is validated: QUIC has no more on their way at first, and need not repeat them.
HELD = 32
# Datagrams that are sent by a new path even if another one is used: the first that arrives claims it at the other end.
GREETINGS = 3
# The first datagrams of a path are said again while nothing answers: the handshake's end and the first data. QUIC would
# wait for three round trips as it knows them, and the one that it has seen went by way of signals.
FIRST_WORDS = 8
# So often at most: a peer that answers nothing more gets 50 kB by it.
SAID_AGAIN = 5


@dataclass(frozen=True, slots=True)
class Origin:
    """How a path came about."""

    session: bytes
    peer_key: bytes
    plugin: str
    transport: Transport
    local: Endpoint
    remote: Endpoint
    relayed: bool

    @property
    def told(self) -> tuple[str, str, str, str, bool]:
        """As events say it: by which plugin, over what, from where to where, and whether over a relay."""
        return self.plugin, self.transport.value, str(self.local), str(self.remote), self.relayed


Deliver = Callable[["Path", list[bytes]], bool]


def _nobody(_path: Path, _datagrams: list[bytes]) -> bool:
    return False


def _no_matter(_path: Path, _reason: str) -> None:
    return


def _nothing() -> None:
    return


class Path(ABC):
    """`deliver` gets what comes by it, `on_lost` the reason when it is over, once at most."""

    def __init__(self, origin: Origin, now: float, expected: float, longest: float) -> None:
        """Its round trip in seconds, until that is measured: what it probably is, and what it may be."""
        self.origin = origin
        self.opened = now
        self.heard = now  # when something of the peer's came by it last
        self.round_trip: float | None = None
        self.expected = expected
        self.longest = longest
        self.silent = False
        self.number = 0  # its connection counts
        self.greetings = GREETINGS
        self._first_words: list[bytes] | None = []  # None: one of them was answered
        self._said_again = 0
        self.begun = False  # whether a client's first packets have left by it
        self.deliver: Deliver = _nobody  # in order; whether they were of a connection that we know
        self.on_lost: Callable[[Path, str], None] = _no_matter
        self.on_room: Callable[[], None] = _nothing  # it was full, and is not any more
        self.lost = False

    def __repr__(self) -> str:
        origin = self.origin
        return f"<{type(self).__name__} {origin.plugin} {origin.local} -> {origin.remote}>"

    @property
    def state(self) -> PathState:
        return PathState(self.number, self.origin.relayed, self.round_trip, self.silent)

    @property
    def known_round_trip(self) -> float:
        """As measured, or as long as it may be."""
        return self.longest if self.round_trip is None else self.round_trip

    def ask_after(self, times: int) -> float:
        """Seconds until what was asked so often is asked again: the question, or the answer, may be lost."""
        return ask_after(self.expected if self.round_trip is None else self.round_trip, self.known_round_trip, times)

    @property
    def life(self) -> Life:
        origin = self.origin
        return Life((origin.local.ip, origin.remote.ip), not origin.relayed, self.opened, self.heard)

    @abstractmethod
    def start(self) -> None:
        """`deliver` is set: it gets what came already."""

    @abstractmethod
    def route(self, ids: tuple[bytes, ...]) -> None:
        """Datagrams with these connection ids are for its connection from now on; before, what nobody else takes."""

    @property
    @abstractmethod
    def full(self) -> bool:
        """Whether what is sent now would be lost."""

    @abstractmethod
    def send(self, datagrams: Sequence[bytes]) -> None:
        """In this order, now or as soon as it can be."""

    def say(self, datagrams: Sequence[bytes]) -> None:
        """`send`, and remember it while it is among the first."""
        if self._first_words is not None:
            self._first_words += datagrams[: FIRST_WORDS - len(self._first_words)]
        self.send(datagrams)

    def say_again(self) -> None:
        if self._first_words and self._said_again < SAID_AGAIN:
            self._said_again += 1
            self.send(self._first_words)

    def answered(self, *, confirmed: bool) -> None:
        """A ping was. Servers do so before they have their client's proof: until it is `confirmed` it is said again."""
        if confirmed:
            self._first_words = None

    def took(self, seconds: float) -> None:
        """An answer; smoothed, for many of them come."""
        known = self.round_trip
        self.round_trip = seconds if known is None else 0.75 * known + 0.25 * seconds

    @abstractmethod
    def close(self) -> None:
        """Tell the peer; synchronous and idempotent."""

    async def closed(self) -> None:
        """After `close`, until what was sent has left."""

    @abstractmethod
    def abandon(self) -> None:
        """Let go of it without a word: it leads nowhere."""

    def let_go(self) -> None:
        """Of the connection, which is over."""
        self.deliver, self.on_lost, self.on_room = _nobody, _no_matter, _nothing

    def _arrived(self, datagrams: list[bytes]) -> bool:
        return not self.lost and self.deliver(self, datagrams)

    def _lose(self, reason: str) -> None:
        if not self.lost:
            self.lost = True
            self.on_lost(self, reason)


class UdpPath(Path):
    """A nominated pair: consent is asked for as long as it lives."""

    def __init__(
        self,
        origin: Origin,
        now: float,
        expected: float,
        longest: float,
        udp: Demultiplexer,
        checks: SessionChecks,
        own_port: bool,
    ) -> None:
        """`own_port`: the socket was opened for this path alone and is left with it. NetworkError when it is closed."""
        super().__init__(origin, now, expected, longest)
        self._udp = udp
        self._port = udp.port(origin.local)
        self._checks = checks
        self._own_port = own_port
        self._key: FlowKey = origin.remote.sockaddr
        self._ids: tuple[bytes, ...] = ()
        greeted = checks.greeted.get((origin.local, origin.remote), 0)
        # Of those that may leave before the path is validated one is kept for the connection's last word: once that is
        # said nothing is validated any more, and without it the peer would look for whoever has just left.
        self._last_words = min(1, max(0, UNVALIDATED_DATAGRAMS - greeted))
        self._unvalidated = max(0, UNVALIDATED_DATAGRAMS - greeted - 1)
        self._held: list[bytes] = []
        self._newest: Sequence[bytes] = ()  # of those that were held, or were too many
        self._outflow = Outflow(self._port.socket, self._key, self._has_room)
        self._early = udp.take_early(self._port, self._key)
        checks.stop_expecting()
        self._port.unclaimed[self._key] = self._arrived
        checks.hand_over(self._check_event, relayed=origin.relayed)

    def start(self) -> None:
        while self._early:
            if data := self._early.popleft():
                self._arrived([data])

    def route(self, ids: tuple[bytes, ...]) -> None:
        self._ids = ids
        self._port.route(self._key, ids, self._arrived)
        for connection_id in ids:
            self._early.extend(self._udp.take_ahead(connection_id, self._port, self._key))
        self._unclaim()

    def _unclaim(self) -> None:
        if self._port.unclaimed.get(self._key) == self._arrived:
            del self._port.unclaimed[self._key]

    @property
    def full(self) -> bool:
        return self._outflow.full

    def _has_room(self) -> None:
        self.on_room()

    def send(self, datagrams: Sequence[bytes]) -> None:
        if not self._checks.agent.path_validated:
            now, later = datagrams[: self._unvalidated], datagrams[self._unvalidated :]
            self._held += later[: HELD - len(self._held)]
            self._newest = later[-1:] or self._newest
            self._unvalidated -= len(now)
            datagrams = now
        self._outflow.send(datagrams)

    def _check_event(self, event: CheckEvent) -> None:
        if isinstance(event, PathValidated):
            held, self._held = self._held, []
            self.send(held)
        elif isinstance(event, CheckingEnded):
            self._release()
            self._lose(event.reason)

    def close(self) -> None:
        self.lost = True
        if not self._checks.agent.path_validated:
            self._outflow.send(self._newest[: self._last_words])
            self._last_words = 0
        self._unroute()
        self._checks.close()  # `_check_event` is told when the peer has answered, or soon

    def abandon(self) -> None:
        self.lost = True
        self._release()

    def _unroute(self) -> None:
        self._unclaim()
        self._port.unroute(self._key, self._ids, self._arrived)  # not a newer path's between the same endpoints

    def _release(self) -> None:
        self._outflow.close()
        self._unroute()
        self._udp.forget(self._checks)
        if self._own_port:
            self._udp.leave_port(self._port.base, relayed=self.origin.relayed)


class TcpPath(Path):
    """A nominated TCP link that carries datagrams, each with its length before it (RFC 4571)."""

    def __init__(
        self, origin: Origin, now: float, expected: float, longest: float, stream: TcpStream, tasks: Tasks
    ) -> None:
        super().__init__(origin, now, expected, longest)
        self._stream = stream
        self._backlog: list[bytes] = []
        self._waiting = 0
        self._more = asyncio.Event()
        self._frames = FrameReader()
        self._closing = False
        self._tasks = tasks
        self._reading: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None

    def start(self) -> None:
        remote = self.origin.remote
        self._reading = self._tasks.spawn(f"path from {remote}", self._read())
        self._writing = self._tasks.spawn(f"path to {remote}", self._write())

    def route(self, ids: tuple[bytes, ...]) -> None:
        """A link carries one connection."""

    @property
    def full(self) -> bool:
        return self._waiting >= TCP_BACKLOG

    def send(self, datagrams: Sequence[bytes]) -> None:
        for data in datagrams:
            if self.full:
                return
            self._backlog.append(encode_frame(data))
            self._waiting += len(data)
            self._more.set()

    async def _read(self) -> None:
        reason = "the peer closed the TCP link"
        try:
            while data := await self._stream.recv(READ):
                frames = self._frames.feed(data)
                if frames and not self._arrived(frames) and not self.lost:
                    raise ProtocolError("the peer sent what is of no connection")
        except WarpgateError as error:
            reason = str(error)
        self._over(reason)

    async def _write(self) -> None:
        try:
            while self._backlog or not self._closing:
                await self._more.wait()
                self._more.clear()
                data, self._backlog = b"".join(self._backlog), []
                await self._stream.send(data)
                was_full, self._waiting = self.full, sum(map(len, self._backlog))
                if was_full and not self._closing:
                    self.on_room()
        except NetworkError as error:
            self._over(str(error))
        finally:
            if self._closing:
                self._stream.close()

    def _over(self, reason: str) -> None:
        self._stop()
        self._stream.abort()
        self._lose(reason)

    def _stop(self) -> None:
        current = asyncio.current_task()
        for task in (self._reading, self._writing):
            if task is not None and task is not current:
                task.cancel()

    def close(self) -> None:
        if self._closing:
            return
        self.lost = self._closing = True
        if self._reading is not None:
            self._reading.cancel()
        if self._writing is None or self._writing.done():
            self._stream.close()
        else:
            self._more.set()
            asyncio.get_running_loop().call_later(LAST_WORD, self._writing.cancel)

    async def closed(self) -> None:
        if self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])

    def abandon(self) -> None:
        self.lost = True
        self._stop()
        self._stream.abort()
