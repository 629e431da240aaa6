"""What one session has to do with relays: its own allocations, and the peer's relayed endpoints that it may use.

A peer's relay is an address that is *not* the peer's own, so letting a peer name one lets it aim us at a third party.
What that can do is bounded: two endpoints of each transport a session, public unicast addresses and unprivileged
ports only, a handful of checks (or one dialling) each, and `relay_targets_per_second` for the whole node, whoever
asks: a victim gets less than a kilobyte a second, which the attacker could as well send itself.

A relay may have a private address (coturn behind a NAT of its cloud's, without external-ip). Two clients of it still
meet there, each by its own allocation; from elsewhere that address is somebody else's, and nothing is sent to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from warpgate.core.search.equipment import ENDPOINTS_PER_SESSION, Equipment
from warpgate.core.search.ports import SessionPorts
from warpgate.core.udp.demultiplexer import SessionChecks
from warpgate.errors import AttemptFailed, ServiceError
from warpgate.events import SignalRefused
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Family, IPAddress, Transport
from warpgate.net.network import DatagramReceiver, TcpStream, UdpSocket
from warpgate.plan.relay import MAX_TARGETS, relay_families, relay_targets
from warpgate.plan.targets import WELL_KNOWN_PORTS, refusal
from warpgate.services.relay_allocation import Allocation
from warpgate.services.relay_tcp import TcpRelay

# Let in to our relay: the addresses that the peer has now, and those of a few moves.
PERMITTED_PER_SESSION = 4 * MAX_TARGETS


class RelayUser(Protocol):
    """What this needs of its session."""

    @property
    def equipment(self) -> Equipment: ...
    @property
    def remote(self) -> NodeAddress: ...
    @property
    def peer(self) -> str: ...
    @property
    def peer_key(self) -> bytes: ...
    @property
    def invited(self) -> bool: ...
    @property
    def checks(self) -> SessionChecks: ...
    @property
    def ports(self) -> SessionPorts: ...


class SessionRelays:
    """Given back with the session, but for what its pipe took along; implements `plugins.base.Relay`."""

    def __init__(self, session: RelayUser) -> None:
        self._session = session
        self._equipment = session.equipment
        self._context = session.equipment.context
        self._relayed: set[Endpoint] = set()  # of either side: a link to or from one is relayed
        self._admitted: dict[Endpoint, bool] = {}  # whether we may call it ourselves
        # More than one of each where nothing came by the first; also what its server has forgotten.
        self._udp: list[Allocation] = []
        self._tcp: list[TcpRelay] = []
        self._permitted: dict[Endpoint, set[IPAddress]] = {}  # by our relayed endpoint
        self._over = False

    def carry(self, plugin: str, local: Endpoint, remote: Endpoint) -> bool:
        """Whether a plugin's link between these runs over a relay.

        The first packet from the peer's relay may be here before the message that tells of it; the plugin knows.
        """
        strategy = self._context.registry.all().get(plugin)
        by_nature = strategy is not None and strategy.relays
        return by_nature or local in self._relayed or remote in self._relayed

    @property
    def configured(self) -> bool:
        return self._equipment.relays.configured

    @property
    def heard(self) -> bool:
        return any(allocation.heard for allocation in self._udp) or any(relay.heard for relay in self._tcp)

    @property
    def offered(self) -> bool:
        """Whether the peer has named a relay of its own that may be tried."""
        return bool(self._admitted)

    async def open_udp(self) -> tuple[Endpoint, ...]:
        asked = [allocation.route.server for allocation in self._udp]
        # A server that was restarted is as good as before, and one that forgets again is not.
        before = [one.route.server for one in self._udp if one.alive or asked.count(one.route.server) > 1]
        families = relay_families(self._session.remote)
        allocation = await self._equipment.relays.open_udp(families, before, self._session.peer_key)
        try:
            self._check_open()
            self._udp.append(allocation)
            for relayed in allocation.relayed:  # perhaps the same as before the restart
                self._permitted.pop(relayed, None)
            self.let_in()
            return tuple([self._adopt(allocation, relayed) for relayed in allocation.relayed])
        finally:
            allocation.drop()  # its sockets hold shares of their own

    async def lost_udp(self, silence: float, patience: float) -> bool:
        newest = self._udp[-1]
        others = set(self._equipment.relays.servers).difference(one.route.server for one in self._udp)
        try:
            async with asyncio.timeout(silence if others else None):
                await newest.answering()
        except (ServiceError, TimeoutError):
            return True
        await asyncio.wait([newest.ended], timeout=patience)
        return newest.ended.done()

    def _adopt(self, allocation: Allocation, relayed: Endpoint) -> Endpoint:
        def open_socket(receiver: DatagramReceiver) -> UdpSocket:
            return allocation.socket(relayed, receiver)

        udp = self._equipment.udp
        base = self._session.ports.adopt(udp.adopt(open_socket).base)
        gone = f"the relay {allocation.route.endpoint} does not relay for us any more"
        allocation.ended.add_done_callback(lambda _: udp.lose(base, gone))
        self._session.checks.agent.trust(relayed)
        self._relayed.add(relayed)
        return relayed

    async def open_tcp(self) -> tuple[Endpoint, ...]:
        families = relay_families(self._session.remote)
        family = Family.V4 if Family.V4 in families else Family.V6
        before = [relay.server for relay in self._tcp]
        relay = await self._equipment.relays.open_tcp(family, self._equipment.accept, before)
        try:
            self._check_open()
        except BaseException:
            relay.close()
            raise
        self._tcp.append(relay)
        self._relayed.add(relay.endpoint)
        self.let_in()
        for admitted in self._admitted:
            relay.permit(admitted.ip)
        return (relay.endpoint,)

    async def dial(self, remote: Endpoint) -> TcpStream:
        if not self._tcp:
            raise ServiceError("there is no TCP relay of ours")
        if remote not in self._admitted:
            raise AttemptFailed(f"{remote} was not admitted")
        return await self._tcp[-1].connect(remote)

    def let_in(self) -> None:
        """Where the peer is now, as far as we know, its packets may come from: it may have moved since.

        By permission alone. A datagram from the relay would do as well, but a router that takes in strangers' packets
        itself moves the peer's port at that, and every later punch misses.
        """
        for allocation in self._udp:
            if allocation.alive:
                for relayed in allocation.relayed:
                    self._permit(relayed, allocation.permit, Transport.UDP)
        for relay in self._tcp:
            self._permit(relay.endpoint, relay.permit, Transport.TCP)

    def _permit(self, relayed: Endpoint, permit: Callable[[IPAddress], None], transport: Transport) -> None:
        permitted = self._permitted.setdefault(relayed, set())
        targets = relay_targets(self._context.address, self._session.remote, relayed.family, transport)
        for ip in dict.fromkeys(target.ip for target in targets):
            if ip not in permitted and len(permitted) < PERMITTED_PER_SESSION:
                permitted.add(ip)
                permit(ip)

    def admit(self, endpoints: Sequence[Endpoint], *, again: bool = False) -> tuple[Endpoint, ...]:
        """Those of the peer's relayed endpoints that may be tried; AttemptFailed when it names none such."""
        allowed = []
        reason = "the peer names no relayed endpoint"
        for endpoint in dict.fromkeys(endpoints):
            obstacle = self._obstacle(endpoint)
            refused = None if endpoint in self._admitted else self._refusal(endpoint, obstacle)
            if refused is not None:
                reason = refused
                if not again:
                    self._context.emit(SignalRefused(self._session.peer, refused))
                continue
            self._admitted[endpoint] = obstacle is None
            self._relayed.add(endpoint)
            for relay in self._tcp:
                relay.permit(endpoint.ip)
            allowed.append(endpoint)
        if not allowed:
            raise AttemptFailed(reason)
        return tuple(allowed)

    def reachable(self, endpoint: Endpoint) -> bool:
        return self._admitted.get(endpoint, False)

    def _refusal(self, endpoint: Endpoint, obstacle: str | None) -> str | None:
        if len(self._admitted) >= ENDPOINTS_PER_SESSION:
            return f"the peer names more than {ENDPOINTS_PER_SESSION} relayed endpoints"
        context, session = self._context, self._session
        own_relay = endpoint.ip in self._equipment.relays.addresses and endpoint.port >= WELL_KNOWN_PORTS
        if obstacle is not None and not own_relay:
            return obstacle
        crowds = () if session.invited else (session.peer_key,)
        known = session.invited or context.knows(session.peer_key)
        taken = self._equipment.relay_targets.take(context.now(), known, *crowds)
        return None if taken else "too many relayed endpoints to try at once"

    def _obstacle(self, endpoint: Endpoint) -> str | None:
        """Why nothing may be sent to `endpoint` from here. The server that we talk with is our user's choice."""
        context, session = self._context, self._session
        if endpoint.ip in self._equipment.relays.hosts and endpoint.port >= WELL_KNOWN_PORTS:
            return None
        return refusal(endpoint, context.address, session.remote, context.around, session.invited)

    def _check_open(self) -> None:
        if self._over:
            raise AttemptFailed("the attempt is over")

    def close(self) -> None:
        """UDP sockets are the session's; streams that were handed out keep the TCP relay alive."""
        self._over = True
        for relay in self._tcp:
            relay.close()
        heard = {allocation.route.server for allocation in self._udp if allocation.heard}
        if heard:
            for server in {allocation.route.server for allocation in self._udp[:-1]} - heard:
                self._equipment.relays.led_nowhere(server, self._session.peer_key)
        self._udp.clear()
        self._tcp.clear()
