"""What every search of a node works with: its sockets, its servers, and the books that bound all searches together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from warpgate.core.connection.quic_bounds import Holdings
from warpgate.core.context import Context
from warpgate.core.found_pairs import FoundPairs
from warpgate.core.search.budget import RandomPunches
from warpgate.core.search.links import UnchosenLinks
from warpgate.core.search.outbox import Pace
from warpgate.core.search.rations import Ration
from warpgate.core.udp.demultiplexer import Demultiplexer
from warpgate.errors import ProtocolError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import BrokerRef
from warpgate.model.endpoint import Endpoint
from warpgate.model.identity import node_id_of
from warpgate.model.recent import Recent
from warpgate.net.network import TcpStream
from warpgate.proto.bucket import TokenBucket
from warpgate.proto.envelope import seal
from warpgate.proto.signals import Signal
from warpgate.services.discovery import Discovery
from warpgate.services.relay import Relays
from warpgate.services.signaling import SignalChannel

TOPIC = "warpgate/2/"
HALF_OPEN_REMEMBERED = 256
CLOCKS_REMEMBERED = PACES_REMEMBERED = 256
# Relayed ones of a peer: one of each family, over UDP and over TCP.
ENDPOINTS_PER_SESSION = 4


@dataclass(frozen=True, slots=True)
class Equipment:
    """Made when the parts are there, and handed to whoever begins a session; it outlives all of them."""

    context: Context
    udp: Demultiplexer
    discovery: Discovery
    channel: SignalChannel
    relays: Relays
    accept: Callable[[TcpStream], None]  # takes a TCP connection that has proved nothing yet
    unchosen: UnchosenLinks
    random_punches: RandomPunches
    relay_targets: Ration
    peer_searches: TokenBucket  # for peers that our user did not ask for
    clocks: Recent[bytes, float]  # of peers that challenged us, by their keys: seconds ahead of ours
    paces: Recent[bytes, Pace]  # by the peer's key
    quic_holdings: Holdings
    found: FoundPairs
    half_open: Recent[tuple[Endpoint, Endpoint], float]  # TCP dials that were broken off: from, to, and when

    @classmethod
    def of(
        cls,
        context: Context,
        udp: Demultiplexer,
        discovery: Discovery,
        channel: SignalChannel,
        relays: Relays,
        accept: Callable[[TcpStream], None],
        found: FoundPairs,
    ) -> Equipment:
        """With new books, within the node's budgets."""
        budgets = context.config.budgets
        rate = budgets.relay_targets_per_second
        return cls(
            context,
            udp,
            discovery,
            channel,
            relays,
            accept,
            UnchosenLinks(context.within_descriptors(budgets.unchosen_links)),
            RandomPunches(budgets),
            Ration(rate, 4 * rate, context.now(), ENDPOINTS_PER_SESSION),
            TokenBucket(budgets.searches_per_second, budgets.searches_at_once, context.now()),
            Recent(CLOCKS_REMEMBERED),
            Recent(PACES_REMEMBERED),
            Holdings(),
            found,
            Recent(HALF_OPEN_REMEMBERED),
        )

    def pace(self, peer_key: bytes) -> Pace:
        pace = self.paces.get(peer_key) or Pace()
        self.paces[peer_key] = pace
        return pace

    def publish(self, peer_key: bytes, signal: Signal, brokers: tuple[BrokerRef, ...]) -> int:
        """Seal a signal to its receiver; on how many of the brokers it went out at once. ProtocolError: too large."""
        context, peer = self.context, node_id_of(peer_key)
        message_id = context.random_bytes(16)
        mark = partial(context.acquainted.marks.mark, peer)
        try:
            data = seal(context.identity, peer_key, signal, message_id, mark)
        except ProtocolError:
            if not signal.flight:
                raise
            data = seal(context.identity, peer_key, msgspec.structs.replace(signal, flight=()), message_id, mark)
        return self.channel.publish(tuple(broker.url for broker in brokers), TOPIC + peer, data)
