"""turn: over a relay (RFC 8656, RFC 6062), for when nothing else can work. Usable after s + the relay's path.

The initiator allocates in the first tick and signals its relayed endpoint when it has one; the responder sends checks
there from its listening sockets (or dials it, for a stream), and the relay's permissions let it in. So one relay is
enough, the initiator's. The responder allocates one of its own

* at once, when the initiator has none, or when it is not known that UDP (or TCP) gets out of the responder's network:
  then two relays talk to each other, each client by TCP or TLS with its own;
* after a while, when the initiator's relay leads to nothing: either side's may serve.

That spares the server an allocation for nearly every connect. A server may allocate and relay nothing (its machine's
firewall lets no peer in): a side that has heard nobody by its relay opens a second one, at another server. What was
kept in reserve may be gone with a restart: then it opens another one as soon as the server says so, and where a server
is silent, at the next one. The core nominates a relayed link only when nothing direct comes in time.

Each transport is a lane of its own, and the initiator takes one: UDP relays wherever a UDP link will do, for streams,
too. TCP relays are for pipes that must run over TCP: they know no half-close, and coturn (4.6) ends either connection
with RST when the other one ends, so that what was still under way may be cut off.

A relayed endpoint is not an address of the peer's own, so what is sent there on its word is bounded: see
`core/search/relays.py`. Whoever answers must prove the peer's key, as everywhere.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from warpgate.errors import AddressError, AttemptFailed, ServiceError, WarpgateError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.net.link import Link
from warpgate.net.race import RaceLost, first_of
from warpgate.plan.relay import reaches_relays
from warpgate.plugins.base import Attempt, Plugin, beside, patient

# Each is how long at least, in seconds, and in signals, which are slow on slow paths.
# The responder's own relay is asked for when checks to the initiator's had the time of a bad path and found nothing.
OWN_RELAY_PATIENCE = 1.0, 2.0
# Longer than that: the peer's own relay comes first.
ANOTHER_PATIENCE = 2.0, 4.0
# A server that has no room at the moment is asked again after so many seconds each: a pair that has no other
# way waits for it.
NO_ROOM_PAUSES = 1.0, 2.0
# For a server's first answer. It is asked twice within that, and what a mistake costs is one allocation elsewhere. A
# signal has our own link on its way once, the answer twice.
SILENCE = 0.5, 3.0
MOST_RELAYS = 3  # of ours in a lane: a server may forget each that it gives
# Without a relay of its own the initiator waits for the peer's: a signal there and back, and a slow allocation.
PEER_PATIENCE = 5.0, 6.0
# At 10 % loss each way seven checks fail together once in 10^5; more would be an attack's (core/search/relays.py).
CHECK_OFFSETS = (0.0, 0.06, 0.15, 0.4, 0.9, 1.8, 3.5)
# The SYN, and the HELLO to the other client and back, who opens a connection of its own to the relay meanwhile.
DIAL_PATIENCE = 5.0, 6.0
MAX_ENDPOINTS = 2
MAX_MESSAGES = 8


@dataclass(frozen=True, slots=True)
class Relayed:
    """`endpoints`: the sender's relayed endpoints as text, of this transport ("udp", "tcp"); none yet, and perhaps
    never, unless `pending`.
    """

    transport: str
    endpoints: tuple[str, ...] = ()
    pending: bool = False


class Turn(Plugin):
    name: ClassVar[str] = "turn"
    transports: ClassVar[frozenset[Transport]] = frozenset(Transport)
    message_type: ClassVar[type | None] = Relayed
    relays: ClassVar[bool] = True

    async def initiate(self, attempt: Attempt) -> Link:
        lane = _UdpLane(attempt) if Transport.UDP in attempt.transports else _TcpLane(attempt)
        lane.announce()
        lane.allocate_in(0.0)
        return await self._run(attempt, {lane.transport: lane})

    async def respond(self, attempt: Attempt) -> Link:
        lanes: tuple[_Lane, ...] = (_UdpLane(attempt), _TcpLane(attempt))
        return await self._run(
            attempt, {lane.transport: lane for lane in lanes if lane.transport in attempt.transports}
        )

    async def _run(self, attempt: Attempt, lanes: dict[Transport, _Lane]) -> Link:
        beside(attempt, _read(attempt, lanes))
        try:
            return await first_of(
                {lane.transport.name: lane.link for lane in lanes.values()}, lambda link: link.abort()
            )
        except RaceLost as lost:
            reasons = dict.fromkeys(str(error) for error in lost.failures.values())
            raise AttemptFailed("; ".join(reasons)) from None


async def _read(attempt: Attempt, lanes: dict[Transport, _Lane]) -> None:
    for _ in range(MAX_MESSAGES):
        try:
            message = await attempt.receive()
            if not isinstance(message, Relayed):
                continue
            lane = lanes.get(Transport(message.transport))
            if lane is not None:
                lane.told(message.pending, [Endpoint.parse(text) for text in message.endpoints[:MAX_ENDPOINTS]])
        except (ValueError, AddressError) as error:
            attempt.note(f"a message that makes no sense: {error}")
        except WarpgateError as error:
            attempt.note(str(error))


class _Lane(ABC):
    """One transport in one attempt: our relay and the peer's, and the links over either."""

    transport: ClassVar[Transport]

    def __init__(self, attempt: Attempt) -> None:
        loop = asyncio.get_running_loop()
        self._attempt = attempt
        self._allocating: asyncio.Task[None] | None = None
        self._starting: asyncio.TimerHandle | None = None
        self._hopeless: asyncio.Future[str] = loop.create_future()
        # Why there is no relay of ours.
        self._failure = None if attempt.initiator or attempt.relay.configured else "no TURN server is configured"
        self._barred: tuple[Endpoint, ...] = ()  # the peer's that may be tried when ours is at the same relay
        self.mine: tuple[Endpoint, ...] = ()
        self.theirs: tuple[Endpoint, ...] = ()
        attempt.stack.callback(self._forget)

    async def link(self) -> Link:
        """The first link over a relay; AttemptFailed when neither side has one."""
        coming = beside(self._attempt, self._coming())
        either: set[asyncio.Future[Any]] = {coming, self._hopeless}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            return coming.result()
        raise AttemptFailed(self._hopeless.result())

    def _forget(self) -> None:
        """The task that ended leads back here."""
        self._allocating = None

    # -- our relay -----------------------------------------------------------------------------------------------

    def announce(self) -> None:
        """Tell the peer where our relay is, or whether there will be one."""
        pending = self._attempt.relay.configured and not (self._allocating and self._allocating.done())
        endpoints = tuple(str(endpoint) for endpoint in self.mine)
        self._attempt.signal(Relayed(self.transport.value, endpoints, pending and not endpoints))

    def allocate_in(self, seconds: float) -> None:
        """Once; an earlier time than before counts."""
        if self._allocating is not None:
            return
        if self._starting is not None:
            self._starting.cancel()
        if seconds:
            self._starting = asyncio.get_running_loop().call_later(seconds, self.allocate_in, 0.0)
            self._attempt.stack.callback(self._starting.cancel)
            return
        self._allocating = beside(self._attempt, self._allocate())

    async def _allocate(self) -> None:
        attempt = self._attempt
        try:
            await self._open_when_there_is_room()
        except WarpgateError as error:
            attempt.note(f"no {self.transport.name} relay of ours: {error}")
            self._failure = str(error)
            if attempt.relay.configured:
                attempt.signal(Relayed(self.transport.value))
            timer = asyncio.get_running_loop().call_later(patient(attempt, *PEER_PATIENCE), self._give_up)
            attempt.stack.callback(timer.cancel)
            return
        if self._barred:
            barred, self._barred = self._barred, ()
            try:
                self._go_to(barred)
            except AttemptFailed as error:
                attempt.note(str(error))
        await self._open_others()

    async def _open_when_there_is_room(self) -> None:
        for pause in NO_ROOM_PAUSES:
            try:
                await self._open_one()
                return
            except ServiceError as error:
                if not error.passing:
                    raise
                self._attempt.note(f"no {self.transport.name} relay of ours yet: {error}")
            await asyncio.sleep(pause)
        await self._open_one()

    async def _open_others(self) -> None:
        """In the place of those that are lost, and of one by which nobody comes."""
        for _ in range(MOST_RELAYS - 1):
            lost = await self._lost()
            if not lost and self._attempt.relay.heard:  # it works, and waits for a direct link
                return
            try:
                await self._open_one()
            except WarpgateError as error:
                self._attempt.note(f"nobody comes by our {self.transport.name} relay, and there is no other: {error}")
                return
            if not lost:
                return

    async def _lost(self) -> bool:
        """Whether our newest relay is gone; False when it had its time."""
        await asyncio.sleep(patient(self._attempt, *ANOTHER_PATIENCE))
        return False

    async def _open_one(self) -> None:
        relayed = await self._open()
        self.mine += relayed
        self._attempt.note(f"our {self.transport.name} relay: {', '.join(map(str, relayed))}")
        self._attempt.signal(Relayed(self.transport.value, tuple(str(endpoint) for endpoint in relayed)))
        self._opened(relayed)

    def _give_up(self) -> None:
        if self._failure is not None and not self.theirs and not self._hopeless.done():
            self._hopeless.set_result(f"{self._failure}, and the peer offers none")

    # -- the peer's relay ----------------------------------------------------------------------------------------

    def told(self, pending: bool, endpoints: Sequence[Endpoint]) -> None:
        """A message of the peer's; AttemptFailed when its endpoints may not be tried."""
        attempt = self._attempt
        coming = attempt.relay.configured and not self.mine and self._failure is None
        if endpoints:
            try:
                self._go_to(endpoints, again=coming)
            except AttemptFailed:
                if not coming:
                    raise
                self._barred += tuple(endpoints)
        elif not pending:
            self._give_up()
        if attempt.initiator or not attempt.relay.configured:
            return
        offered = pending or (endpoints and not self._barred)
        needed = not offered or not reaches_relays(attempt.local, self.transport)
        self.allocate_in(0.0 if needed else patient(attempt, *OWN_RELAY_PATIENCE))

    def _go_to(self, endpoints: Sequence[Endpoint], *, again: bool = False) -> None:
        admitted = self._attempt.relay.admit(endpoints, again=again)
        self.theirs += tuple(endpoint for endpoint in admitted if endpoint not in self.theirs)
        self._attempt.note(f"the peer's {self.transport.name} relay: {', '.join(map(str, admitted))}")
        self._use(admitted)

    @abstractmethod
    async def _open(self) -> tuple[Endpoint, ...]:
        """Allocate, where there is no relay of ours yet; ServiceError."""

    @abstractmethod
    def _opened(self, relayed: Sequence[Endpoint]) -> None:
        """A relay of ours is there: let the peer in."""

    @abstractmethod
    def _use(self, endpoints: Sequence[Endpoint]) -> None:
        """The peer's relay is there: go there."""

    @abstractmethod
    async def _coming(self) -> Link: ...


