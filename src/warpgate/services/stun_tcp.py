"""What STUN servers see of connections from one TCP port, and keeping that so (RFC 8489 section 6.2.2).

RFC 5382 wants a NAT to keep an established connection's mapping for two hours and to use it for other connections
from the same port; so a connection from the listening port to a STUN server tells peers where to send their SYNs,
and must stay open. They are ended by RST: a connection in TIME_WAIT would keep the port from dialling the same
server again for a minute.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NoReturn

from warpgate.config import Timing
from warpgate.errors import DecodeError, ServiceError, WarpgateError
from warpgate.model.backoff import Backoff
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.net.network import Network, TcpStream
from warpgate.net.race import abandon
from warpgate.plan.classify import Observation
from warpgate.plan.realm import prevailing
from warpgate.proto.binding import Translated, mapped_in
from warpgate.proto.stun import BINDING, StreamDecoder, StunClass, StunMessage, decode, encode
from warpgate.services.stun_udp import new_transaction_id

# A handshake and a Binding: two round trips. SYNs are repeated after 1 and 3 s (RFC 6298 section 2).
PATIENCE = 5.0
# Two say whether the mapping depends on the destination; more would only cost the router sessions.
KEPT = 2
# Mappings in a row that show how a NAT counts, and how long the last one's answer is outrun by others', seconds.
SAMPLES = 3
OTHERS = 0.05
BACKOFF = Backoff(1.0, 60.0)
# A Binding answer has about 100 bytes; SOFTWARE and the like may add some hundreds.
LARGEST_ANSWER = 2048
MOST_ANSWERS = 8  # to a question: the last one's may be late


class StunStream:
    """Binding requests over one TCP connection."""

    def __init__(self, stream: TcpStream) -> None:
        self.stream = stream
        self._decoder = StreamDecoder(limit=LARGEST_ANSWER)

    @classmethod
    async def dial(cls, network: Network, server: Endpoint, local: Endpoint) -> tuple[StunStream, Endpoint]:
        """Connect from `local` and ask; the stream and what the server sees.

        ServiceError or NetworkError, also when one of the two takes more than 5 s.
        """
        try:
            async with asyncio.timeout(PATIENCE) as limit:
                self = cls(await network.dial_tcp(server, local))
                limit.reschedule(asyncio.get_running_loop().time() + PATIENCE)
                try:
                    return self, await self.bind()
                except BaseException:
                    self.stream.abort()
                    raise
        except TimeoutError:
            raise ServiceError(f"no answer within {PATIENCE:g} s") from None

    async def bind(self) -> Endpoint:
        """What the server sees of this connection. ServiceError, NetworkError."""
        request = StunMessage(BINDING, StunClass.REQUEST, new_transaction_id())
        await self.stream.send(encode(request))
        for _ in range(MOST_ANSWERS):
            answer = await self._next()
            if answer.transaction_id == request.transaction_id:
                return mapped_in(answer, self.stream.local, self.stream.remote.ip)
        raise ServiceError("the server talks, and does not answer")

    async def idle(self, seconds: float) -> None:
        """Wait, watching the connection: ServiceError when the server ends it, NetworkError when it breaks."""
        try:
            async with asyncio.timeout(seconds):
                data = await self.stream.recv(LARGEST_ANSWER)
        except TimeoutError:
            return
        raise ServiceError("the server speaks without being asked" if data else "the server hung up")

    async def _next(self) -> StunMessage:
        try:
            while (frame := self._decoder.next_frame()) is None:
                data = await self.stream.recv(LARGEST_ANSWER)
                if not data:
                    raise ServiceError("the server hung up")
                self._decoder.feed(data)
            return decode(frame)
        except DecodeError as error:
            raise ServiceError(f"not a STUN server: {error}") from error


async def sample_tcp(
    network: Network, servers: Sequence[Endpoint], ip: IPAddress, wanted: int = SAMPLES
) -> tuple[tuple[Observation, ...], TcpStream]:
    """What servers see of `wanted` fresh ports of the interface `ip`, in the order in which their SYNs left, all in one
    tick; and the connection from the last one, which keeps its mapping until closed.

    ServiceError when nobody tells of that one; of the others, whatever is there by then counts. Where the server of the
    last one takes much longer than others those are asked instead, from the start: nobody is to hold us up.
    """
    local = Endpoint(ip, 0)
    asked = [servers[number % len(servers)] for number in range(wanted)]
    dialling = [asyncio.ensure_future(StunStream.dial(network, server, local)) for server in asked]
    try:
        if quicker := await _overtaken(dict(zip(dialling, asked, strict=True))):
            abandon(dialling[-1], _abort)
            return await sample_tcp(network, quicker, ip, wanted)
        connection, _ = await dialling[-1]
        await asyncio.wait(dialling, timeout=OTHERS)
    except WarpgateError as error:
        raise ServiceError(f"no STUN server tells what it sees of TCP {ip}: {error}") from error
    except BaseException:  # nobody gets the connection that may be there already
        abandon(dialling[-1], _abort)
        raise
    finally:
        for task in dialling[:-1]:
            abandon(task, _abort)
    told = [(task.result(), server) for task, server in zip(dialling, asked, strict=True) if _told(task)]
    return tuple(Observation(one.stream.local, server, mapped) for (one, mapped), server in told), connection.stream


async def _overtaken(dialling: Mapping[asyncio.Future[tuple[StunStream, Endpoint]], Endpoint]) -> list[Endpoint]:
    """The servers that have told while that of the last one has not, after as long again as the first of them took."""
    began, last, pending = asyncio.get_running_loop().time(), [*dialling][-1], {*dialling}
    while not last.done() and not any(map(_told, dialling)):
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    if not last.done():
        await asyncio.wait([last], timeout=max(OTHERS, asyncio.get_running_loop().time() - began))
    if last.done():
        return []
    return [server for each, server in dialling.items() if _told(each) and server != dialling[last]]


def _told(task: asyncio.Future[tuple[StunStream, Endpoint]]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _abort(answered: tuple[StunStream, Endpoint]) -> None:
    answered[0].stream.abort()


class TcpProbe:
    """Connections from `local` to two of the servers: all are dialled, the first two that answer are kept."""

    def __init__(
        self,
        network: Network,
        local: Endpoint,
        timing: Timing,
        rng: random.Random,
        on_mapped: Callable[[Endpoint, Endpoint, Endpoint, float], None],
        on_failed: Callable[[Endpoint, str, bool], None],
    ) -> None:
        """`on_mapped`: local, server, mapped, seconds it took; `on_failed`: server, reason, see `Translated`."""
        self.local = local
        self._network = network
        self._timing = timing
        self._rng = rng
        self._on_mapped = on_mapped
        self._on_failed = on_failed
        self._up: dict[Endpoint, Endpoint] = {}  # server: mapped
        self._asked: set[Endpoint] = set()
        self._down: set[Endpoint] = set()
        self._leaving: Collection[Endpoint] = ()  # up for as long as no other is
        self._vacancy = asyncio.Event()
        self._vacancy.set()

    @property
    def observations(self) -> tuple[Observation, ...]:
        return tuple(Observation(self.local, server, mapped) for server, mapped in self._up.items())

    @property
    def servers(self) -> tuple[Endpoint, ...]:
        """Those that answer, and see us as the outside does."""
        return tuple(seen.server for seen in prevailing(self.observations))

    @property
    def waiting(self) -> bool:
        """Somebody who was asked has neither answered nor failed."""
        return not self._down.union(self._up).issuperset(self._asked)

    def forget(self) -> None:
        """All connections are gone and nothing is known any more (the network has changed)."""
        self._up.clear()
        self._asked.clear()
        self._down.clear()
        self._vacancy.set()

    def make_room(self, leaving: Collection[Endpoint]) -> None:
        """These take no place from others any more."""
        self._leaving = leaving
        self._look_for_vacancy()

    def keep(self, servers: Collection[Endpoint]) -> tuple[Endpoint, ...]:
        """None but these count; those whose `keep_asking` is to be cancelled."""
        gone = tuple(self._asked.difference(servers))
        for server in gone:
            self._asked.remove(server)
            self._down.discard(server)
            self._up.pop(server, None)
        self.make_room(())
        return gone

    def claim(self, server: Endpoint) -> bool:
        """Whether somebody has yet to `keep_asking` it."""
        if server in self._asked:
            return False
        self._asked.add(server)
        return True

    async def keep_asking(self, server: Endpoint) -> None:
        """Dial whenever a place is free, and again whenever the connection ends; for ever."""
        failures = 0
        while True:
            if server not in self._up:
                await self._vacancy.wait()
            try:
                lived = await self._connection(server)
            except WarpgateError as error:
                lived = 0.0
                self._fail(server, error)
            failures = 0 if lived >= self._timing.keepalive_low else failures + 1
            if failures:
                await asyncio.sleep(BACKOFF.drawn(failures, self._rng.uniform))

    async def _connection(self, server: Endpoint) -> float:
        """One connection; how many seconds it lived. Raises when it cannot be had."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        connection, mapped = await StunStream.dial(self._network, server, self.local)
        try:
            if server not in self._up and not self._wants(Observation(self.local, server, mapped)):
                return math.inf  # others were quicker
            self._learn(server, mapped, started)
            await self._keep(server, connection)
        except WarpgateError as error:
            # Servers end connections that only ask (coturn after 60 s). The mapping is taken to be the same
            # until dialling again shows something else: an address that changes every minute helps nobody.
            lived = loop.time() - started
            if lived < self._timing.keepalive_low:
                self._on_failed(server, f"{error}, after only {lived:.1f} s", False)
            return lived
        finally:
            connection.stream.abort()

    def _wants(self, seen: Observation) -> bool:
        """Whether there is a place for one more, or those that have them are not as far outside as this one."""
        kept = self._kept
        return len(kept) < KEPT or kept.isdisjoint(one.server for one in prevailing((*self.observations, seen)))

    @property
    def _kept(self) -> set[Endpoint]:
        return set(self.servers).difference(self._leaving)

    def _look_for_vacancy(self) -> None:
        if len(self._kept) < KEPT:
            self._vacancy.set()
        else:
            self._vacancy.clear()

    async def _keep(self, server: Endpoint, connection: StunStream) -> NoReturn:
        """Until the connection ends, which it says by raising."""
        while True:
            await connection.idle(self._rng.uniform(self._timing.keepalive_low, self._timing.keepalive_high))
            started = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(PATIENCE):
                    mapped = await connection.bind()
            except TimeoutError:
                raise ServiceError(f"no answer within {PATIENCE:g} s") from None
            self._learn(server, mapped, started)

    def _learn(self, server: Endpoint, mapped: Endpoint, started: float) -> None:
        if self._up.get(server) == mapped:
            return
        self._up[server] = mapped
        self._down.discard(server)
        self._look_for_vacancy()
        self._on_mapped(self.local, server, mapped, asyncio.get_running_loop().time() - started)

    def _fail(self, server: Endpoint, error: WarpgateError) -> None:
        self._up.pop(server, None)
        self._down.add(server)
        self._vacancy.set()
        self._on_failed(server, str(error), isinstance(error, Translated))
