"""TURN servers: allocations on whichever of the configured ones answers first, over whatever gets through to it.

UDP, TCP and TLS to all servers are tried at once: the first allocation is kept, which makes it the nearest relay and
UDP wherever that passes; the others are given back. A node has one allocation in reserve, so that whoever asks waits
for no server.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial

from warpgate.errors import NetworkError, ServiceError, WarpgateError
from warpgate.events import Observer, RelayAllocated, ServerFailed
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Family, IPAddress, Transport
from warpgate.model.recent import Recent
from warpgate.model.scope import carried_by, misnamed
from warpgate.model.turn_server import TurnServer, TurnTransport
from warpgate.net.network import Acceptor, Network, TcpStream
from warpgate.net.race import RaceLost, first_of
from warpgate.net.reach import in_order, in_turn, on_the_internet
from warpgate.net.tls import Trust
from warpgate.net.uplinks import other_uplinks
from warpgate.proto.turn import KEEPALIVE
from warpgate.proto.turn_wire import RelayRequest
from warpgate.services.proxy import Proxies
from warpgate.services.relay_allocation import Allocation, MakeCarrier, NoSuchFamily, Redirected
from warpgate.services.relay_carrier import Route, StreamCarrier, UdpCarrier, dial
from warpgate.services.relay_tcp import TcpRelay
from warpgate.services.service_records import service_endpoints
from warpgate.services.turn_accounts import TurnAccounts

MAX_REDIRECTS = 2
# When the uplink of the system's choice has not led to an allocation by then (two slow round trips), others are tried.
UPLINK_DELAY = 0.5
OTHER_UPLINKS = 3
# What the end of a node may wait for streams that still drain, and again for the server's last answers.
FAREWELL = 0.4
CHECK_PATIENCE = 12.0  # four round trips over two satellites: TCP, TLS, and a log-in that is refused first
PROVIDERS = "a provider's"
# RFC 8656 section 3.1 (as RFC 5766 section 2.1).
SERVICES = {
    TurnTransport.UDP: "_turn._udp",
    TurnTransport.TCP: "_turn._tcp",
    TurnTransport.TLS: "_turns._tcp",
}
RESERVE = RelayRequest(Transport.UDP, frozenset(Family))
# After the reserve was used, or could not be had. A program that connects once is done with searching by then.
RESERVE_PAUSE = 10.0
RESERVE_RETRY = 60.0
# What lies in reserve is asked for as often as the mapping to its server must be kept open anyway.
RESERVE_ASKED = KEEPALIVE
# Where a path by a relay has fallen silent, for so long the reserve there has to answer before it is used, seconds.
DOUBTED = 30.0
# So long a server is not asked, while there are others, for a peer that was not heard by its relay. Seconds.
IN_VAIN = 600.0
MOST_IN_VAIN = 256
# A server that has given us something before and refuses connections may just be starting again: for so long it is
# asked each half a second. Over UDP its silence lasts for longer, and is asked into meanwhile. One that still refuses
# a minute later does not start: whoever wants a relay asks it once, like one that has never given us anything.
RESTART, RESTART_PAUSE = 3.0, 0.5
LONGEST_RESTART = 60.0


@dataclass(frozen=True, slots=True)
class RelayCheck:
    """What one server did when asked for an allocation: `relayed` and `seconds`, or the `error`."""

    server: str
    relayed: tuple[Endpoint, ...] = ()
    seconds: float = 0.0
    error: str = ""


class Relays:
    """One per node. Life: made, used, `close`."""

    def __init__(
        self,
        network: Network,
        servers: Sequence[str],
        emit: Observer,
        *,
        trust: Trust | None = None,
        limit: int = 256,
        wall_clock: Callable[[], float] = time.time,
        accounts: TurnAccounts | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        """`servers`: see `model.turn_server`; `trust`: None for the system's authorities. ConfigError.

        `accounts`: where more servers come from while the node runs, and log-ins for those that have a desk. `proxies`:
        None for the system's.
        """
        parsed = tuple(dict.fromkeys(TurnServer.parse(server) for server in servers))
        self._own = tuple(server for server in parsed if server.desk is None)
        self._named = frozenset((server.host, server.port) for server in parsed)  # by our user
        self._accounts = accounts
        self._proxies = Proxies() if proxies is None else proxies
        self._network = network
        self._emit = emit
        self._wall_clock = wall_clock
        self._limit = limit
        # One for each node, and not its id, which others on the way to the server would see.
        self._user = secrets.token_hex(4)
        self._trust = Trust() if trust is None else trust
        self._allocations: set[Allocation] = set()
        self._reserve: asyncio.Task[Allocation] | None = None
        self._restocking: asyncio.TimerHandle | None = None
        self._asking: asyncio.TimerHandle | None = None
        self._doubted_until = 0.0
        # Until when others are asked for this peer: a peer that lies chooses nobody else's relay.
        self._in_vain: Recent[tuple[bytes, TurnServer], float] = Recent(MOST_IN_VAIN)
        # What has given us an allocation, and until when it is believed to be starting again: since it refused first.
        self._believed: dict[tuple[str, int], float] = {}

    @property
    def servers(self) -> tuple[TurnServer, ...]:
        """Those that can be asked now."""
        given = () if self._accounts is None else self._accounts.servers
        return tuple(dict.fromkeys((*self._own, *given)))

    @property
    def configured(self) -> bool:
        """Whether there may be a relay of ours, now or when an account has answered."""
        return bool(self._own or self._accounts)

    async def open_udp(
        self, families: Iterable[Family], besides: Collection[TurnServer] = (), peer: bytes = b""
    ) -> Allocation:
        """An allocation with an endpoint of each of these families, as far as the server has them; the caller's share
        is to be dropped. `besides`: servers whose relays lead nowhere just now; `peer`: the key of whom it is for, see
        `led_nowhere`. ServiceError with every server's reason.
        """
        wanted = RelayRequest(Transport.UDP, frozenset(families))
        in_vain = self._led_nowhere_for(peer)
        reserve = await self._take_reserve(wanted.families, in_vain.union(besides))
        if reserve is None:
            return await self._open(wanted, besides, in_vain)
        if asyncio.get_running_loop().time() >= self._doubted_until:
            return reserve
        try:
            return await first_of(
                {"the reserve": partial(_proved, reserve), "another": partial(self._open, wanted, besides, in_vain)},
                Allocation.drop,
            )
        except RaceLost as lost:
            raise ServiceError(f"no relay: {lost}", passing=_passing(lost)) from None

    async def open_tcp(self, family: Family, acceptor: Acceptor, besides: Collection[TurnServer] = ()) -> TcpRelay:
        """A relayed TCP endpoint (RFC 6062); streams of peers who call go to the acceptor. ServiceError."""
        allocation = await self._open(RelayRequest(Transport.TCP, frozenset({family})), besides)
        return TcpRelay(allocation, partial(self._dial, allocation.route), acceptor)

    async def check(self) -> tuple[RelayCheck, ...]:
        """Ask each server over each of its transports for a moment's allocation: for `doctor`."""
        await self._known()
        routes = [(server, transport) for server in self.servers for transport in _transports(server, Transport.UDP)]
        return tuple(await asyncio.gather(*(self._check(server, transport) for server, transport in routes)))

    @property
    def addresses(self) -> frozenset[IPAddress]:
        """Of our relayed endpoints now: from these, a peer's relayed endpoint at such an address is at the same relay.

        It is the server's word, so nothing may be sent there but through the server.
        """
        used = (endpoint.ip for allocation in self._allocations for endpoint in allocation.relayed)
        return frozenset(used)

    @property
    def hosts(self) -> frozenset[IPAddress]:
        """Of the servers that relay for us now, as we reach them."""
        routes = (allocation.route for allocation in self._allocations if allocation.relayed)
        return frozenset(route.endpoint.ip for route in routes if route.proxy is None)

    async def close(self) -> None:
        """Give everything back, within a second."""
        self._drop_reserve()
        if self._allocations:
            await asyncio.gather(*(allocation.finish(FAREWELL) for allocation in tuple(self._allocations)))

    # -- the reserve ---------------------------------------------------------------------------------------------

    def stock(self) -> None:
        """From now on there is an allocation in reserve, anew if there is one: our network is another one perhaps."""
        self._drop_reserve()
        self._doubted_until = 0.0  # what comes has just been answered
        if self.configured:
            self._reserve = asyncio.ensure_future(self._open(RESERVE))
            self._reserve.add_done_callback(self._stocked)

    def doubt(self, ips: Collection[IPAddress]) -> None:
        """Nothing comes any more of what went by one of these addresses: there may be a relay that is dead."""
        reserve = _of(self._reserve)
        if reserve is not None and any(relayed.ip in ips for relayed in reserve.relayed):
            self._doubted_until = asyncio.get_running_loop().time() + DOUBTED

    def led_nowhere(self, server: TurnServer, peer: bytes) -> None:
        """The peer was not heard by its relay, and by another's meanwhile: there is a wall between it and peers, or
        this one says so.
        """
        self._in_vain[peer, server] = asyncio.get_running_loop().time() + IN_VAIN

    def _led_nowhere_for(self, peer: bytes) -> frozenset[TurnServer]:
        now = asyncio.get_running_loop().time()
        return frozenset(server for (whose, server), until in self._in_vain.items() if whose == peer and until > now)

    def ask(self) -> None:
        """Some server is gone, and relays may be with it: each that we use is asked, and ours are over in 4 s if so."""
        for allocation in tuple(self._allocations):
            allocation.ask()

    def _stocked(self, reserve: asyncio.Task[Allocation]) -> None:
        if reserve.cancelled():
            return
        failure = reserve.exception()
        if self._reserve is not reserve:  # dropped in this very turn: we are closed, or there is a newer one
            return
        if failure is not None:
            self._restock_in(RESERVE_RETRY)
        else:
            reserve.result().ended.add_done_callback(lambda _: self._reserve_ended(reserve))
            self._ask_in_time(reserve)

    def _ask_in_time(self, reserve: asyncio.Task[Allocation]) -> None:
        self._asking = asyncio.get_running_loop().call_later(RESERVE_ASKED, self._ask_reserve, reserve)

    def _ask_reserve(self, reserve: asyncio.Task[Allocation]) -> None:
        """Only an answer tells that the server still knows it, at the address that our NAT gives us now."""
        if self._reserve is reserve:
            reserve.result().ask()
            self._ask_in_time(reserve)

    def _reserve_ended(self, reserve: asyncio.Task[Allocation]) -> None:
        """The server was restarted, or sees us at another address: it has another one for us, soon."""
        if self._reserve is reserve:
            self._reserve = None
            self._restock_in(RESERVE_PAUSE)

    def _restock_in(self, seconds: float) -> None:
        if self._restocking is not None:
            self._restocking.cancel()
        self._restocking = asyncio.get_running_loop().call_later(seconds, self.stock)

    def _drop_reserve(self) -> None:
        reserve, self._reserve = self._reserve, None
        for timer in (self._restocking, self._asking):
            if timer is not None:
                timer.cancel()
        self._restocking = self._asking = None
        if reserve is None:
            return
        reserve.cancel()
        if (allocation := _of(reserve)) is not None:
            allocation.drop()

    async def _take_reserve(self, families: frozenset[Family], besides: Collection[TurnServer]) -> Allocation | None:
        """The caller's from now on; None also where it lacks all of `families` (a server may give one of two).

        ServiceError when it could not be had just now.
        """
        reserve = self._reserve
        if reserve is None or (reserve.done() and reserve.exception() is not None):
            return None
        await asyncio.wait([reserve])
        if self._reserve is not reserve or reserve.cancelled():  # somebody else was first, or we have moved
            return None
        allocation = reserve.result()
        if not any(relayed.family in families for relayed in allocation.relayed):
            return None
        if allocation.route.server in besides:
            return None
        self._reserve = None
        self._restock_in(RESERVE_PAUSE)
        return allocation

    # -- choosing ------------------------------------------------------------------------------------------------

    async def _known(self) -> None:
        """There is a server, or no account left that could give one."""
        if self._accounts is not None and not self.servers:
            await self._accounts.asked()

    async def _open(
        self, wanted: RelayRequest, besides: Collection[TurnServer] = (), in_vain: Collection[TurnServer] = ()
    ) -> Allocation:
        if not self.configured:
            raise ServiceError("no TURN server is configured")
        await self._known()
        if not self.servers:
            raise ServiceError("no account gives a TURN server")
        if len(self._allocations) >= self._limit:
            raise ServiceError(f"{self._limit} allocations at once are enough")
        others = [server for server in self.servers if server not in besides]
        if not others:
            raise ServiceError("there is no other TURN server")
        runners: dict[str, Callable[[], Awaitable[Allocation]]] = {
            f"{server} over {transport.name}": partial(self._ask, server, transport, wanted)
            for server in [server for server in others if server not in in_vain] or others
            for transport in _transports(server, wanted.transport)
        }
        try:
            return await first_of(runners, Allocation.drop)
        except RaceLost as lost:
            raise ServiceError(f"no relay: {lost}", passing=_passing(lost)) from None

    async def _ask(self, server: TurnServer, transport: TurnTransport, wanted: RelayRequest) -> Allocation:
        """One server over one transport, at the first of its addresses that answers (RFC 8305)."""
        now, place = asyncio.get_running_loop().time, (server.host, server.port)
        given_up = now() + RESTART
        while True:
            try:
                allocation = await self._ask_once(server, transport, wanted)
            except (RaceLost, WarpgateError) as error:
                believed = min(self._believed.get(place, 0.0), now() + LONGEST_RESTART)
                self._believed[place] = believed
                if _passing(error) or now() >= min(given_up, believed):
                    self._emit(ServerFailed("turn", str(server), f"over {transport.name}: {error}"))
                    raise ServiceError(str(error), passing=_passing(error)) from None
            else:
                self._believed[place] = math.inf
                return allocation
            await asyncio.sleep(RESTART_PAUSE)

    async def _ask_once(self, server: TurnServer, transport: TurnTransport, wanted: RelayRequest) -> Allocation:
        routes = await self._routes(server, transport)
        ways = in_turn({str(route.endpoint): partial(self._allocate, route, wanted) for route in routes})
        for route in routes:
            for ip in other_uplinks(self._network, route.endpoint)[:OTHER_UPLINKS]:
                other = partial(self._allocate, replace(route, source=ip), wanted, UPLINK_DELAY)
                ways[f"{route.endpoint} from {ip}"] = other
        return await first_of(ways, Allocation.drop)

    async def _routes(self, server: TurnServer, transport: TurnTransport) -> list[Route]:
        """What looks like the web goes by the system's web proxy, if it names one. NetworkError without a way."""
        proxy = None
        if transport is TurnTransport.TLS:
            proxy = await self._proxies.find(server.host, tls=True)
        if proxy is not None:
            found = await self._network.resolve(proxy.host, proxy.port)
        elif server.by_service:
            found = await service_endpoints(self._network, SERVICES[transport], server.host, server.port)
        else:
            found = await self._network.resolve(server.host, server.port)
        named = (server.host, server.port) in self._named
        if not named and proxy is None:
            found = on_the_internet(found, PROVIDERS)
        elif not named:  # where the proxy would lead has to be known here, too
            on_the_internet(await self._network.resolve(server.host, server.port), PROVIDERS)
        usable = in_order([endpoint for endpoint in found if self._network.route_source(endpoint) is not None])
        if not usable:
            raise NetworkError("no route")
        return [Route(server, endpoint, transport, server.host, proxy=proxy) for endpoint in usable]

    async def _allocate(self, route: Route, wanted: RelayRequest, delay: float = 0.0) -> Allocation:
        started = asyncio.get_running_loop().time()
        if delay:
            await asyncio.sleep(delay)
        visited = {route.endpoint}
        while True:
            try:
                allocation = await self._allocate_at(route, wanted)
            except NoSuchFamily:
                if len(wanted.families) < len(Family):
                    raise
                # Of both families IPv4 is asked for first, and IPv6 besides: a server may have no IPv4 at all.
                wanted = replace(wanted, families=frozenset({Family.V6}))
                continue
            except Redirected as redirected:
                endpoint = redirected.alternate
                if len(visited) > MAX_REDIRECTS:
                    raise ServiceError(f"{route.server} sends us from one server to the next") from None
                # RFC 8489 section 10: the same family, and not where we have been before. Nor to this machine, its
                # links, or a private network, unless that is where the server is that our user has named.
                if endpoint in visited or endpoint.family is not route.endpoint.family or route.proxy:
                    raise
                if (reason := self._misdirected(endpoint, route.endpoint)) is not None:
                    raise ServiceError(f"{route.endpoint} sends us astray: {reason}") from None
                visited.add(endpoint)
                route = replace(route, endpoint=endpoint, name=redirected.domain or route.name)
                continue
            seconds = asyncio.get_running_loop().time() - started
            relayed = tuple(map(str, allocation.relayed))
            self._emit(RelayAllocated(str(route.server), route.transport.value, relayed, seconds))
            return allocation

    def _misdirected(self, alternate: Endpoint, server: Endpoint) -> str | None:
        own = {interface.ip for interface in self._network.interfaces()}
        if own & {alternate.ip, *carried_by(alternate.ip)} and server.ip not in own:
            return f"{alternate} is this machine's own address"
        return misnamed(alternate, server.ip)

    async def _allocate_at(self, route: Route, wanted: RelayRequest) -> Allocation:
        make_carrier = await self._carrier_to(route)
        allocation = Allocation(
            route, route.server.credentials(self._wall_clock(), self._user), wanted, make_carrier, self._lost
        )
        self._allocations.add(allocation)
        allocation.ended.add_done_callback(lambda _: self._allocations.discard(allocation))
        await allocation.ready()
        return allocation

    async def _carrier_to(self, route: Route) -> MakeCarrier:
        if route.transport is TurnTransport.UDP:
            return lambda on_frame, _, on_refused: UdpCarrier(self._network, route, on_frame, on_refused)
        stream = await self._dial(route)
        return lambda on_frame, on_broken, _: StreamCarrier(stream, on_frame, on_broken)

    async def _dial(self, route: Route) -> TcpStream:
        if route.transport is not TurnTransport.TLS:
            return await dial(self._network, route, None)
        return await dial(self._network, route, await self._trust.context())

    def _lost(self, allocation: Allocation, reason: str) -> None:
        self._emit(ServerFailed("turn", str(allocation.route.server), f"the relay is lost: {reason}"))

    async def _check(self, server: TurnServer, transport: TurnTransport) -> RelayCheck:
        shown = f"{server} over {transport.name}"
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(CHECK_PATIENCE):
                allocation = await self._ask(server, transport, RelayRequest(families=frozenset(Family)))
        except TimeoutError:
            return RelayCheck(shown, error=f"no answer within {CHECK_PATIENCE:g} s")
        except ServiceError as error:
            return RelayCheck(shown, error=str(error))
        seconds = asyncio.get_running_loop().time() - started
        allocation.drop()
        return RelayCheck(shown, allocation.relayed, seconds)


async def _proved(allocation: Allocation) -> Allocation:
    """As soon as its server answers; its share is dropped when that does not come."""
    try:
        await allocation.answering()
    except BaseException:
        allocation.drop()
        raise
    return allocation


def _passing(error: Exception) -> bool:
    """Whether any of the servers may do it a moment later."""
    failures = error.failures.values() if isinstance(error, RaceLost) else (error,)
    return any(isinstance(each, ServiceError) and each.passing for each in failures)


def _of(reserve: asyncio.Task[Allocation] | None) -> Allocation | None:
    """What came of asking for one; None while it is asked for, and where it was not to be had."""
    if reserve is None or not reserve.done() or reserve.cancelled() or reserve.exception() is not None:
        return None
    return reserve.result()


def _transports(server: TurnServer, relayed: Transport) -> tuple[TurnTransport, ...]:
    """How to talk to a server. TCP relays exist over streams only (RFC 6062 section 4.1), and servers listen for those
    where they listen for datagrams.
    """
    if relayed is Transport.TCP:
        return (TurnTransport.TLS if server.transport is TurnTransport.TLS else TurnTransport.TCP,)
    if server.transport is None:
        return (TurnTransport.UDP, TurnTransport.TCP)
    return (server.transport,)