class _UdpLane(_Lane):
    """Checks to the peer's relay, and from ours."""

    transport = Transport.UDP

    async def _open(self) -> tuple[Endpoint, ...]:
        return await self._attempt.relay.open_udp()

    async def _lost(self) -> bool:
        silence, patience = (patient(self._attempt, *least) for least in (SILENCE, ANOTHER_PATIENCE))
        return await self._attempt.relay.lost_udp(silence, patience)

    def _opened(self, relayed: Sequence[Endpoint]) -> None:
        self._check(relayed, self.theirs)

    def _use(self, endpoints: Sequence[Endpoint]) -> None:
        listening = [at.host_endpoint(Transport.UDP) for at in self._attempt.local.attachments]
        bases = [base for base in listening if base is not None and not base.ip.is_loopback]
        self._check(bases, [endpoint for endpoint in endpoints if self._attempt.relay.reachable(endpoint)])
        self._check(self.mine, endpoints)

    def _check(self, bases: Sequence[Endpoint], endpoints: Sequence[Endpoint]) -> None:
        for base in bases:
            for endpoint in endpoints:
                if base.family is endpoint.family:
                    self._attempt.probe(base, endpoint, offsets=CHECK_OFFSETS)

    async def _coming(self) -> Link:
        return await self._attempt.verified()


