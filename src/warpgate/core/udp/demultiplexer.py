"""All UDP sockets of a node, shared by discovery, connectivity checks and pipes.

A datagram that looks like STUN and belongs to one of our transactions or sessions is ours; everything else belongs
to the pipe whose peer it came from. Nothing is done for a stranger beyond a dictionary look-up, unless its check
introduces a key, which is rationed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from warpgate.core.udp.kept_ports import KeptPorts
from warpgate.errors import NetworkError, ProtocolError
from warpgate.model.endpoint import Endpoint, SockAddr
from warpgate.model.recent import Recent
from warpgate.net.driver import MachineDriver
from warpgate.net.network import DatagramReceiver, Network, UdpSocket, Watch
from warpgate.proto.check import CheckAgent, CheckEvent
from warpgate.proto.check_wire import session_of
from warpgate.proto.machine import Transmit
from warpgate.proto.quic_wire import CONNECTION_ID_SIZE, VERSION, connection_id_of, is_of_handshake
from warpgate.proto.stun import COOKIE, is_stun

# Datagrams that overtake the nomination (which may have to be repeated) wait for the pipe, so many at most.
EARLY_LIMIT = 64
EARLY_BYTES = 4 * 1024 * 1024  # on all flows together: whoever proves a key can send some
# From so many endpoints of a session's peer; it has a few, and proves itself from each.
EXPECTED_LIMIT = 16
# To an endpoint that the peer has named, or forged, and that has not answered. About as much as the checks of one
# volley; RFC 9000 section 8.1 is stricter (three times what came), for servers that answer strangers. Here the peer has
# proved its key, and only its address has not been seen to receive.
UNVALIDATED_DATAGRAMS = 10
# With the first checks to so many pairs of endpoints, and to those from where the peer has proved itself, goes the
# beginning of what the pair is wanted for; guesses at a symmetric NAT's ports come after these, and go without.
GREETED_PAIRS = 8
# Sessions whose late checks are recognized: repeats come for 6 s, and no node has so many connects in that time.
PAST_LIMIT = 1024

Deliver = Callable[[bytes], None]
DeliverAll = Callable[[list[bytes]], object]
# Takes a datagram if it is of a connection that the path may carry.
Claim = Callable[[list[bytes]], bool]
OpenSocket = Callable[[DatagramReceiver], UdpSocket]
FlowKey = tuple[str, int]
Held = TypeVar("Held")


class Port:
    """One UDP socket and the flows of the pipes on it."""

    def __init__(self, udp: Demultiplexer, open_socket: OpenSocket) -> None:
        self.flows: dict[FlowKey, Deliver] = {}
        self.streams: dict[FlowKey, dict[bytes, DeliverAll]] = {}  # QUIC, by connection id: many on one flow
        self.unclaimed: dict[FlowKey, Claim] = {}  # paths that no connection has used yet
        # What came from where a peer has proved itself, before its nomination: for the pipe that will be here.
        self.early: dict[FlowKey, deque[bytes]] = {}
        # Whose each flow is: datagrams carry no label, so a pair of endpoints can carry one pipe.
        self.owners: dict[FlowKey, SessionChecks] = {}
        self._udp = udp
        self.socket = open_socket(self.receive)
        self.base = self.socket.local

    @property
    def in_use(self) -> bool:
        """Whether a pipe, a path or a session has a flow here."""
        return bool(self.flows or self.streams or self.unclaimed or self.owners)

    def route(self, key: FlowKey, ids: Iterable[bytes], deliver_all: DeliverAll) -> None:
        """Packets of this flow with these connection ids go there, until `unroute`."""
        routes = self.streams.setdefault(key, {})
        for connection_id in ids:
            routes[connection_id] = deliver_all
        self.socket.gather(self.take_run)

    def unroute(self, key: FlowKey, ids: Iterable[bytes], deliver_all: DeliverAll) -> None:
        """Idempotent; those that go elsewhere by now stay."""
        routes = self.streams.get(key, {})
        for connection_id in ids:
            if routes.get(connection_id) == deliver_all:
                del routes[connection_id]
        if not routes:
            self.streams.pop(key, None)

    def receive(self, data: bytes, source: SockAddr) -> None:
        """A datagram has arrived."""
        # The slices first: of a user's datagram they are all that is looked at.
        if data[4:8] == COOKIE and is_stun(data) and self._udp.take_stun(self, data, source):
            return
        key, ahead = source[:2], self._udp.ahead
        routes = self.streams.get(key) if self.streams else None
        if routes is not None and (deliver_all := routes.get(connection_id_of(data))) is not None:
            deliver_all([data])
        elif (self.unclaimed and (claim := self.unclaimed.get(key)) is not None and claim([data])) or (
            data[1:5] == VERSION and is_of_handshake(data) and self._udp.admit(self, data, source)
        ):
            return
        elif ahead and (held := ahead.get(connection_id_of(data))) is not None:
            self._udp.keep(held, (self, key, data), len(data))
        elif (deliver := self.flows.get(key)) is not None:
            deliver(data)
        elif (early := self.early.get(key)) is not None:
            self._udp.hold(early, data)
        else:
            self._udp.strays += 1

    def take_run(self, datagrams: list[bytes], source: SockAddr) -> bool:
        """Of a QUIC connection, which has the lengths of data; checks among them have to be looked at by themselves."""
        routes = self.streams.get(source[:2])
        if routes is None:
            return False
        connection_id = connection_id_of(datagrams[0])
        deliver_all = routes.get(connection_id)
        if deliver_all is None or connection_id[3:7] == COOKIE:
            return False
        # Short headers all: a check, or a packet of a handshake, has something else there.
        if {data[1 : 1 + CONNECTION_ID_SIZE] for data in datagrams} != {connection_id}:
            return False
        deliver_all(datagrams)
        return True


class SessionChecks:
    """The checks of one session on the node's sockets: agent, driver, and the flows that are its own."""

    __slots__ = (
        "_greeting",
        "_listener",
        "_udp",
        "_watch",
        "agent",
        "driver",
        "expected",
        "greeted",
        "owned",
        "peer_key",
        "relayed",
    )

    def __init__(
        self,
        udp: Demultiplexer,
        agent: CheckAgent,
        peer_key: bytes,
        on_event: Callable[[CheckEvent], None],
    ) -> None:
        self._udp = udp
        self.agent = agent
        self.peer_key = peer_key
        self.expected: list[tuple[Port, FlowKey]] = []  # where data may come early
        self.owned: list[tuple[Port, FlowKey]] = []
        self._greeting: tuple[bytes, ...] = ()
        self.greeted: dict[tuple[Endpoint, Endpoint], int] = {}  # how many datagrams, besides checks, went there
        self.relayed = False  # what was handed over goes by a relay
        self._listener = on_event
        self._watch: Watch | None = None
        self.driver: MachineDriver[CheckEvent, Transmit] = MachineDriver(agent, self._transmit, self._tell)

    def _tell(self, event: CheckEvent) -> None:
        self._listener(event)

    def greet(self, greeting: tuple[bytes, ...]) -> None:
        """Send these datagrams where checks have gone, or will go first: once to each."""
        self._greeting = greeting[:UNVALIDATED_DATAGRAMS]
        for base, remote in self.greeted:
            self._greet(base, remote)

    def _greet(self, base: Endpoint, remote: Endpoint) -> None:
        sent = self.greeted.get((base, remote), 0)
        self.greeted[base, remote] = max(sent, len(self._greeting))
        if not sent:
            for data in self._greeting:
                self._udp.transmit(Transmit(data, base, remote))

    def _transmit(self, transmit: Transmit) -> None:
        self._udp.transmit(transmit)
        if transmit.ttl is not None or (transmit.base, transmit.remote) in self.greeted:
            return
        known = self.agent.knows(transmit.base, transmit.remote)
        if len(self.greeted) < (EXPECTED_LIMIT if known else GREETED_PAIRS):
            self._greet(transmit.base, transmit.remote)

    def hand_over(self, listener: Callable[[CheckEvent], None], *, relayed: bool = False) -> None:
        """What is told from now on is told to `listener` alone: a pipe, which outlives the session.

        A relay that is gone never comes back with the same endpoints, so where it is the other end its machine's word
        counts.
        """
        self._listener = listener
        self.relayed = relayed
        if relayed and self.agent.selected is not None:
            base, remote = self.agent.selected
            self._watch = self._udp.port(base).socket.watch_refusals(remote, self._refused)

    def ask(self) -> None:
        """One check on what was chosen: see `CheckAgent.ask`."""
        self.agent.ask(self.driver.now())
        self.driver.drain()

    def _refused(self) -> None:
        self.agent.refused(self.driver.now())
        self.driver.drain()

    def end(self) -> None:
        """Nothing is sent or noticed any more."""
        self.driver.close()
        self._listener = lambda _: None
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def probe(
        self,
        base: Endpoint,
        remote: Endpoint,
        plugin: str,
        offsets: tuple[float, ...] | None,
        ttl: int | None,
    ) -> None:
        self.agent.probe(base, remote, plugin, self.driver.now(), offsets, ttl)
        self.driver.drain()

    def nominate(self, base: Endpoint, remote: Endpoint) -> None:
        self.agent.nominate(base, remote, self.driver.now())
        self.driver.drain()

    def expect(self, port: Port, key: FlowKey) -> None:
        """Data may come from here before the nomination does."""
        if key not in port.early and len(self.expected) < EXPECTED_LIMIT:
            port.early[key] = deque()
            self.expected.append((port, key))

    def own(self, port: Port, remote: Endpoint) -> None:
        """The flow is this session's from now on."""
        port.owners[remote.sockaddr] = self
        self.owned.append((port, remote.sockaddr))

    def stop_expecting(self) -> None:
        """The pipe is there, or there will be none."""
        self._greeting = ()
        for port, key in self.expected:
            self._udp.take_early(port, key)
        self.expected.clear()

    def disown(self, keep: tuple[Port, FlowKey] | None = None) -> None:
        """Give back all flows but `keep`."""
        for port, key in self.owned:
            if (port, key) != keep and port.owners.get(key) is self:
                del port.owners[key]
        self.owned = [entry for entry in self.owned if entry == keep]

    def abandon(self, reason: str) -> None:
        """It is over, and the peer need not be told."""
        self.agent.abandon(reason)
        self.driver.drain()

    def close(self) -> None:
        """Tell the peer; the session lingers until it has answered."""
        self.agent.close(self.driver.now())
        self.driver.drain()


