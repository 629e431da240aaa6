"""One local endpoint of the node's, and what STUN servers have told of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from warpgate.lazy_dataclass import dataclass
from warpgate.model.attachment import MAX_POOL
from warpgate.model.endpoint import Endpoint, IPAddress, Transport
from warpgate.model.nat import Filtering, NatProfile
from warpgate.model.scope import is_private
from warpgate.model.servers import StunServer
from warpgate.plan.classify import Observation, classify
from warpgate.plan.realm import mistaken, outside, prevailing
from warpgate.services.stun_tcp import TcpProbe
from warpgate.services.stun_udp import UdpProbe


@dataclass(frozen=True, slots=True)
class Learnt:
    """What is known of one local endpoint. Ports are None as long as nobody has told.

    `tcp_mapped` is left out when TCP is mapped to another address than UDP: an attachment has one. `pool`: the other
    addresses that the NAT uses.
    """

    reflexive: IPAddress | None
    udp_mapped: int | None
    tcp_mapped: int | None
    nat: NatProfile
    pool: tuple[IPAddress, ...] = ()


class Place:
    """One local endpoint: its probes and what they told. Owned by Discovery."""

    def __init__(self, udp: UdpProbe, tcp: TcpProbe | None) -> None:
        self.udp = udp
        self.tcp = tcp
        self.filtering = Filtering.UNKNOWN
        self.filtering_samples = 0
        self.filtering_for: IPAddress | None = None  # the reflexive address it was measured behind
        self.opening_ttl: int | None = None  # the lowest that opens these filters; None: not measured
        self.samples: tuple[Observation, ...] = ()  # of sockets that were thrown away
        self.sampled_for: IPAddress | None = None
        # At other addresses of the NAT's than were known; they hold while ours is this one.
        self._noticed: tuple[Observation, ...] = ()
        self._noticed_for: IPAddress | None = None
        self.essential = False  # the system itself would use it to reach a server
        self.tasks: set[asyncio.Task[None]] = set()
        self.dialling: dict[Endpoint, asyncio.Task[None]] = {}  # by TCP server, of those tasks

    @property
    def nearer_servers(self) -> frozenset[Endpoint]:
        """Those that see us otherwise than the outside does, over either transport."""
        told = [(self.udp.latest, self.udp.servers)]
        if self.tcp is not None:
            told.append((self.tcp.observations, self.tcp.servers))
        return frozenset(seen.server for all_seen, outer in told for seen in all_seen if seen.server not in outer)

    @property
    def mistaken(self) -> set[IPAddress]:
        """Whose word on ports is of no use."""
        return mistaken((*self.udp.latest, *self.samples))

    @property
    def learnt(self) -> Learnt:
        return self.learnt_with(())

    def learnt_with(self, confirmed: Collection[IPAddress]) -> Learnt:
        """`confirmed`: outside addresses that others tell of, for when the servers disagree."""
        over_tcp = () if self.tcp is None else self.tcp.observations
        udp = outside(self.udp.latest, {*confirmed, *(seen.mapped.ip for seen in over_tcp)})
        tcp = outside(over_tcp, confirmed if udp is None else {udp.ip})
        reflexive = udp or tcp
        ip = None if reflexive is None else reflexive.ip
        nat = self._profile()
        noticed = self._noticed if self._noticed_for == ip else ()
        pool = self._pool(ip, noticed) if nat.pooled or noticed else ()
        if udp is not None and tcp is not None and tcp.ip != udp.ip and not nat.mapping.endpoint_dependent:
            # TCP comes from there. (Where ports have to be searched for, over UDP, it would be in the way.)
            pool = tuple(dict.fromkeys((tcp.ip, *pool)))[:MAX_POOL]
        return Learnt(
            ip,
            None if udp is None else udp.port,
            tcp.port if tcp is not None and tcp.ip == ip else None,
            replace(nat, pooled=True) if pool else nat,
            pool,
        )

    def _pool(self, reflexive: IPAddress | None, noticed: Sequence[Observation]) -> tuple[IPAddress, ...]:
        """The address where we were seen last is among them: the peer is about to be told an endpoint there."""
        seen = prevailing((*self.udp.observations, *self.samples, *noticed))
        latest = [each.mapped.ip for each in reversed(noticed) if each in seen]
        most = [ip for ip, _ in Counter(each.mapped.ip for each in seen).most_common()]
        return tuple([ip for ip in dict.fromkeys((*latest, *most)) if ip != reflexive][:MAX_POOL])

    def notice(self, seen: Sequence[Observation]) -> bool:
        """What servers see of a fresh port of ours, UDP or TCP: whether one of them is at an address not known yet."""
        learnt = self.learnt
        if learnt.reflexive is None:
            return False
        if self._noticed_for != learnt.reflexive:
            self._noticed, self._noticed_for = (), learnt.reflexive
        new = [each for each in seen if each.mapped.ip not in (learnt.reflexive, *learnt.pool)]
        self._noticed = (*self._noticed, *new)[-MAX_POOL:]
        return bool(new)

    def forget_samples_unless(self, ip: IPAddress) -> None:
        """Those of a NAT whose one address was another than this say nothing of ports by now."""
        behind = {seen.mapped.ip for seen in self.samples}
        if len(behind) == 1 and ip not in behind:
            self.samples = ()

    def _profile(self) -> NatProfile:
        over_tcp = () if self.tcp is None else self.tcp.observations
        if self.udp.observations:
            seen = prevailing(self.udp.observations + self.samples)
            return classify(seen, self.filtering, self.filtering_samples)
        # UDP is blocked only when something else got through while it was silent.
        blocked = True if over_tcp and self.udp.failed else None
        return replace(classify(prevailing(over_tcp)), udp_blocked=blocked)

    def answered_by(self, endpoints: Sequence[Endpoint], server: StunServer) -> bool:
        """Whether any of this server's endpoints has answered over all that it serves us; over TCP it need not, where
        others keep the connections.
        """
        udp = not server.serves(Transport.UDP) or any(seen.server in endpoints for seen in self.udp.latest)
        tcp = self.tcp is None or not server.serves(Transport.TCP) or bool(self.tcp.observations)
        return udp and tcp

    def told_by(self, servers: Mapping[Transport, Collection[Endpoint]]) -> list[bool]:
        """Of each transport over which anybody has told, and `servers` has somebody: whether one of them has, too."""
        by = [(self.udp.servers, self.udp.with_others(servers[Transport.UDP]))] if Transport.UDP in servers else []
        if self.tcp is not None and Transport.TCP in servers:
            by.append((self.tcp.servers, frozenset(servers[Transport.TCP])))
        return [not wanted.isdisjoint(told) for told, wanted in by if told]

    def keep(self, servers: Mapping[Transport, Collection[Endpoint]]) -> None:
        """Ask none but these."""
        self.udp.keep(servers.get(Transport.UDP, ()))
        if self.tcp is not None:
            for gone in self.tcp.keep(servers.get(Transport.TCP, ())):
                self.dialling.pop(gone).cancel()

    def told(self, unresolved: bool) -> bool:
        """Whether both transports have an answer from the internet, or no server left that could give one."""
        return all(
            any(not is_private(seen.mapped.ip) for seen in told) or not (unresolved or probe.waiting)
            for probe, told in (
                (self.udp, self.udp.latest),
                *(() if self.tcp is None else ((self.tcp, self.tcp.observations),)),
            )
        )
