"""What STUN servers see of one UDP socket: the live mapping, and the samples the NAT's fingerprint is made of."""

from __future__ import annotations

import asyncio
import random
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import TypeVar

from warpgate.config import Timing
from warpgate.errors import ServiceError
from warpgate.model.endpoint import Endpoint, SockAddr
from warpgate.model.scope import misnamed
from warpgate.net.driver import MachineDriver
from warpgate.net.network import Network, UdpSocket
from warpgate.plan.classify import Observation
from warpgate.plan.realm import prevailing
from warpgate.proto.binding import BindingClient, BindingEvent, Mapped, OtherAddress, ServerSilent
from warpgate.proto.filtering import FilteringMeasured, FilteringTest
from warpgate.proto.machine import Machine, Transmit
from warpgate.proto.opening import OpeningTest

R = TypeVar("R")

TRANSACTION_ID_SIZE = 12
# When one server has told, the others get as long again, but at least this (jitter).
ANOTHER_ANSWER = 0.05
# Requests less than this apart belong together: within such a group the order in which servers became known is the
# order of sending; times are only known from when a busy loop handled the answers. Rounds are 20 s apart.
SAME_ROUND = 1.0
# A fingerprint needs a handful of samples; a NAT that changes its mind must not make us remember all of them.
OBSERVATIONS = 64


def new_transaction_id() -> bytes:
    """RFC 8489 section 5: "cryptographically random"."""
    return secrets.token_bytes(TRANSACTION_ID_SIZE)


class _Asking(ABC):
    """A client on a socket that it does not own, whose owner routes answers here."""

    def __init__(self, sock: UdpSocket, client: BindingClient) -> None:
        self.sock = sock
        self._client = client
        self._driver: MachineDriver[BindingEvent, Transmit] = MachineDriver(client, self._transmit, self._happened)

    def receive(self, data: bytes, source: SockAddr) -> bool:
        """Whether it was an answer for us."""
        if not self._client.owns(data):
            return False
        self._driver.receive(data, Endpoint.from_sockaddr(source))
        return True

    def _transmit(self, transmit: Transmit) -> None:
        self.sock.send(transmit.data, transmit.remote.sockaddr)

    @abstractmethod
    def _happened(self, event: BindingEvent) -> None: ...


class UdpProbe(_Asking):
    """Asks servers for as long as the socket is open."""

    def __init__(
        self,
        sock: UdpSocket,
        timing: Timing,
        rng: random.Random,
        on_event: Callable[[UdpProbe, BindingEvent], None],
    ) -> None:
        self._others: dict[Endpoint, Endpoint] = {}  # servers' second addresses (RFC 5780)
        self._on_event = on_event
        self._observations: list[tuple[float, Observation]] = []
        self._asked: list[Endpoint] = []
        self._silent: set[Endpoint] = set()
        client = BindingClient(
            sock.local,
            (),
            asyncio.get_running_loop().time(),
            new_transaction_id=new_transaction_id,
            jitter=rng.random,
            keepalive_low=timing.keepalive_low,
            keepalive_high=timing.keepalive_high,
        )
        super().__init__(sock, client)

    # The owner's side.

    def ask(self, server: Endpoint) -> None:
        """At once; a server that was asked before is left alone."""
        if server not in self._asked:
            self._asked.append(server)
            self._client.add_server(server, self._driver.now())
            self._driver.drain()

    def keep(self, servers: Collection[Endpoint]) -> None:
        """Ask none but these, and their second addresses. What others saw stays in the NAT's fingerprint."""
        staying = self.with_others(servers)
        for server in [asked for asked in self._asked if asked not in staying]:
            self._asked.remove(server)
            self._silent.discard(server)
            self._others.pop(server, None)
            self._client.remove_server(server)
        self._driver.drain()
        if self.other is not None:
            self.ask_others(*self.other)

    def ask_others(self, server: Endpoint, other: Endpoint) -> None:
        """RFC 5780 section 4.3, on the socket that counts: another address, and another port there."""
        self.ask(Endpoint(other.ip, server.port))
        self.ask(other)

    def measure(self) -> None:
        """Ask all servers again."""
        self._client.measure(self._driver.now())
        self._driver.drain()

    def close(self) -> None:
        self._driver.close()

    # What is known.

    @property
    def latest(self) -> tuple[Observation, ...]:
        """What each server that answers sees now."""
        return tuple(Observation(self.local, server, mapped) for server, mapped in self._client.mappings)

    @property
    def forgotten_after(self) -> float | None:
        """Seconds for which our NAT keeps a mapping that is silent, where that is less than a usual keepalive."""
        return self._client.keepalive if self._client.shortened else None

    @property
    def round_trip(self) -> float | None:
        """Seconds to the nearest server outside and back."""
        return self._client.round_trip

    @property
    def local(self) -> Endpoint:
        return self.sock.local

    @property
    def servers(self) -> tuple[Endpoint, ...]:
        """Those that answer, and see us as the outside does."""
        return tuple(seen.server for seen in prevailing(self.latest))

    @property
    def other(self) -> tuple[Endpoint, Endpoint] | None:
        """The first of them with a second address, and that."""
        found = ((server, self._others[server]) for server in self.servers if server in self._others)
        return next(found, None)

    def with_others(self, servers: Collection[Endpoint]) -> frozenset[Endpoint]:
        """These, and what is asked on their word."""
        named = [(server, self._others[server]) for server in servers if server in self._others]
        return frozenset(
            (
                *servers,
                *(each for server, other in named for each in (other, Endpoint(other.ip, server.port))),
            )
        )

    @property
    def waiting(self) -> bool:
        """Somebody who was asked has neither answered nor been given up."""
        return not self._silent.union(server for server, _ in self._client.mappings).issuperset(self._asked)

    @property
    def failed(self) -> bool:
        """Servers were asked, and none answers."""
        return bool(self._asked) and self._silent.issuperset(self._asked)

    @property
    def observations(self) -> tuple[Observation, ...]:
        """In the order in which the requests were sent."""
        places = {server: place for place, server in enumerate(self._asked)}
        ordered: list[Observation] = []
        group: list[Observation] = []
        before = 0.0
        for sent, observation in sorted(self._observations, key=lambda seen: seen[0]):
            if sent - before > SAME_ROUND:
                ordered += group
                group = []
            before = sent
            group = sorted([*group, observation], key=lambda seen: places.get(seen.server, -1))
        return (*ordered, *group)

    # The machine's side.

    def _happened(self, event: BindingEvent) -> None:
        match event:
            case Mapped(server=server, mapped=mapped, rtt=rtt, changed=changed):
                self._silent.discard(server)
                if changed:
                    self._observe(Observation(self.sock.local, server, mapped), self._driver.now() - rtt)
            case ServerSilent(server=server):
                self._silent.add(server)
            case OtherAddress(server=server, other=other) if plausible(server, other):
                self._others.setdefault(server, other)
        self._on_event(self, event)

    def _observe(self, seen: Observation, sent: float) -> None:
        before = [other.mapped.ip for _, other in self._observations if other.server == seen.server]
        if before and before[-1] != seen.mapped.ip:
            self._observations.clear()  # another network: what we know is of a NAT that is not there any more
        self._observations.append((sent, seen))
        del self._observations[:-OBSERVATIONS]


