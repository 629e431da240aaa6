"""STUN discovery: what the outside sees of the node's own listening sockets, kept live, and the NAT's fingerprint.

UDP is asked over the listening sockets themselves, TCP over connections from the listening ports; filtering needs a
socket of its own. All servers are asked at once and none is waited for: answers improve what `learnt` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from functools import partial
from itertools import count

from warpgate.config import Timing
from warpgate.errors import AddressError, NetworkError, ServiceError
from warpgate.events import Event, MappingLearnt, Observer, ServerFailed
from warpgate.model.alternating import alternating
from warpgate.model.backoff import Backoff
from warpgate.model.endpoint import Endpoint, IPAddress, SockAddr, Transport
from warpgate.model.nat import Filtering, NatProfile
from warpgate.model.servers import StunServer
from warpgate.net.network import Network, TcpStream, UdpSocket
from warpgate.net.race import RaceLost, first_of
from warpgate.net.reach import ATTEMPT_DELAY, in_order
from warpgate.plan.classify import Observation
from warpgate.plan.realm import outside
from warpgate.proto.binding import BindingEvent, Mapped, OtherAddress, ServerSilent
from warpgate.services.service_records import service_endpoints
from warpgate.services.stun_place import Learnt, Place
from warpgate.services.stun_samples import sample_assignment, worth_sampling
from warpgate.services.stun_tcp import StunStream, TcpProbe, sample_tcp
from warpgate.services.stun_udp import UdpProbe, UdpQuestion, measure_filtering, measure_opening

# A name that could not be resolved is tried again, as the network may be down for the moment.
RESOLVING = Backoff(5.0, 60.0)
# A doubt is no reason to ask more often.
LOOK_GAP = 1.0
# Servers asked for the mapping of a fresh port: one may be slow or gone, and somebody waits.
QUESTIONED = 3


class Discovery:
    """Life: `add` sockets (asks at once), `run` as a task of the owner, `close`."""

    def __init__(
        self,
        network: Network,
        servers: Sequence[str],
        timing: Timing,
        emit: Observer,
        on_change: Callable[[], None],
        rng: random.Random,
    ) -> None:
        """`servers`: see `StunServer.parse` (ConfigError). `on_change`: some `learnt` would say something new."""
        self._network = network
        self._servers = _services(servers)
        self._leaving: tuple[StunServer, ...] = ()  # see `follow`
        self._timing = timing
        self._emit = emit
        self._on_change = on_change
        self._looked = float("-inf")
        self._rng = rng
        self._endpoints: dict[StunServer, tuple[Endpoint, ...]] = {}
        self._unresolved = set(self._servers)
        self._places: dict[Endpoint, Place] = {}
        self._questions: dict[Endpoint, list[UdpQuestion]] = {}
        self._resolving: set[asyncio.Task[None]] = set()
        self._asking = False
        self._known: dict[Endpoint, Learnt] = {}
        self._progress = asyncio.Event()
        self._failures: set[tuple[Endpoint, str, Endpoint]] = set()
        self._translated: set[tuple[Endpoint, str, Endpoint]] = set()

    # -- the owner's side ----------------------------------------------------------------------------------------

    def add(self, sock: UdpSocket, tcp_port: int | None) -> None:
        """Learn what the outside sees of this socket, and (unless None) of the TCP port beside it."""
        local = sock.local
        tcp = None
        if tcp_port is not None:
            tcp = TcpProbe(
                self._network,
                Endpoint(local.ip, tcp_port),
                self._timing,
                self._rng,
                partial(self._mapped, Transport.TCP),
                partial(self._failed, local, Transport.TCP),
            )
        self._places[local] = Place(UdpProbe(sock, self._timing, self._rng, self._happened), tcp)
        self._make_room()
        for server, endpoints in self._endpoints.items():
            self._ask(self._places[local], server, endpoints)
        if not self._asking:
            self._asking = True
            self._look_up(self._servers)

    def remove(self, local: Endpoint) -> None:
        """Its socket is going to be closed. Idempotent."""
        place = self._places.pop(local, None)
        self._known.pop(local, None)
        if place is not None:
            place.udp.close()
            _cancel(place.tasks)
            self._changed()

    def look_up_again(self) -> None:
        """Names may have other addresses now, and those that had none may have one."""
        _cancel(self._resolving)
        self._look_up(self._servers)

    def follow(self, servers: Sequence[str]) -> None:
        """Other servers than before are to be asked (`servers` as above), and are at once. Those that are no longer
        among them leave when others have told as much: who has a list of dead ones knows what it knew before.
        """
        self._servers = _services(servers)
        self._leaving = tuple(server for server in self._endpoints if server not in self._servers)
        missing = [server for server in self._servers if server not in self._endpoints]
        self._unresolved = set(missing)
        _cancel(self._resolving)
        if self._asking:
            self._look_up(missing)
        self._make_room()
        self._let_go()

    def refresh(self) -> None:
        """The network has changed: ask everything again, with connections anew."""
        self.look_up_again()
        for place in self._places.values():
            place.filtering_for = place.sampled_for = None
            _cancel(place.tasks)
            if place.tcp is not None:
                place.tcp.forget()
            place.udp.measure()
            for server, endpoints in self._endpoints.items():
                self._ask(place, server, endpoints)

    def look_again(self) -> None:
        """Something does not work any more: ask all servers by UDP whether they still see us where we were."""
        now = asyncio.get_running_loop().time()
        if now - self._looked >= LOOK_GAP:
            self._looked = now
            for place in self._places.values():
                place.udp.measure()

    async def run(self) -> None:
        """Until cancelled; takes everything this object started along."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            tasks = self._tasks()
            _cancel(tasks)
            await asyncio.gather(*tasks, return_exceptions=True)

    async def first(self, patience: float) -> None:
        """Returns when each socket in use knows what can be known at once: an answer for each transport, or that
        no server gives one; after `patience` seconds at the latest.

        Sockets on interfaces that lead to no server (bridges, idle VPNs) are not waited for.
        """
        try:
            async with asyncio.timeout(patience):
                while not self._told():
                    await self._progress.wait()
        except TimeoutError:
            pass

    def close(self) -> None:
        """Sends nothing more. Idempotent; connections end when `run` is cancelled or with the next turn of the loop."""
        _cancel(self._tasks())
        for place in self._places.values():
            place.udp.close()
        self._places.clear()

    # -- what the node asks --------------------------------------------------------------------------------------

    def learnt(self, local: Endpoint, confirmed: Collection[IPAddress] = ()) -> Learnt:
        """`local`: the endpoint of a socket that was added (nothing is known of others). `confirmed`: outside addresses
        that others tell of; they decide where as many servers say one thing as another.
        """
        place = self._places.get(local)
        return Learnt(None, None, None, NatProfile()) if place is None else place.learnt_with(confirmed)

    def receive(self, sock: UdpSocket, data: bytes, source: SockAddr) -> bool:
        """Whether the datagram was the answer to a request of ours."""
        local = sock.local
        place = self._places.get(local)
        if place is not None and place.udp.receive(data, source):
            return True
        return any(question.receive(data, source) for question in self._questions.get(local, ()))

    async def map_udp(self, sock: UdpSocket) -> Endpoint:
        """What the outside sees of any socket whose datagrams come to `receive`: one round trip. ServiceError."""
        return (await self.sample_udp(sock, 1))[0].mapped

    async def sample_udp(self, sock: UdpSocket, wanted: int = QUESTIONED) -> tuple[Observation, ...]:
        """The same from several servers, in the order in which they were asked: what a prediction rests on."""
        question = UdpQuestion(sock, self._best(sock.local, Transport.UDP), wanted)
        asked = self._questions.setdefault(sock.local, [])
        asked.append(question)
        try:
            return self._noticed(sock.local.ip, await question.answers())
        finally:
            asked.remove(question)
            if not asked:
                del self._questions[sock.local]

    def taken_ports(self, ip: IPAddress) -> frozenset[int]:
        """External UDP ports that sockets on this interface were seen to have, those of the samples included."""
        places = [place for place in self._places.values() if place.udp.local.ip == ip]
        return frozenset(seen.mapped.port for place in places for seen in (*place.udp.observations, *place.samples))

    def opening_ttl(self, ip: IPAddress) -> int | None:
        """The lowest TTL of a datagram from this interface that opens all filters on our side; None: not measured."""
        found = (place.opening_ttl for place in self._places.values() if place.udp.local.ip == ip)
        return next((ttl for ttl in found if ttl is not None), None)

    @property
    def forgotten_after(self) -> float | None:
        """Seconds of silence after which a NAT of ours forgets a mapping; None: not before usual keepalives."""
        found = [place.udp.forgotten_after for place in self._places.values()]
        return min((seconds for seconds in found if seconds is not None), default=None)

    @property
    def round_trip(self) -> float | None:
        """Seconds to the nearest server and back, by UDP from whichever socket; None: none answers."""
        found = (place.udp.round_trip for place in self._places.values())
        return min((seconds for seconds in found if seconds is not None), default=None)

    def answered(self, near: Endpoint) -> bool:
        """Whether any server has ever answered a UDP socket on this interface."""
        return any(place.udp.servers for place in self._places.values() if place.udp.local.ip == near.ip)

    async def map_tcp(self, local: Endpoint) -> tuple[Endpoint, TcpStream]:
        """What the outside sees of a TCP port (port 0: a fresh one, see `stream.local`), and the connection that keeps
        it so until closed. ServiceError when no server tells.
        """
        servers = self._best(local, Transport.TCP)
        dials: dict[str, Callable[[], Awaitable[tuple[StunStream, Endpoint]]]] = {
            str(server): partial(StunStream.dial, self._network, server, local) for server in servers
        }
        try:
            connection, mapped = await first_of(dials, discard=lambda result: result[0].stream.abort())
        except RaceLost as lost:
            raise ServiceError(f"no STUN server tells what it sees of TCP {local}: {lost}") from lost
        local = connection.stream.local
        self._noticed(local.ip, (Observation(local, connection.stream.remote, mapped),))
        return mapped, connection.stream

    async def sample_tcp(self, ip: IPAddress) -> tuple[tuple[Observation, ...], TcpStream]:
        """What several fresh TCP ports on this interface are seen as, in the order of asking, and a connection that
        keeps the last one's mapping: what a prediction rests on. ServiceError.
        """
        seen, stream = await sample_tcp(self._network, self._best(Endpoint(ip, 0), Transport.TCP), ip)
        return self._noticed(ip, seen), stream

    def _noticed(self, ip: IPAddress, seen: tuple[Observation, ...]) -> tuple[Observation, ...]:
        """Whoever asked tells a peer, whom our address has to tell first that this is ours."""
        news = [place.notice(seen) for place in self._places.values() if place.udp.local.ip == ip]
        if any(news):
            self._changed()
            self.look_again()  # it may be another address of our NAT's, or the only one that it has now
        return seen

    def _best(self, local: Endpoint, transport: Transport) -> tuple[Endpoint, ...]:
        """Servers for a question, those that have answered this interface first. ServiceError without any.

        What one inside our NAT, or between two, tells is of no use to a peer, and it would be the first to answer.
        """
        answered: list[Endpoint] = []
        nearer: set[Endpoint] = set()
        mistaken: set[IPAddress] = set()
        for place in self._places.values():
            probe = place.udp if transport is Transport.UDP else place.tcp
            if probe is not None and probe.local.ip == local.ip:
                answered += probe.servers
            if place.udp.local.ip == local.ip:
                nearer |= place.nearer_servers
                mistaken |= place.mistaken
        of_family = [
            [endpoint for endpoint in endpoints if endpoint.family is local.family]
            for server, endpoints in self._endpoints.items()
            if server.serves(transport)
        ]
        usable = dict.fromkeys(
            each
            for each in (*answered, *alternating(of_family))
            if each.ip not in mistaken and (each not in nearer or each in answered)
        )
        if not usable:
            raise ServiceError(f"no STUN server for {transport.name} from {local.ip}")
        return tuple(usable)[:QUESTIONED]

    # -- which servers -------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        leaving = frozenset(each for server in self._leaving for each in self._endpoints[server])
        leaving -= self._staying.get(Transport.TCP, frozenset())
        for place in self._places.values():
            if place.tcp is not None:
                place.tcp.make_room(leaving)

    @property
    def _staying(self) -> dict[Transport, frozenset[Endpoint]]:
        """Where the servers are that do not leave, over each transport that there is one for."""
        serving = {each: [server for server in self._servers if server.serves(each)] for each in Transport}
        return {
            transport: frozenset(each for server in servers for each in self._endpoints.get(server, ()))
            for transport, servers in serving.items()
            if servers
        }

    def _let_go(self) -> None:
        """Of those that leave, when no place would know less, or have to believe the quickest of the others."""
        if not self._leaving or self._unresolved or any(place.udp.waiting for place in self._places.values()):
            return
        staying = self._staying
        told = [each for place in self._places.values() for each in place.told_by(staying)]
        if not told or not all(told):
            return
        for server in self._leaving:
            del self._endpoints[server]
        self._leaving = ()
        for place in self._places.values():
            place.keep(staying)
        self._changed()

    # -- asking --------------------------------------------------------------------------------------------------

    def _look_up(self, servers: Sequence[StunServer]) -> None:
        """Literal addresses are asked in this tick; each name on its own, so that a slow one delays nobody."""
        for server in servers:
            try:
                self._found(server, (Endpoint.of(server.host, server.port),))
            except AddressError:
                self._spawn(self._resolving, self._resolve(server))

    async def _resolve(self, server: StunServer) -> None:
        for failures in count(1):
            try:
                found = await self._find(server)
                break
            except NetworkError as error:
                self._unresolved.discard(server)
                self._emit(ServerFailed("stun", str(server), str(error)))
                self._progressed()
            pause = RESOLVING.after(failures)
            await asyncio.sleep(self._rng.uniform(pause / 2, pause))
        self._found(server, in_order(found))

    async def _find(self, server: StunServer) -> tuple[Endpoint, ...]:
        if not server.by_service:
            return await self._network.resolve(server.host, server.port)
        service = f"_stun._{(server.transport or Transport.UDP).value}"  # RFC 8489 section 8
        return await service_endpoints(self._network, service, server.host, server.port)

    def _found(self, server: StunServer, endpoints: tuple[Endpoint, ...]) -> None:
        self._endpoints[server] = endpoints
        self._make_room()
        self._unresolved.discard(server)
        for place in self._places.values():
            self._ask(place, server, endpoints)
        self._progressed()

    def _ask(self, place: Place, server: StunServer, endpoints: tuple[Endpoint, ...]) -> None:
        """A name's further addresses are the same server's: asked when those before them do not answer at once."""
        local = place.udp.local
        usable = [
            endpoint
            for endpoint in endpoints
            if endpoint.family is local.family and (endpoint.ip.is_loopback or not local.ip.is_loopback)
        ]
        for endpoint in usable[:1]:
            self._ask_at(place, server, endpoint)
        if usable[1:]:
            self._spawn(place.tasks, self._ask_further(place, server, usable))

    async def _ask_further(self, place: Place, server: StunServer, endpoints: Sequence[Endpoint]) -> None:
        """RFC 8305: one more after each delay, until one has answered over all that this server serves."""
        for number, endpoint in enumerate(endpoints[1:], 1):
            await asyncio.sleep(ATTEMPT_DELAY)
            if server not in self._endpoints or place.answered_by(endpoints[:number], server):
                return
            self._ask_at(place, server, endpoint)

    def _ask_at(self, place: Place, server: StunServer, endpoint: Endpoint) -> None:
        local = place.udp.local
        route = self._network.route_source(endpoint)
        if route is None:
            self._failed(local, server.transport or Transport.UDP, endpoint, "no route")
            return
        place.essential |= route == local.ip
        if server.serves(Transport.UDP):
            place.udp.ask(endpoint)
        if place.tcp is not None and server.serves(Transport.TCP) and place.tcp.claim(endpoint):
            place.dialling[endpoint] = self._spawn(place.tasks, place.tcp.keep_asking(endpoint))

    # -- hearing -------------------------------------------------------------------------------------------------

    def _happened(self, probe: UdpProbe, event: BindingEvent) -> None:
        match event:
            case Mapped(server=server, mapped=mapped, rtt=rtt, changed=True):
                self._mapped(Transport.UDP, probe.local, server, mapped, rtt)
            case ServerSilent(server=server, reason=reason, translated=translated):
                self._failed(probe.local, Transport.UDP, server, reason, translated)
            case OtherAddress(server=server, other=other) if probe.other == (server, other):
                probe.ask_others(server, other)
        self._let_go()
        if (place := self._places.get(probe.local)) is not None:
            self._learn_more(place)

    def _mapped(
        self, transport: Transport, local: Endpoint, server: Endpoint, mapped: Endpoint, seconds: float
    ) -> None:
        self._failures.discard((local, transport.value, server))
        self._say(MappingLearnt(transport.value, str(local), str(mapped), str(server), seconds))
        self._let_go()

    def _failed(
        self, local: Endpoint, transport: Transport, server: Endpoint, reason: str, translated: bool = False
    ) -> None:
        """Told once: a server that stays silent is asked again and again. That a translator is between is told when it
        is seen again: what the resolver says of that may come later than the server's answer.
        """
        failure = (local, transport.value, server)
        if local.ip.version == 6 and translated and failure not in self._translated:
            self._translated.add(failure)
            self._progressed()
            return
        known = failure in self._failures or not any(server in found for found in self._endpoints.values())
        self._failures.add(failure)
        if known:
            self._progressed()
        else:
            self._say(ServerFailed("stun", str(server), f"{transport.name} from {local}: {reason}"))

    def _learn_more(self, place: Place) -> None:
        """In the background, once for each reflexive address."""
        mapped = outside(place.udp.latest)
        ip = None if mapped is None else mapped.ip
        if place.udp.other is not None and ip not in (None, place.filtering_for):
            place.filtering_for = ip
            self._spawn(place.tasks, self._measure(place, place.udp.other[0], ip))
        if ip is not None:
            place.forget_samples_unless(ip)
        if ip not in (None, place.sampled_for) and worth_sampling(place.learnt.nat):
            place.sampled_for, place.samples = ip, ()
            self._spawn(place.tasks, self._sample(place))

    async def _measure(self, place: Place, server: Endpoint, behind: IPAddress | None) -> None:
        try:
            measured = await measure_filtering(self._network, place.udp.local, server)
        except NetworkError as error:
            self._say(ServerFailed("stun", str(server), f"filtering test: {error}"))
            return
        if place.filtering_for != behind:
            return  # by now servers further outside have answered, and are being asked
        place.filtering, place.filtering_samples = measured.filtering, measured.samples
        if measured.filtering is Filtering.UNKNOWN:
            self._say(ServerFailed("stun", str(server), f"filtering test: {measured.reason}"))
        self._changed()
        place.opening_ttl = None
        if measured.filtering in (Filtering.ADF, Filtering.APDF):
            with contextlib.suppress(NetworkError):
                opening = await measure_opening(self._network, place.udp.local, measured)
                place.opening_ttl = opening if place.filtering_for == behind else None

    async def _sample(self, place: Place) -> None:
        known = len(place.udp.servers)
        sampled = await sample_assignment(self._network, place.udp.local, place.udp.servers, known)
        place.samples = sampled.seen
        for reason in sampled.failures:
            self._say(ServerFailed("stun", str(place.udp.servers[0]), f"samples of our NAT's ports: {reason}"))
        self._changed()
        if place.learnt.nat.pooled and place.udp.servers:
            # A peer's filter is opened to the addresses that we name. Of four, 16 samples miss one in one case of 25.
            place.samples += (await sample_assignment(self._network, place.udp.local, place.udp.servers, 0)).seen
            self._changed()

    # -- telling -------------------------------------------------------------------------------------------------

    def _say(self, event: Event) -> None:
        self._emit(event)
        self._changed()

    def _changed(self) -> None:
        self._progressed()
        known = {local: place.learnt for local, place in self._places.items()}
        if known != self._known:
            self._known = known
            self._on_change()

    def _progressed(self) -> None:
        """Wake everyone who waits in `first`."""
        self._progress.set()
        self._progress = asyncio.Event()

    def _told(self) -> bool:
        places = [place for place in self._places.values() if place.essential] or list(self._places.values())
        return all(place.told(bool(self._unresolved)) for place in places)

    # -- tasks ---------------------------------------------------------------------------------------------------

    def _spawn(self, owner: set[asyncio.Task[None]], work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name="stun")
        owner.add(task)
        task.add_done_callback(owner.discard)
        return task

    def _tasks(self) -> set[asyncio.Task[None]]:
        return self._resolving.union(*(place.tasks for place in self._places.values()))


def _services(servers: Sequence[str]) -> tuple[StunServer, ...]:
    parsed = map(StunServer.parse, servers)
    return tuple(dict.fromkeys(each for server in parsed for each in server.services))


def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
