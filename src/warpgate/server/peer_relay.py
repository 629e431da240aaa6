"""A node's machine as a relay for the peers that it lets in (`listen --relay`): two behind strict NATs meet there.

It is the relay of `serve`, on a port of its own, with a secret that nobody is told. A peer asks over a pipe of the
service "relay", which has proved its key, and gets credentials with its node id in them for an hour: so the owner
sees who uses it. What peers of it may take is a home's uplink, not a server's.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable

from warpgate.core.node import Node
from warpgate.core.pipes.base import Pipe
from warpgate.core.port_mapping import PortMapping
from warpgate.lazy_dataclass import dataclass
from warpgate.model.attachment import Attachment
from warpgate.model.endpoint import Endpoint, Family, IPAddress, Transport
from warpgate.model.scope import Scope, scope_of
from warpgate.model.turn_server import time_limited
from warpgate.net.network import Network
from warpgate.proto.relay_limits import MEBIBYTE, RelayLimits
from warpgate.server.relay import RelayAddress, RelayService, RelaySettings

# Seconds for which credentials are good; peers ask again when three quarters are over.
LIFETIME = 3600
# From the node's own port to the relay's; the next one is that of a process beside it.
BESIDE = 2
# Two members' pipes and the searches for them; 32 Mbit/s in all is an uplink's share, not the whole of most.
LIMITS = RelayLimits(
    allocations_per_user=32,
    allocations=64,
    bytes_per_second_per_user=2.0 * MEBIBYTE,
    bytes_per_second=4.0 * MEBIBYTE,
)


@dataclass(frozen=True, slots=True)
class RelayUse:
    """What `status` tells: allocations by node id, and the bytes that were relayed since the start."""

    reachable: tuple[str, ...]
    allocations: dict[str, int]
    relayed: int


class PeerRelay:
    """Life: made; `open` when the node runs, `tell` for each pipe of the service; `close`.

    The relay itself is made anew when the addresses are others than it was made for: what it relayed has ended then.
    """

    def __init__(
        self,
        node: Node,
        network: Network,
        port: int | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`port` for clients; None: near the node's own."""
        self._node = node
        self._network = network
        self._port = port
        self._wall_clock = wall_clock
        self._mapping: PortMapping | None = None
        self._secret = secrets.token_urlsafe(24)
        self._relay: RelayService | None = None
        self._made_for: dict[Family, RelayAddress] = {}
        self._before = 0  # bytes that relays before this one have carried

    @property
    def entrances(self) -> tuple[tuple[Endpoint, Transport], ...]:
        """Where peers may find it: public addresses of this machine, and what routers map to the port."""
        port = self._port
        if port is None or self._mapping is None:
            return ()
        found: dict[tuple[Endpoint, Transport], None] = {}
        for at in self._node.address.attachments:
            for transport in Transport:
                mapped = self._mapping.mapped(at.host, transport)
                entrance = Endpoint(at.host, port) if scope_of(at.host) is Scope.GLOBAL else mapped
                if entrance is not None and scope_of(entrance.ip) is Scope.GLOBAL:
                    found[entrance, transport] = None
        return tuple(found)

    @property
    def use(self) -> RelayUse:
        machine = None if self._relay is None else self._relay.machine
        users = [] if machine is None else [each.user.partition(":")[2] for each in machine.allocations.values()]
        reachable = dict.fromkeys(str(endpoint) for endpoint, _ in self.entrances)
        return RelayUse(tuple(reachable), dict(Counter(users)), self._before + self._carried)

    async def open(self) -> None:
        """Make the relay, if there is an address for it. NetworkError when the port is taken."""
        if self._port is None:
            beside = self._node.port + BESIDE
            self._port = beside if beside <= 65535 else beside - 2 * BESIDE
        self._mapping = self._node.map_port(self._port)
        wanted = self._addresses()
        if self._relay is not None and wanted == self._made_for:
            return
        await self.close()
        if not wanted:
            return
        hosts = dict.fromkeys(at.host for at in self._node.address.attachments)
        own = frozenset(interface.ip for interface in self._network.interfaces())
        self._relay = RelayService.open(
            self._network,
            [Endpoint(host, self._port) for host in hosts if host in own],  # a NAT64's is no address of ours
            RelaySettings(self._secret, wanted, own, limits=LIMITS),
            wall_clock=self._wall_clock,
        )
        self._made_for = wanted

    async def close(self) -> None:
        """Idempotent."""
        self._before += self._carried
        relay, self._relay = self._relay, None
        if relay is not None:
            await relay.close()

    async def tell(self, pipe: Pipe) -> None:
        """Credentials for the peer at the other end, as a provider would hand them out. NetworkError, PipeClosed."""
        await self.open()
        servers = [
            f"turn:{endpoint}?transport={transport.value}"
            for endpoint, transport in (self.entrances if self._relay is not None else ())
        ]
        login = time_limited(self._secret, int(self._wall_clock()) + LIFETIME, pipe.peer)
        answer = {
            "ttl": LIFETIME,
            "iceServers": [{"urls": servers, "username": login.user, "credential": login.password}],
        }
        await pipe.send(json.dumps(answer).encode("ascii"))

    @property
    def _carried(self) -> int:
        if self._relay is None:
            return 0
        counters = self._relay.machine.counters
        return counters.bytes_to_peers + counters.bytes_to_clients

    def _addresses(self) -> dict[Family, RelayAddress]:
        """One a family, as the world sees it: a relayed endpoint behind a NAT is good for those who have one, too."""
        found: dict[Family, RelayAddress] = {}
        for at in self._node.address.attachments:
            outside = _outside(at)
            if outside is not None:
                found.setdefault(at.family, RelayAddress(at.host, outside))
        return found


def _outside(at: Attachment) -> IPAddress | None:
    for ip in (at.host, at.reflexive):
        if ip is not None and scope_of(ip) is Scope.GLOBAL:
            return ip
    return None