Introduce = Callable[[Port, bytes, Endpoint], bool]
# A packet of a QUIC client's that is not on any flow yet; whether it was ours.
Admit = Callable[[Port, bytes, SockAddr], bool]


# Whether a STUN message that came to a socket is an answer to a question of the node's own.
TakeAnswer = Callable[[UdpSocket, bytes, SockAddr], bool]


def _admit_nobody(_port: Port, _data: bytes, _source: SockAddr) -> bool:
    return False


def _asked_nobody(_socket: UdpSocket, _data: bytes, _source: SockAddr) -> bool:
    return False


class Demultiplexer:
    """Owns the ports; routes what they receive."""

    def __init__(
        self,
        network: Network,
        introduce: Introduce,
        on_garbage: Callable[[Endpoint, str], None],
        admit: Admit = _admit_nobody,
        take_answer: TakeAnswer = _asked_nobody,
    ) -> None:
        """`introduce` gets checks of sessions nobody knows, and tells whether they proved a welcome key; `on_garbage`
        what claimed a session and was not of it; `take_answer` says whether STUN is an answer to discovery.
        """
        self._network = network
        self._introduce = introduce
        self._on_garbage = on_garbage
        self._ports: dict[Endpoint, Port] = {}
        self.sessions: dict[bytes, SessionChecks] = {}
        self.kept = KeptPorts(self.close_idle)
        # By connection id: what answers QUIC clients of ours that have begun, and have no flow yet, and where it came.
        self.ahead: dict[bytes, deque[tuple[Port, FlowKey, bytes]]] = {}
        self._past: Recent[bytes, None] = Recent(PAST_LIMIT)
        self._held = 0  # bytes of early datagrams on all ports
        self.strays = 0  # datagrams that belonged to nothing
        self._take_answer = take_answer
        self.admit = admit

    def open(self, local: Endpoint) -> Port:
        """Bind one more socket; NetworkError when the port is taken."""
        return self.adopt(partial(self._network.open_udp, local))

    def adopt(self, open_socket: OpenSocket) -> Port:
        """One more socket, opened by other means (on a relay); closed with its port. Raises what `open_socket` does."""
        port = Port(self, open_socket)
        self._ports[port.base] = port
        return port

    def leave_port(self, base: Endpoint, *, relayed: bool) -> None:
        """The pipe that it was opened for is over: it is kept for a while, but for one on a relay."""
        if relayed:
            self.close_port(base)
        elif base in self._ports:
            self.kept.add(base)

    def close_idle(self, base: Endpoint) -> None:
        """Later, if others have a flow there."""
        if (port := self._ports.get(base)) is not None and port.in_use:
            self.kept.again(base)
        else:
            self.close_port(base)

    def close_port(self, base: Endpoint) -> None:
        """Idempotent."""
        self.kept.take(base)
        port = self._ports.pop(base, None)
        if port is not None:
            port.flows.clear()
            port.socket.close()

    def lose(self, base: Endpoint, reason: str) -> None:
        """This socket leads nowhere any more: what has been found on it is over, and nobody can be told by it."""
        for session in tuple(self.sessions.values()):
            if session.agent.selected is not None and session.agent.selected[0] == base:
                session.abandon(reason)
        self.close_port(base)

    def ask_relayed(self) -> None:
        """Relays may be gone: whoever is reached by one is asked, as the answer may be that nobody listens there."""
        for session in tuple(self.sessions.values()):
            if session.relayed:
                session.ask()

    def close(self) -> None:
        for session in list(self.sessions.values()):
            session.agent.insist(session.driver.now())
            session.abandon("this node was closed")  # a pipe may still be waiting for its peer
            session.end()
        self.sessions.clear()
        for base in list(self._ports):
            self.close_port(base)

    def port(self, base: Endpoint) -> Port:
        """NetworkError when it was closed (its interface went away)."""
        try:
            return self._ports[base]
        except KeyError:
            raise NetworkError(f"our UDP socket {base} is closed") from None

    def has(self, base: Endpoint) -> bool:
        return base in self._ports

    @property
    def ports(self) -> tuple[Port, ...]:
        return tuple(self._ports.values())

    def owner(self, base: Endpoint, remote: Endpoint) -> SessionChecks | None:
        """Whose the flow between these endpoints is; None when it is free."""
        port = self._ports.get(base)
        return None if port is None else port.owners.get(remote.sockaddr)

    def claim(self, session: SessionChecks, base: Endpoint, remote: Endpoint) -> bool:
        """Reserve a flow for a pipe of this session; False when it is another's."""
        owner = self.owner(base, remote)
        if owner is None and base in self._ports:
            session.own(self._ports[base], remote)
            return True
        return owner is session

    def take_over(self, session: SessionChecks, base: Endpoint, remote: Endpoint) -> None:
        """The peer put this session's pipe here, so whatever else of its was here is over for it.

        NetworkError when the socket is closed, or the flow is another peer's.
        """
        port, owner = self.port(base), self.owner(base, remote)
        if owner is not None and owner.peer_key != session.peer_key:
            raise NetworkError(f"{base} -> {remote} carries the pipe of another peer")
        if owner is not None and owner is not session:
            owner.abandon("the peer opened another pipe between the same endpoints")
        session.own(port, remote)

    def hold(self, early: deque[bytes], data: bytes) -> None:
        """Keep a datagram that came before its pipe; lost where too much is held, as UDP may."""
        self.keep(early, data, len(data))

    def keep(self, held: deque[Held], item: Held, size: int) -> None:
        """The same for what is more than the `size` bytes of the datagram."""
        if len(held) < EARLY_LIMIT and self._held + size <= EARLY_BYTES:
            held.append(item)
            self._held += size

    def expect_ahead(self, connection_id: bytes) -> None:
        """Hold what comes under this id, until `end_ahead`; it is no datagram of a pipe that is there already."""
        self.ahead[connection_id] = deque()

    def take_ahead(self, connection_id: bytes, port: Port, key: FlowKey) -> list[bytes]:
        """What has come under this id by this flow, once."""
        if not (held := self.ahead.get(connection_id)):
            return []
        taken = [data for at, source, data in held if at is port and source == key]
        self.ahead[connection_id] = deque(item for item in held if item[:2] != (port, key))
        self._held -= sum(map(len, taken))
        return taken

    def end_ahead(self, connection_id: bytes) -> None:
        """Idempotent."""
        if held := self.ahead.pop(connection_id, None):
            self._held -= sum(len(data) for _, _, data in held)

    def take_early(self, port: Port, key: FlowKey) -> deque[bytes]:
        """What was held of this flow; nothing is from now on."""
        early = port.early.pop(key, deque())
        self._held -= sum(map(len, early))
        return early

    def transmit(self, transmit: Transmit) -> None:
        """Send for a machine; a closed port or a full buffer loses the datagram, which is repeated anyway."""
        port = self._ports.get(transmit.base)
        if port is not None:
            port.socket.send(transmit.data, transmit.remote.sockaddr, transmit.ttl)

    def take_stun(self, port: Port, data: bytes, source: SockAddr) -> bool:
        """Whether it was ours: only what verifies is; the rest may be a user's datagram."""
        if self._take_answer(port.socket, data, source):
            return True
        session_id = session_of(data)
        if session_id is None:
            return False
        session = self.sessions.get(session_id)
        remote = Endpoint.from_sockaddr(source)
        if session is None:
            known_place = source[:2] in port.flows
            if known_place and session_id in self._past:
                return True  # a late check of a session that is over
            # The peer of a pipe may have been restarted, or open another one; what proves nothing is the user's.
            return self._introduce(port, data, remote) or not known_place
        try:
            session.driver.receive(data, port.base, remote)
        except ProtocolError as error:
            self._on_garbage(remote, str(error))
            return False
        if session.agent.selected is None and session.agent.knows(port.base, remote):
            session.expect(port, source[:2])
        return True

    def retire(self, session_id: bytes) -> None:
        """This session is over (but for its pipe): what its peer still sends is nobody's."""
        self._past[session_id] = None

    def forget(self, session: SessionChecks) -> None:
        """Stop routing for a session; its pipe's flow, if any, is the pipe's own."""
        session.end()
        session.disown()
        session.stop_expecting()
        self.sessions.pop(session.agent.session, None)
