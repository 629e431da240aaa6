"""One half of a strategy without a node: what it does is written down, what it waits for comes from the test.

attempt = FakeAttempt(local, remote, initiator=True)
half = asyncio.ensure_future(Mine().initiate(attempt))
...
attempt.hear(Answer())          # what the peer's half says
attempt.inbound_links.put_nowait(FakeLink(...))
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from warpgate.config import Config
from warpgate.errors import AttemptFailed, ServiceError
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, IPAddress, Mode, Transport
from warpgate.net.link import Link
from warpgate.net.network import Network, TcpStream
from warpgate.net.race import RaceLost, first_of
from warpgate.plan.classify import Observation
from warpgate.plan.targets import Pair, pairs
from warpgate.plan.volley import PRIMING_TTL
from warpgate.plugins.attempt import Attempt, RandomPunch, Relay


class FakeLink:
    """A link that a test hands to a strategy."""

    def __init__(self, local: Endpoint, remote: Endpoint, transport: Transport = Transport.TCP) -> None:
        self.local, self.remote, self.transport = local, remote, transport
        self.relayed = False
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class FakeAttempt(Attempt):
    """`signals`, `notes`, `probes`, `dials` and `opened` are what the strategy did, each with its time first.

    A dial is answered by `dialled[remote]`, a link or an error, and waits for ever where that has none.
    """

    def __init__(
        self,
        local: NodeAddress,
        remote: NodeAddress,
        *,
        initiator: bool,
        signal_delay: float | None = 0.04,
        mode: Mode = Mode.STREAM,
        transports: frozenset[Transport] = frozenset(Transport),
        config: Config | None = None,
        network: Network | None = None,
        relay: Relay | None = None,
    ) -> None:
        self._local, self._remote = local, remote
        self._initiator, self._mode = initiator, mode
        self._signal_delay = signal_delay
        self._config = Config() if config is None else config
        self._network, self._relay = network, relay
        self._stack = contextlib.ExitStack()
        self._transports = transports
        self.forbidden: frozenset[Endpoint] = frozenset()  # `admit` leaves these out
        self.taken = False  # other pipes are on all pairs of the listening sockets
        self.left_half_open: set[tuple[Endpoint, Endpoint]] = set()
        self.signals: list[tuple[float, Any]] = []
        self.notes: list[tuple[float, str]] = []
        self.probes: list[tuple[float, Endpoint, Endpoint, int | None]] = []
        self.dials: list[tuple[float, Endpoint, Endpoint | None, int | None]] = []
        self.opened: list[tuple[float, Endpoint]] = []
        self.kept: list[Link] = []
        self.dialled: dict[Endpoint, Link | Exception] = {}
        self.verified_links: asyncio.Queue[Link] = asyncio.Queue()
        self.inbound_links: asyncio.Queue[Link] = asyncio.Queue()
        self._heard: asyncio.Queue[Any] = asyncio.Queue()
        self._news = asyncio.Event()
        self._remote_news = asyncio.Event()
        self._fresh_ports = 40_000

    # -- what a test does ------------------------------------------------------------------------------------

    def hear(self, message: object) -> None:
        """The peer's half has said this."""
        self._heard.put_nowait(message)

    def learn(self, *, local: NodeAddress | None = None, remote: NodeAddress | None = None) -> None:
        """More is known of this side, or of the peer."""
        self._local = self._local if local is None else local
        self._remote = self._remote if remote is None else remote
        self._news.set()
        if remote is not None:
            self._remote_news.set()

    async def run(self, half: Callable[[Attempt], Awaitable[Link]]) -> Link:
        """As a node runs it: what it opened is closed in the end."""
        with self._stack:
            return await half(self)

    # -- what is known ---------------------------------------------------------------------------------------

    @property
    def session(self) -> bytes:
        return bytes(16)

    @property
    def initiator(self) -> bool:
        return self._initiator

    @property
    def local(self) -> NodeAddress:
        return self._local

    @property
    def remote(self) -> NodeAddress:
        return self._remote

    @property
    def alone(self) -> bool:
        return True

    @property
    def renewing(self) -> bool:
        return False

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def transports(self) -> frozenset[Transport]:
        return self._transports

    @property
    def config(self) -> Config:
        return self._config

    @property
    def network(self) -> Network:
        assert self._network is not None, "the strategy wants a network, and the test gives none"
        return self._network

    @property
    def relay(self) -> Relay:
        assert self._relay is not None, "the strategy wants a relay, and the test gives none"
        return self._relay

    @property
    def stack(self) -> contextlib.ExitStack:
        return self._stack

    @property
    def signal_delay(self) -> float | None:
        return self._signal_delay

    @property
    def round_trip(self) -> float | None:
        return self._signal_delay

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def note(self, text: str) -> None:
        self.notes.append((self.now(), text))

    def signal(self, message: object) -> None:
        self.signals.append((self.now(), message))

    async def receive(self) -> Any:
        message = await self._heard.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def first(self, ways: Mapping[str, Callable[[], Awaitable[Link]]]) -> Link:
        try:
            return await first_of(ways, lambda link: link.abort())
        except RaceLost as lost:
            raise AttemptFailed(str(lost)) from None

    async def remote_changed(self) -> None:
        self._remote_news.clear()
        await self._remote_news.wait()

    async def knowledge_changed(self) -> None:
        self._news.clear()
        await self._news.wait()

    def pairs(self, transport: Transport) -> tuple[Pair, ...]:
        return pairs(self._local, self._remote, transport)

    def admit(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        admitted = [endpoint for endpoint in endpoints if endpoint not in self.forbidden]
        if not admitted:
            raise AttemptFailed(f"not the peer's: {', '.join(map(str, endpoints))}")
        return admitted

    def primes_surely(self, base: Endpoint) -> bool:
        return False

    def priming_ttl(self, base: Endpoint) -> int:
        return PRIMING_TTL

    # -- UDP -------------------------------------------------------------------------------------------------

    def probe(
        self,
        base: Endpoint,
        remote: Endpoint,
        *,
        offsets: Sequence[float] | None = None,
        ttl: int | None = None,
    ) -> None:
        times = self._config.timing.check_offsets if offsets is None else offsets
        self.probes += [(self.now() + offset, base, remote, ttl) for offset in times]

    def try_found(self) -> bool:
        return False

    def occupied(self, base: Endpoint, remote: Endpoint) -> bool:
        return self.taken

    async def verified(self) -> Link:
        return await self.verified_links.get()

    async def open_udp(self, near: Endpoint) -> Endpoint:
        return self._open(near)

    async def reflexive(self, base: Endpoint) -> Endpoint:
        return self._outside(base)

    async def samples(self, base: Endpoint) -> tuple[Observation, ...]:
        raise ServiceError("no server answers")

    def taken_ports(self, ip: IPAddress) -> frozenset[int]:
        return frozenset()

    async def random_punch(self, *, alone: bool = False) -> RandomPunch:
        raise AttemptFailed("no random punch in this test")

    # -- TCP -------------------------------------------------------------------------------------------------

    async def reflexive_tcp(self, near: Endpoint) -> tuple[Endpoint, Endpoint]:
        local = self._open(near)
        return local, self._outside(local)

    async def samples_tcp(self, near: Endpoint) -> tuple[Observation, ...]:
        raise ServiceError("no server answers")

    async def dial(self, remote: Endpoint, local: Endpoint | None = None, first_ttl: int | None = None) -> Link:
        self.dials.append((self.now(), remote, local, first_ttl))
        answer = self.dialled.get(remote)
        if answer is None:
            await asyncio.Event().wait()
        assert answer is not None
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def listen_tcp(self, local: Endpoint) -> None:
        self.opened.append((self.now(), local))

    def keep(self, link: Link) -> None:
        self.kept.append(link)

    async def inbound(self) -> Link:
        return await self.inbound_links.get()

    def half_open(self, local: Endpoint, remote: Endpoint) -> bool:
        return (local, remote) in self.left_half_open

    async def connect(self, remote: Endpoint, local: Endpoint | None = None, first_ttl: int | None = None) -> TcpStream:
        """What `dialled` has for it; `adopt` makes no other link of that."""
        return cast(TcpStream, await self.dial(remote, local, first_ttl))

    async def adopt(self, stream: TcpStream) -> Link:
        return stream if isinstance(stream, FakeLink) else FakeLink(stream.local, stream.remote)

    def _open(self, near: Endpoint) -> Endpoint:
        self._fresh_ports += 1
        local = Endpoint(near.ip, self._fresh_ports)
        self.opened.append((self.now(), local))
        return local

    def _outside(self, local: Endpoint) -> Endpoint:
        """Our router preserves ports."""
        [reflexive] = [at.reflexive for at in self._local.attachments if at.host == local.ip]
        return local if reflexive is None else Endpoint(reflexive, local.port)