class _TcpLane(_Lane):
    """The peer dials our relay, or we dial the peer's: as we are, or from our relay where that does not get out."""

    transport = Transport.TCP

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(attempt)
        self._ready = asyncio.Event()
        self._reached = asyncio.Event()
        self._called: list[Link] = []  # one, until it is taken
        attempt.stack.callback(self._let_go)

    async def _open(self) -> tuple[Endpoint, ...]:
        return await self._attempt.relay.open_tcp()

    def _opened(self, relayed: Sequence[Endpoint]) -> None:
        self._ready.set()

    def _use(self, endpoints: Sequence[Endpoint]) -> None:
        for endpoint in endpoints:
            beside(self._attempt, self._call(endpoint))

    async def _coming(self) -> Link:
        return await first_of({"called": self._attempt.inbound, "calling": self._calling}, Link.abort)

    async def _calling(self) -> Link:
        await self._reached.wait()
        return self._called.pop()

    async def _call(self, endpoint: Endpoint) -> None:
        ways = {"by our relay": partial(self._dial_by_relay, endpoint)}
        if self._attempt.relay.reachable(endpoint):
            ways["directly"] = partial(self._dial, endpoint)
        try:
            link = await first_of(ways, Link.abort)
        except RaceLost as lost:
            self._attempt.note(f"the peer's relay {endpoint} cannot be dialled: {lost}")
            return
        if self._reached.is_set():
            link.abort()
        else:
            self._called.append(link)
            self._reached.set()

    def _let_go(self) -> None:
        for link in self._called:
            link.abort()

    async def _dial(self, endpoint: Endpoint) -> Link:
        patience = patient(self._attempt, *DIAL_PATIENCE)
        try:
            async with asyncio.timeout(patience):
                return await self._attempt.dial(endpoint)
        except TimeoutError:
            raise AttemptFailed(f"no answer within {patience:.3g} s") from None

    async def _dial_by_relay(self, endpoint: Endpoint) -> Link:
        await self._ready.wait()
        return await self._attempt.adopt(await self._attempt.relay.dial(endpoint))
