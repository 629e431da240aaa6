"""A TURN server (RFC 8656 over datagrams and streams, RFC 6062 for TCP with the peers), sans-I/O.

It owns who has an allocation, who may send through it, and what that may cost. It knows no sockets: bytes come with
the `Path` of a client or the address of a peer, and leave by `poll_transmit`; ports and connections are asked for by
`poll_event`. Rules:

* Nothing is kept for whoever has not logged in, and what is sent to them is limited by their address: a flood costs
  a table look-up, a victim whose address is forged gets little more than was sent in its name.
* A peer is a host of the internet, or of a network that the owner named; what reaches nothing but us, our site or our
  link is refused (403), as IPv4 inside IPv6 too. Our own addresses are peers at the ports of other allocations only,
  and such datagrams never leave this machine: a relay cannot be led to its own services, nor into a circle.
* Peers pass by permission (section 9), which lasts 300 s; a channel lasts 600 s. Both are looked at with each
  datagram, so what has expired relays nothing even before it is swept away.
* Bytes are counted for a user and in total, both ways together: over its rate a datagram is lost, a stream waits.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from ipaddress import ip_address

from warpgate.errors import DecodeError
from warpgate.model.endpoint import PROTOCOL_NUMBERS, Endpoint, Family, IPAddress, SockAddr, Transport
from warpgate.proto.machine import Outputs
from warpgate.proto.relay_admission import Admission, Login, Refused
from warpgate.proto.relay_limits import Meter, PeerPolicy, RelayLimits, user_of
from warpgate.proto.relay_state import (
    Allocation,
    Asked,
    Call,
    Channel,
    ClosePorts,
    DialPeer,
    DropCall,
    JoinStreams,
    OpenPorts,
    Path,
    RelayCounters,
    RelayEvent,
    RelayOutput,
    ToClient,
    ToPeer,
    Usage,
)
from warpgate.proto.stun import (
    Attribute,
    Attributes,
    ErrorCode,
    FamilyError,
    Method,
    StunClass,
    StunMessage,
    decode,
    encode,
    is_stun,
)
from warpgate.proto.stun_server import LIMITER_PLACES, SourceLimiter
from warpgate.proto.turn_wire import FIRST_CHANNEL, LAST_CHANNEL, pack_channel_data

LIFETIME, MAX_LIFETIME = 600, 3600  # RFC 8656 section 3.2 and 7.2
PERMISSION_LIFETIME = 300.0  # section 9
CHANNEL_LIFETIME = 600.0  # section 12
CALL_LIFETIME = 30.0  # RFC 6062 section 5.2 and 5.3: to connect, and to be bound
SWEEP = 5.0
# IPv4 and UDP headers: empty datagrams are not free.
OVERHEAD = 28
# Users that are remembered, with and without allocations. They have logged in.
USERS = 65536
# Of requests, each at most a challenge of some 130 bytes. A node takes three a minute, and its first log-in.
SOURCE_RATE, SOURCE_BURST = 50.0, 300.0
_TRANSPORTS = {number: transport for transport, number in PROTOCOL_NUMBERS.items()}
_UNDERSTOOD = frozenset({
    Attribute.USERNAME,
    Attribute.REALM,
    Attribute.NONCE,
    Attribute.PASSWORD_ALGORITHM,
    Attribute.CHANNEL_NUMBER,
    Attribute.LIFETIME,
    Attribute.XOR_PEER_ADDRESS,
    Attribute.REQUESTED_ADDRESS_FAMILY,
    Attribute.EVEN_PORT,
    Attribute.REQUESTED_TRANSPORT,
    Attribute.RESERVATION_TOKEN,
    Attribute.CONNECTION_ID,
})  # fmt: skip
_SEND_UNDERSTOOD = frozenset({Attribute.XOR_PEER_ADDRESS, Attribute.DATA})


class RelayServer(Outputs[RelayEvent, RelayOutput]):
    """A machine. `addresses`: one of ours a family, as clients are told of it; `policy.own` holds all of ours."""

    def __init__(
        self,
        admission: Admission,
        addresses: Mapping[Family, IPAddress],
        policy: PeerPolicy,
        now: float,
        *,
        salt: bytes,
        limits: RelayLimits | None = None,
    ) -> None:
        super().__init__()
        self.counters = RelayCounters()
        self.allocations: dict[Path, Allocation] = {}
        self.calls: dict[int, Call] = {}
        self.limits = limits or RelayLimits()
        self._admission = admission
        self._addresses = dict(addresses)
        self._announced = frozenset(map(str, addresses.values()))
        self._policy = policy
        self._salt = salt
        self._limiter = SourceLimiter(SOURCE_RATE, SOURCE_BURST, now, salt=salt, places=LIMITER_PLACES)
        self._total = Meter(self.limits.bytes_per_second, self.limits.bytes_per_day, now)
        self._usages: dict[object, Usage] = {}
        self._relayed: dict[tuple[Transport, str, int], Allocation] = {}
        self._numbered = 0
        self._swept = now

    # -- from clients --------------------------------------------------------------------------------------------

    def receive(self, data: bytes, path: Path, now: float) -> None:
        """A datagram, or a frame of a stream. What is not well-formed, not allowed, or not ours is passed over."""
        if data and 0x40 <= data[0] < 0x50:
            self._channel_data(data, path, now)
        elif is_stun(data):
            self._stun(data, path, now)
        else:
            self.counters.ignored += 1

    def gone(self, path: Path) -> None:
        """The client's stream has ended, and its allocation with it (RFC 8656 section 3.1)."""
        allocation = self.allocations.get(path)
        if allocation is not None:
            self._release(allocation)

    def _channel_data(self, data: bytes, path: Path, now: float) -> None:
        allocation = self._live(path, now)
        if allocation is None or len(data) < 4:
            self.counters.ignored += 1
            return
        channel = allocation.channels.get(data[0] << 8 | data[1])
        size = data[2] << 8 | data[3]
        if channel is None or now >= channel.expires or size > len(data) - 4:
            self.counters.dropped_permission += 1
            return
        self._to_peer(allocation, data[4 : 4 + size], channel.peer, now)

    def _stun(self, data: bytes, path: Path, now: float) -> None:
        allocation = self._live(path, now)
        # The class bits of a request are zero (RFC 8489 figure 3); datagrams to relay are no requests.
        request = not (data[0] & 0x01 or data[1] & 0x10)
        if (request or allocation is None) and not self._limiter.take(ip_address(path.host), now):
            self.counters.limited += 1
            return
        try:
            message = decode(data)
        except DecodeError:
            self.counters.ignored += 1
            return
        if message.cls is StunClass.REQUEST:
            self._request(message, data, path, allocation, now)
        elif message.method == Method.SEND and message.cls is StunClass.INDICATION and allocation is not None:
            self._send_indication(message, allocation, now)
        else:
            self.counters.ignored += 1

    def _send_indication(self, message: StunMessage, allocation: Allocation, now: float) -> None:
        """RFC 8656 section 11.2; what it asks for and we do not have (DONT-FRAGMENT) costs it the datagram."""
        peer, data = message.endpoint(Attribute.XOR_PEER_ADDRESS), message.raw(Attribute.DATA)
        if peer is None or data is None or message.unknown(_SEND_UNDERSTOOD):
            self.counters.ignored += 1
        else:
            self._to_peer(allocation, data, peer.sockaddr, now)

    def _to_peer(self, allocation: Allocation, data: bytes, peer: tuple[str, int], now: float) -> None:
        if now >= allocation.permissions.get(peer[0], 0.0) or allocation.transport is not Transport.UDP:
            self.counters.dropped_permission += 1
        elif not peer[1]:
            self.counters.ignored += 1
        elif self._paid(allocation, len(data), now):
            self.counters.bytes_to_peers += len(data)
            if peer[0] not in self._announced:
                self._outbox.append(ToPeer(allocation, data, peer))
                return
            other = self._relayed.get((Transport.UDP, *peer))
            source = allocation.relayed.get(Family.V6 if ":" in peer[0] else Family.V4)
            if other is not None and source is not None:
                self.from_peer(other, data, source.sockaddr, now)
            else:
                self.counters.dropped_permission += 1

    def _paid(self, allocation: Allocation, size: int, now: float) -> bool:
        if self._total.wait(now) or allocation.usage.meter.wait(now):
            self.counters.dropped_rate += 1
            return False
        self._total.take(size + OVERHEAD)
        allocation.usage.meter.take(size + OVERHEAD)
        return True

    # -- from peers ----------------------------------------------------------------------------------------------

    def from_peer(self, allocation: Allocation, data: bytes, source: SockAddr, now: float) -> None:
        """A datagram that came to one of its relayed ports."""
        if now >= allocation.expires or now >= allocation.permissions.get(source[0], 0.0):
            self.counters.dropped_permission += 1
            return
        if not self._paid(allocation, len(data), now):
            return
        self.counters.bytes_to_clients += len(data)
        channel = allocation.by_peer.get(source[:2])
        if channel is not None and now < channel.expires:
            frame = pack_channel_data(channel.number, data, padded=allocation.path.stream != 0)
        else:
            peer = Endpoint.from_sockaddr(source)
            attributes = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data))
            try:
                frame = self._indication(Method.DATA, attributes)
            except ValueError:  # the largest datagrams do not fit
                self.counters.ignored += 1
                return
        self._outbox.append(ToClient(allocation.path, frame))

    def called(self, allocation: Allocation, peer: Endpoint, now: float) -> Call | None:
        """A peer has connected to the relayed TCP port: to be kept for its client, or (None) to be dropped."""
        permitted = now < min(allocation.permissions.get(str(peer.ip), 0.0), allocation.expires)
        if not permitted or self._busy(allocation):
            self.counters.dropped_permission += 1
            return None
        call = self._call(allocation, peer, now)
        attributes = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.CONNECTION_ID, call.number))
        self._outbox.append(ToClient(allocation.path, self._indication(Method.CONNECTION_ATTEMPT, attributes)))
        return call

    def dialled(self, call: Call, now: float, *, connected: bool) -> None:
        """The outcome of `DialPeer`."""
        asked, call.asked = call.asked, None
        if call.number not in self.calls or asked is None:
            return
        if connected:
            call.deadline = now + CALL_LIFETIME
            self._grant(asked, call.allocation.path, ((Attribute.CONNECTION_ID, call.number),))
        else:
            del self.calls[call.number], call.allocation.calls[call.number]
            self._refuse(asked.message, call.allocation.path, Refused(447), asked.login)

    def ended(self, call: Call) -> None:
        """The call's connection is over."""
        self.calls.pop(call.number, None)
        call.allocation.calls.pop(call.number, None)

    def stream_wait(self, call: Call, size: int, now: float, *, to_peer: bool) -> float:
        """Count bytes that a joined stream has carried; how long it has to wait before the next."""
        allocation = call.allocation
        if to_peer:
            self.counters.bytes_to_peers += size
        else:
            self.counters.bytes_to_clients += size
        self._total.take(size)
        allocation.usage.meter.take(size)
        return max(self._total.wait(now), allocation.usage.meter.wait(now))

    # -- requests ------------------------------------------------------------------------------------------------

    def _request(
        self, message: StunMessage, data: bytes, path: Path, allocation: Allocation | None, now: float
    ) -> None:
        if message.method == Method.BINDING:
            source = Endpoint.of(path.host, path.port)
            self._answer(message, path, StunClass.SUCCESS, ((Attribute.XOR_MAPPED_ADDRESS, source),), None)
            return
        login = None
        try:
            login = self._admission.judge(message, data, path.host)
            if message.unknown(_UNDERSTOOD):
                raise Refused(420)
            asked = Asked(message, login)
            if message.method == Method.ALLOCATE:
                self._allocate(asked, path, allocation, now)
            elif message.method == Method.CONNECTION_BIND:
                self._bind(asked, path, allocation)
            elif allocation is None:
                raise Refused(437)
            elif allocation.user != login.user:
                raise Refused(441)
            elif message.method == Method.REFRESH:
                self._refresh(asked, allocation, now)
            elif message.method == Method.CREATE_PERMISSION:
                self._create_permission(asked, allocation, now)
            elif message.method == Method.CHANNEL_BIND:
                self._channel_bind(asked, allocation, now)
            elif message.method == Method.CONNECT:
                self._connect(asked, allocation, now)
            else:
                raise Refused(400)
        except Refused as refused:
            self._refuse(message, path, refused, login)

    def _allocate(self, asked: Asked, path: Path, allocation: Allocation | None, now: float) -> None:
        message, user = asked.message, asked.login.user
        if allocation is not None:
            if allocation.asked.message.transaction_id != message.transaction_id:
                raise Refused(437)
            self._outbox.append(ToClient(path, allocation.answer))
            return
        if self._admission.expired(user):
            raise Refused(401, challenge=True)
        transport = self._wanted_transport(message, path)
        families = self._wanted_families(message, transport)
        network = user_of(ip_address(path.host))
        usage = self._usages.get(network)
        if len(self.allocations) >= self.limits.allocations:
            raise Refused(508)
        if usage is None:
            if len(self._usages) >= USERS:
                raise Refused(508)
            meter = Meter(self.limits.bytes_per_second_per_user, self.limits.bytes_per_day_per_user, now)
            usage = self._usages[network] = Usage(meter)
        elif usage.allocations >= self.limits.allocations_per_user:
            raise Refused(486)
        usage.allocations += 1
        wanted = message.number(Attribute.LIFETIME)
        lifetime = LIFETIME if wanted is None else min(max(wanted, LIFETIME), MAX_LIFETIME)
        expires = now + lifetime
        made = Allocation(path, user, usage, transport, families, lifetime, expires, asked)
        self.allocations[path] = made
        self._events.append(OpenPorts(made))

    def _wanted_transport(self, message: StunMessage, path: Path) -> Transport:
        protocol = message.number(Attribute.REQUESTED_TRANSPORT)
        if protocol is None:
            raise Refused(400)
        transport = _TRANSPORTS.get(protocol)
        if transport is None:
            raise Refused(442)
        special = Attribute.EVEN_PORT in message or Attribute.RESERVATION_TOKEN in message
        if transport is Transport.TCP and (special or not path.stream):  # RFC 6062 section 5.1
            raise Refused(400)
        if special:  # we keep no pairs of ports for RTP
            raise Refused(508)
        return transport

    def _wanted_families(self, message: StunMessage, transport: Transport) -> tuple[Family, ...]:
        """Those of them that we have; RFC 8656 section 7.2."""
        requested = message.get(Attribute.REQUESTED_ADDRESS_FAMILY)
        additional = message.get(Attribute.ADDITIONAL_ADDRESS_FAMILY)
        if additional is not None and (
            requested is not None or additional is not Family.V6 or transport is Transport.TCP
        ):
            raise Refused(400)
        wanted = (Family.V4, Family.V6) if additional is not None else (requested or Family.V4,)
        found = tuple(family for family in wanted if family in self._addresses)
        if not found:
            raise Refused(440)
        return found

    def opened(self, allocation: Allocation, ports: Mapping[Family, int]) -> None:
        """The answer to `OpenPorts`; without a port there is no allocation (508)."""
        path, asked = allocation.path, allocation.asked
        allocation.relayed = {family: Endpoint(self._addresses[family], port) for family, port in ports.items()}
        if not allocation.relayed:
            self._release(allocation)
            self._refuse(asked.message, path, Refused(508), asked.login)
            return
        for endpoint in allocation.relayed.values():
            self._relayed[allocation.transport, *endpoint.sockaddr] = allocation
        attributes: Attributes = tuple(
            (Attribute.XOR_RELAYED_ADDRESS, endpoint) for endpoint in allocation.relayed.values()
        )
        attributes += (
            (Attribute.LIFETIME, allocation.lifetime),
            (Attribute.XOR_MAPPED_ADDRESS, Endpoint.of(path.host, path.port)),
        )
        if Attribute.ADDITIONAL_ADDRESS_FAMILY in asked.message and len(allocation.relayed) == 1:
            missing = Family.V6 if Family.V4 in allocation.relayed else Family.V4
            attributes += ((Attribute.ADDRESS_ERROR_CODE, FamilyError(missing, ErrorCode(440))),)
        self.counters.allocated += 1
        allocation.answer = self._grant(asked, path, attributes)

    def _refresh(self, asked: Asked, allocation: Allocation, now: float) -> None:
        message = asked.message
        family = message.get(Attribute.REQUESTED_ADDRESS_FAMILY)
        if family is not None and family not in allocation.relayed:
            raise Refused(443)
        wanted = message.number(Attribute.LIFETIME)
        if wanted == 0:
            if family is not None and len(allocation.relayed) > 1:
                endpoint = allocation.relayed.pop(family)
                self._relayed.pop((allocation.transport, *endpoint.sockaddr), None)
                self._events.append(ClosePorts(allocation, family))
            else:
                self._release(allocation)
            lifetime = 0
        else:
            lifetime = LIFETIME if wanted is None else min(max(wanted, LIFETIME), MAX_LIFETIME)
            allocation.expires = now + lifetime
        self._grant(asked, allocation.path, ((Attribute.LIFETIME, lifetime),))

    def _create_permission(self, asked: Asked, allocation: Allocation, now: float) -> None:
        """All of them or none (RFC 8656 section 9.2)."""
        peers = [value for number, value in asked.message.attributes if number == Attribute.XOR_PEER_ADDRESS]
        if not peers:
            raise Refused(400)
        for peer in peers:
            self._check_peer(peer, allocation)
        self._permit(allocation, {str(peer.ip) for peer in peers}, now)
        self._grant(asked, allocation.path, ())

    def _channel_bind(self, asked: Asked, allocation: Allocation, now: float) -> None:
        number = asked.message.number(Attribute.CHANNEL_NUMBER)
        peer = asked.message.endpoint(Attribute.XOR_PEER_ADDRESS)
        if number is None or peer is None or not peer.port or not FIRST_CHANNEL <= number <= LAST_CHANNEL:
            raise Refused(400)
        if allocation.transport is not Transport.UDP:
            raise Refused(400)
        self._check_peer(peer, allocation)
        bound, taken = allocation.by_peer.get(peer.sockaddr), allocation.channels.get(number)
        if bound is not taken and any(each is not None and now < each.expires for each in (bound, taken)):
            raise Refused(400)
        if bound is None and len(allocation.channels) >= self.limits.channels:
            _purge_channels(allocation, now)
            if len(allocation.channels) >= self.limits.channels:
                raise Refused(508)
        self._permit(allocation, {str(peer.ip)}, now)
        for old in {id(each): each for each in (bound, taken) if each is not None}.values():
            _forget_channel(allocation, old)
        channel = Channel(number, peer.sockaddr, now + CHANNEL_LIFETIME)
        allocation.channels[number] = allocation.by_peer[channel.peer] = channel
        self._grant(asked, allocation.path, ())

    def _check_peer(self, peer: Endpoint, allocation: Allocation) -> None:
        if peer.family not in allocation.relayed:
            raise Refused(443)
        if str(peer.ip) not in self._announced and not self._policy.reaches(peer.ip):
            raise Refused(403)

    def _permit(self, allocation: Allocation, hosts: set[str], now: float) -> None:
        permissions = allocation.permissions
        if len(hosts | permissions.keys()) > self.limits.permissions:
            for host in [host for host, expires in permissions.items() if now >= expires]:
                del permissions[host]
            if len(hosts | permissions.keys()) > self.limits.permissions:
                raise Refused(508)
        permissions.update(dict.fromkeys(hosts, now + PERMISSION_LIFETIME))

    # -- TCP with peers (RFC 6062) -------------------------------------------------------------------------------

    def _connect(self, asked: Asked, allocation: Allocation, now: float) -> None:
        peer = asked.message.endpoint(Attribute.XOR_PEER_ADDRESS)
        if peer is None or not peer.port or allocation.transport is not Transport.TCP:
            raise Refused(400)
        self._check_peer(peer, allocation)
        ours = str(peer.ip) in self._announced
        if ours and (Transport.TCP, *peer.sockaddr) not in self._relayed:
            raise Refused(403)
        if any(call.peer == peer for call in allocation.calls.values()):
            raise Refused(446)
        if self._busy(allocation):
            raise Refused(486)
        call = self._call(allocation, peer, now)
        call.asked = asked
        self._events.append(DialPeer(call))

    def _bind(self, asked: Asked, path: Path, allocation: Allocation | None) -> None:
        call = self.calls.get(asked.message.number(Attribute.CONNECTION_ID) or 0)
        if call is None or not path.stream or allocation is not None:
            raise Refused(400)
        if call.allocation.user != asked.login.user or call.asked is not None or call.path is not None:
            raise Refused(400)
        call.path = path
        self._grant(asked, path, ())
        self._events.append(JoinStreams(path, call))

    def _busy(self, allocation: Allocation) -> bool:
        waiting = sum(call.path is None for call in allocation.calls.values())
        return waiting >= self.limits.calls or len(allocation.calls) >= self.limits.streams

    def _call(self, allocation: Allocation, peer: Endpoint, now: float) -> Call:
        number = 0
        while not number or number in self.calls:
            number = int.from_bytes(self._random()[:4], "big")
        call = Call(number, allocation, peer, now + CALL_LIFETIME)
        self.calls[number] = allocation.calls[number] = call
        return call

    # -- time ----------------------------------------------------------------------------------------------------

    def handle_timeout(self, now: float) -> None:
        if now < self._swept + SWEEP:
            return
        self._swept = now
        for allocation in [each for each in self.allocations.values() if now >= each.expires]:
            self._release(allocation)
        for call in [each for each in self.calls.values() if each.path is None and now >= each.deadline]:
            asked = call.asked
            self.ended(call)
            self._events.append(DropCall(call))
            if asked is not None:
                self._refuse(asked.message, call.allocation.path, Refused(447), asked.login)
        # A user without allocations is remembered until its rate has recovered: giving back is no way round it.
        for network, usage in list(self._usages.items()):
            if not usage.allocations and usage.meter.full(now):
                del self._usages[network]

    def poll_timeout(self) -> float | None:
        return self._swept + SWEEP if self.allocations or self._usages else None

    # -- small parts ---------------------------------------------------------------------------------------------

    def _live(self, path: Path, now: float) -> Allocation | None:
        allocation = self.allocations.get(path)
        if allocation is not None and now >= allocation.expires:
            self._release(allocation)
            return None
        return allocation

    def _release(self, allocation: Allocation) -> None:
        del self.allocations[allocation.path]
        allocation.usage.allocations -= 1
        for endpoint in allocation.relayed.values():
            self._relayed.pop((allocation.transport, *endpoint.sockaddr), None)
        for number in allocation.calls:
            self.calls.pop(number, None)
        self._events.append(ClosePorts(allocation))

    def _grant(self, asked: Asked, path: Path, attributes: Attributes) -> bytes:
        return self._answer(asked.message, path, StunClass.SUCCESS, attributes, asked.login)

    def _refuse(self, message: StunMessage, path: Path, refused: Refused, login: Login | None) -> None:
        attributes: Attributes = ((Attribute.ERROR_CODE, ErrorCode(refused.code)),)
        if refused.code == 420:
            attributes += ((Attribute.UNKNOWN_ATTRIBUTES, message.unknown(_UNDERSTOOD)),)
        if refused.challenge:
            attributes += self._admission.challenge(path.host)
            self.counters.challenged += 1
        else:
            self.counters.refused += 1
        self._answer(message, path, StunClass.ERROR, attributes, login)

    def _answer(
        self, message: StunMessage, path: Path, cls: StunClass, attributes: Attributes, login: Login | None
    ) -> bytes:
        answer = StunMessage(message.method, cls, message.transaction_id, attributes)
        data = encode(answer) if login is None else encode(answer, key=login.key, integrity=login.integrity)
        self._outbox.append(ToClient(path, data))
        return data

    def _indication(self, method: Method, attributes: Attributes) -> bytes:
        return encode(StunMessage(method, StunClass.INDICATION, self._random()[:12], attributes))

    def _random(self) -> bytes:
        """Bytes that outsiders cannot foresee: connection ids admit."""
        self._numbered += 1
        return hmac.digest(self._salt, b"number" + self._numbered.to_bytes(8, "big"), hashlib.sha256)


def _forget_channel(allocation: Allocation, channel: Channel) -> None:
    allocation.channels.pop(channel.number, None)
    allocation.by_peer.pop(channel.peer, None)


def _purge_channels(allocation: Allocation, now: float) -> None:
    for channel in [each for each in allocation.channels.values() if now >= each.expires]:
        _forget_channel(allocation, channel)
