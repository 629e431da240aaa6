"""Where packets go in the internet in memory: realms, hosts, routers, and the time it takes.

A realm is one addressing realm (RFC 2663 section 2.1): the public internet, or what is behind one router.
Hosts and routers are its members; a router joins a realm to the one outside it. All state is here; what a
host does with a packet is the host's business.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import field, replace

from warpgate.errors import ConfigError
from warpgate.lab.flow import Answer, Drop, Flow, Forward, Protocol, Side, Verdict
from warpgate.lab.nat import Nat
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Family, IPAddress
from warpgate_testing.segment import TcpSegment, reset_for

DEFAULT_TTL = 64


@dataclass(frozen=True, slots=True)
class PathSpec:
    """What happens between two members of a realm, one way. Seconds; probabilities per packet; `hops` counts
    the routers in between. Duplication is for UDP alone, and TCP keeps its order whatever the jitter.
    """

    delay: float = 0.05
    jitter: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    hops: int = 8


LAN = PathSpec(delay=0.0, hops=0)


@dataclass(frozen=True, slots=True)
class Packet:
    """UDP carries bytes, TCP a segment. `ttl`: how many routers it can still pass, plus one."""

    flow: Flow
    payload: bytes | TcpSegment
    ttl: int = DEFAULT_TTL

    @property
    def flags(self) -> int:
        return self.payload.flags if isinstance(self.payload, TcpSegment) else 0


@dataclass(frozen=True, slots=True)
class Captured:
    """A packet as a host sent or received it."""

    time: float
    host: str
    sent: bool
    packet: Packet


class Realm:
    """Members, and the paths between them."""

    def __init__(self, path: PathSpec, gateway: Router | None = None) -> None:
        self.path = path
        self.gateway = gateway
        self.members: list[Member] = []
        self.paths: dict[tuple[Member, Member], PathSpec] = {}
        self.cut: set[frozenset[Member]] = set()

    def member_for(self, ip: IPAddress) -> Member | None:
        return next((member for member in self.members if member.answers_to(ip)), None)


@dataclass(eq=False, slots=True)
class Host:
    """A machine with one interface. `deliver` is given what arrives while it is `up`."""

    name: str
    addresses: tuple[IPAddress, ...]
    realm: Realm
    deliver: Callable[[Packet], None]
    up: bool = True

    def answers_to(self, ip: IPAddress) -> bool:
        return ip in self.addresses


@dataclass(eq=False, slots=True)
class Router:
    """Joins `inside` to `realm`, with one NAT or firewall per family; a family without one is simply routed."""

    name: str
    realm: Realm
    nats: dict[Family, Nat]
    inside: Realm = field(init=False)

    def __post_init__(self) -> None:
        self.inside = Realm(LAN, gateway=self)

    def nat_for(self, ip: IPAddress) -> Nat | None:
        return self.nats.get(Family(ip.version))

    def answers_to(self, ip: IPAddress) -> bool:
        """From outside: its own addresses, and those of its inside that it does not translate."""
        nat = self.nat_for(ip)
        if nat is not None and nat.spec.translates:
            return ip in nat.external
        return self.inside.member_for(ip) is not None


Member = Host | Router


class Wire:
    """Carries packets; events happen in order of their time, and of their cause where that is the same."""

    def __init__(self, rng: random.Random) -> None:
        self.drops: Counter[str] = Counter()
        self.captures: list[list[Captured]] = []
        self._rng = rng
        self._events: list[tuple[float, int, Callable[[Packet], None], Packet]] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._last: dict[Flow, float] = {}

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def send(self, host: Host, packet: Packet) -> None:
        """From a host's stack; loopback and its own addresses come straight back."""
        if not host.up:
            return
        self._capture(host, packet, sent=True)
        ip = packet.flow.destination.ip
        if ip.is_loopback or host.answers_to(ip):
            self._schedule(self.now(), lambda packet: self._to_host(host, packet), packet)
        else:
            self._within(host.realm, host, packet)

    # -- movement --------------------------------------------------------------------------------------------

    def _within(self, realm: Realm, origin: Member, packet: Packet) -> None:
        """Across a realm, to whoever has the address, otherwise to its gateway; multicast to all of its hosts."""
        if packet.flow.destination.ip.is_multicast:
            for listener in realm.members:
                if isinstance(listener, Host) and listener is not origin:
                    self._cross(realm, origin, listener, packet)
            return
        member = realm.member_for(packet.flow.destination.ip)
        if member is not None and member is not origin:
            self._cross(realm, origin, member, packet)
        elif realm.gateway is not None and realm.gateway is not origin:
            self._cross(realm, origin, realm.gateway, packet)
        else:
            self.drops["no such address"] += 1

    def _cross(self, realm: Realm, origin: Member, member: Member, packet: Packet) -> None:
        path = realm.paths.get((origin, member), realm.path)
        if frozenset((origin, member)) in realm.cut:
            self.drops["partition"] += 1
        elif packet.ttl <= path.hops:
            self.drops["ttl"] += 1
        elif path.loss and self._rng.random() < path.loss:
            self.drops["loss"] += 1
        else:
            packet = replace(packet, ttl=packet.ttl - path.hops)

            def arrive(packet: Packet) -> None:
                if isinstance(member, Host):
                    self._to_host(member, packet)
                elif realm.gateway is member:
                    self._through(member, packet, outward=True)
                else:
                    self._through(member, packet, outward=False)

            self._schedule(self._arrival(path, packet), arrive, packet)
            if path.duplication and packet.flags == 0 and self._rng.random() < path.duplication:
                self._schedule(self._arrival(path, packet), arrive, packet)

    def _arrival(self, path: PathSpec, packet: Packet) -> float:
        time = self.now() + path.delay + (self._rng.uniform(0, path.jitter) if path.jitter else 0.0)
        if path.jitter and packet.flow.protocol is Protocol.TCP:
            time = self._last[packet.flow] = max(time, self._last.get(packet.flow, 0.0))
        return time

    def _to_host(self, host: Host, packet: Packet) -> None:
        if not host.up:
            self.drops["host is down"] += 1
            return
        self._capture(host, packet, sent=False)
        host.deliver(packet)

    def _through(self, router: Router, packet: Packet, *, outward: bool) -> None:
        if packet.ttl <= 1:
            self.drops["ttl"] += 1
            return
        packet = replace(packet, ttl=packet.ttl - 1)
        nat = router.nat_for(packet.flow.destination.ip)
        verdict: Verdict
        if nat is None:
            verdict = Forward(packet.flow, Side.OUTSIDE if outward else Side.INSIDE)
        else:
            decide = nat.outbound if outward else nat.inbound
            verdict = decide(packet.flow, self.now(), packet.flags)
        if isinstance(verdict, Forward):
            realm = router.realm if verdict.side is Side.OUTSIDE else router.inside
            self._within(realm, router, replace(packet, flow=verdict.flow))
        elif isinstance(verdict, Drop):
            self.drops[verdict.reason] += 1
        elif verdict.answer is Answer.TCP_RESET:
            self._reset(router.inside if outward else router.realm, router, packet)
        else:
            self.drops["port unreachable"] += 1

    def _reset(self, realm: Realm, router: Router, packet: Packet) -> None:
        if isinstance(packet.payload, TcpSegment) and (answer := reset_for(packet.payload)) is not None:
            self._within(realm, router, Packet(packet.flow.reverse, answer))

    # -- time ------------------------------------------------------------------------------------------------

    def _schedule(self, time: float, act: Callable[[Packet], None], packet: Packet) -> None:
        # Not the loop's own heap: it is not stable, and packets sent in one tick must not overtake each
        # other.
        self._count += 1
        heapq.heappush(self._events, (time, self._count, act, packet))
        if self._events[0][1] == self._count:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._events:
            self._timer = asyncio.get_running_loop().call_at(self._events[0][0], self._due)

    def _due(self) -> None:
        # What these events cause at this very instant waits for the next turn, so that tasks get theirs.
        now, newest = self.now(), self._count
        try:
            while self._events and self._events[0][0] <= now and self._events[0][1] <= newest:
                _, _, act, packet = heapq.heappop(self._events)
                act(packet)
        finally:
            self._set_timer()

    def _capture(self, host: Host, packet: Packet, *, sent: bool) -> None:
        if self.captures:
            seen = Captured(self.now(), host.name, sent, packet)
            for capture in self.captures:
                capture.append(seen)


def common_realm(a: Member, b: Member) -> tuple[Realm, Member, Member]:
    """The innermost realm that both are in or behind, and the member of it that each is, or is behind."""
    above_a, above_b = _upwards(a), _upwards(b)
    for one in above_a:
        for other in above_b:
            if one.realm is other.realm:
                return one.realm, one, other
    raise ConfigError(f"{a.name} and {b.name} are not part of one internet")


def _upwards(member: Member) -> list[Member]:
    found = [member]
    while (gateway := found[-1].realm.gateway) is not None:
        found.append(gateway)
    return found