def plausible(server: Endpoint, other: Endpoint) -> bool:
    """Whether a server's other address is of use (coturn, asked at its second one, names that again with another
    port) and may be sent to: a lying server must not aim us into private networks.
    """
    return (
        other.port != server.port
        and other.family is server.family
        and other.ip != server.ip
        and misnamed(other, server.ip) is None
    )


async def measure_filtering(network: Network, near: Endpoint, server: Endpoint) -> FilteringMeasured:
    """Who gets in through the NAT before `near` (RFC 5780 section 4.4).

    On a socket of its own; takes two to nine round trips. NetworkError when the socket cannot be opened.
    """
    return await _result(
        network,
        near,
        lambda base, now: FilteringTest(base, server, now, new_transaction_id=new_transaction_id),
    )


async def measure_opening(network: Network, near: Endpoint, measured: FilteringMeasured) -> int | None:
    """The lowest TTL that opens the filters just measured before `near`; None where no server tells.

    On a socket of its own; takes one round trip behind one router, and five more for each further hop. NetworkError
    when the socket cannot be opened.
    """
    if (other := measured.other) is None:
        return None
    server, rtt = measured.server, measured.round_trip
    opened = await _result(
        network,
        near,
        lambda base, now: OpeningTest(base, server, other, rtt, now, new_transaction_id=new_transaction_id),
    )
    return opened.ttl


async def _result(network: Network, near: Endpoint, make: Callable[[Endpoint, float], Machine[R, Transmit]]) -> R:
    """The one event of a machine, `make(base, now)`, that has a fresh socket beside `near`."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[R] = loop.create_future()

    def happened(event: R) -> None:
        if not done.done():
            done.set_result(event)

    sock = network.open_udp(
        Endpoint(near.ip, 0), lambda data, source: driver.receive(data, Endpoint.from_sockaddr(source))
    )
    driver: MachineDriver[R, Transmit] = MachineDriver(
        make(sock.local, loop.time()),
        lambda transmit: sock.send(transmit.data, transmit.remote.sockaddr, transmit.ttl),
        happened,
    )
    try:
        driver.drain()
        return await done
    finally:
        driver.close()
        sock.close()


class UdpQuestion(_Asking):
    """One question over a socket: what do these servers see of it?

    Over when `wanted` have answered, or those that are not much slower than the first, or all have failed.
    """

    def __init__(self, sock: UdpSocket, servers: tuple[Endpoint, ...], wanted: int) -> None:
        loop = asyncio.get_running_loop()
        self._servers = servers
        self._wanted = min(wanted, len(servers))
        self._seen: dict[Endpoint, Endpoint] = {}
        self._reasons: list[str] = []
        self._done: asyncio.Future[None] = loop.create_future()
        client = BindingClient(
            sock.local, servers, loop.time(), new_transaction_id=new_transaction_id, jitter=lambda: 0.0
        )
        super().__init__(sock, client)

    async def answers(self) -> tuple[Observation, ...]:
        """In the order in which the servers were asked; ServiceError when none answers."""
        try:
            self._driver.drain()
            await self._done
        finally:
            self._driver.close()
        if not self._seen:
            raise ServiceError(f"no STUN server tells what it sees of {self.sock.local}: {self._reasons[0]}")
        return tuple(
            Observation(self.sock.local, server, self._seen[server]) for server in self._servers if server in self._seen
        )

    def _happened(self, event: BindingEvent) -> None:
        match event:
            case Mapped(server=server, mapped=mapped, rtt=rtt):
                if not self._seen:
                    asyncio.get_running_loop().call_later(max(rtt, ANOTHER_ANSWER), self._finish)
                self._seen[server] = mapped
            case ServerSilent(server=server, reason=reason):
                self._reasons.append(f"{server}: {reason}")
        answered = len(self._seen)
        if answered >= self._wanted or answered + len(self._reasons) >= len(self._servers):
            self._finish()

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)
