"""One TURN allocation, client side, sans-I/O (RFC 8656; RFC 6062 for relays that speak TCP with peers).

Owns the conversation with one server over one 5-tuple: the allocation, what it needs to stay, and who may send
through it. It knows no sockets; `reliable` tells whether it talks over a stream (then frames come whole, cut by
`stun.StreamDecoder`, and nothing is repeated). Rules:

* ALLOCATING --success--> READY --close--> CLOSING --answer or silence--> ENDED; any failure goes to ENDED at once.
  Exactly one of `Allocated` and `AllocationFailed` is told, and `AllocationEnded` at most once, last.
* Sending to a peer is all it takes: the permission is asked for in front of the first datagram, and renewed as long
  as the two talk. Until a peer has been heard its datagrams go as Send indications; then it gets a channel.
* A permission lasts 300 s and a channel 600 s (sections 9 and 12), an allocation as long as the server says. Each is
  renewed early enough for several tries, whoever of the two talks: a relayed pipe on which only the peer speaks
  lives, too.
* A channel number belongs to one peer for as long as the allocation lives (section 12 wants 5 min after its expiry).
* Nothing is taken from the server for a peer that we have not permitted.
* A server that was restarted says 437 to whatever is asked of the allocation, which is over then.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from warpgate.errors import DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Family, IPAddress, Transport
from warpgate.model.turn_server import Credentials
from warpgate.proto.machine import Outputs
from warpgate.proto.refusals import Refusals
from warpgate.proto.stun import Attribute, ErrorCode, Method, StunClass, StunMessage, decode, is_stun
from warpgate.proto.turn_auth import LongTermAuth
from warpgate.proto.turn_events import (
    Allocated,
    AllocationEnded,
    AllocationFailed,
    ConnectRefused,
    DataReceived,
    PeerConnected,
    PeerRefused,
    TurnEvent,
)
from warpgate.proto.turn_peers import REFUSAL_LASTS, RETRY, TROUBLE_RETRY, Channels, Permissions
from warpgate.proto.turn_requests import Answered, Requests
from warpgate.proto.turn_wire import (
    RelayRequest,
    explain,
    pack_channel_data,
    pack_keepalive,
    pack_send,
    unpack_channel_data,
)

# RFC 8656 section 8 wants it refreshed a minute before it expires: half of the usual 600 s leaves room for many tries.
REFRESH_FRACTION = 0.5
# Below the 30 s after which the quickest common NATs drop a UDP mapping (references), refreshed from inside only.
KEEPALIVE = 20.0
MAX_LIFETIME = 3600.0  # a server that promises more is asked again all the same
ASKING_PAUSE = 1.0
TRY_ALTERNATE = 300
ALLOCATION_MISMATCH = 437
# What coturn (4.6) says of a permission for an allocation that it does not know; to a Refresh it says 437.
BAD_REQUEST = 400
SERVER_ERRORS = range(500, 600)


class State(enum.Enum):
    """Where the allocation stands."""

    ALLOCATING = "allocating"
    READY = "ready"
    CLOSING = "closing"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class _Allocate:
    pass


@dataclass(frozen=True, slots=True)
class _Refresh:
    pass


@dataclass(frozen=True, slots=True)
class _Release:
    pass


@dataclass(frozen=True, slots=True)
class _Permit:
    ip: IPAddress


@dataclass(frozen=True, slots=True)
class _Bind:
    peer: Endpoint


@dataclass(frozen=True, slots=True)
class _Connect:
    peer: Endpoint


_Purpose = _Allocate | _Refresh | _Release | _Permit | _Bind | _Connect


class TurnClient(Outputs[TurnEvent, bytes]):
    """A machine; transmits are bytes for the one server. Asks for the allocation when made."""

    def __init__(
        self,
        credentials: Credentials,
        wanted: RelayRequest,
        now: float,
        *,
        reliable: bool,
        new_transaction_id: Callable[[], bytes],
    ) -> None:
        super().__init__()
        self.auth = LongTermAuth(credentials)
        self.state = State.ALLOCATING
        self.relayed: tuple[Endpoint, ...] = ()
        self.of_use = 0  # of what the server has sent: answers, and data of peers that are talked to
        self._wanted = wanted
        self._reliable = reliable
        self._new_transaction_id = new_transaction_id
        self._requests: Requests[_Purpose] = Requests(
            self.auth, self._outbox, reliable=reliable, new_transaction_id=new_transaction_id
        )
        self._permissions = Permissions()
        self._channels = Channels()
        self._refresh_at = self._expires = now
        self._keepalive_at = now + KEEPALIVE
        self._refusals = Refusals()
        self._asks_again_at = now  # a forger of refusals gets no more questions asked
        self._requests.begin(_Allocate(), Method.ALLOCATE, wanted.attributes, now)

    # -- what the owner asks for ---------------------------------------------------------------------------------

    def permit(self, ip: IPAddress, now: float) -> None:
        """Let this address send to the relayed endpoint, for as long as it is renewed (by this, or by traffic)."""
        if self.state is State.READY and self._permissions.use(ip, now):
            self._ask_permission(ip, now)

    def send(self, data: bytes, peer: Endpoint, now: float) -> None:
        """A datagram to the peer; lost unless READY. ValueError when it does not fit a UDP datagram."""
        if self.state is not State.READY:
            return
        self.permit(peer.ip, now)
        channel = self._channels.bound(peer, now)
        if channel is not None:
            frame = pack_channel_data(channel, data, padded=self._reliable)
        else:
            frame = pack_send(self._new_transaction_id(), peer, data)
        self._say(frame, now)

    def connect(self, peer: Endpoint, now: float) -> None:
        """Let the server connect to the peer by TCP: `PeerConnected` or `ConnectRefused` follows."""
        if self.state is not State.READY or self._wanted.transport is not Transport.TCP:
            self._events.append(ConnectRefused(peer, "there is no TCP relay"))
            return
        self.permit(peer.ip, now)
        self._requests.begin(_Connect(peer), Method.CONNECT, ((Attribute.XOR_PEER_ADDRESS, peer),), now)

    @property
    def asking(self) -> bool:
        """Whether an answer of the server's is due."""
        return bool(self._requests.purposes)

    def renew(self, now: float) -> None:
        """Ask for more time (section 8)."""
        if self.state is State.READY and _Refresh() not in self._requests.purposes:
            self._requests.begin(_Refresh(), Method.REFRESH, (), now)
            self._spoke(now)

    def refused(self, now: float) -> None:
        """Nobody listens there, the server's machine says: it is asked, and gone if it is silent. See `refusals`."""
        self._refusals.heard(now)
        self._doubt(now)

    def _doubt(self, now: float) -> None:
        if now >= self._asks_again_at:
            self._asks_again_at = now + ASKING_PAUSE
            self.renew(now)

    def close(self, now: float) -> None:
        """Give the allocation back (section 8: a Refresh with lifetime 0); `AllocationEnded` follows, soon."""
        if self.state in (State.CLOSING, State.ENDED):
            return
        # Also while allocating: the server may have answered already. Before the log-in there is nothing to give back.
        if not self.auth.ready and self.state is State.ALLOCATING:
            self._end("closed", lost=False)
            return
        self.state = State.CLOSING
        self._requests.drop()
        self._requests.begin(_Release(), Method.REFRESH, ((Attribute.LIFETIME, 0),), now)

    # -- the five verbs ------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """One datagram or frame from the server. What is not well-formed, not ours, or not true is passed over."""
        if self.state is State.ENDED or not data:
            return
        if 0x40 <= data[0] < 0x50:
            self._channel_data(data, now)
        elif is_stun(data):
            answered = self._requests.take(data, now)
            if answered is not None:
                self.of_use += 1
                self._refusals.answered()
                self._answered(answered, now)
            else:
                self._indication(data, now)

    def handle_timeout(self, now: float) -> None:
        for purpose in self._requests.handle_timeout(now):
            self._answered(Answered(purpose, None, None), now)
        if self.state is not State.READY:
            return
        if now >= self._expires:
            self._end("the server has not answered until the allocation expired", lost=True)
            return
        if now >= self._refresh_at:
            self._refresh_at = now + RETRY
            self.renew(now)
        for ip in self._permissions.due(now):
            self._ask_permission(ip, now)
        for peer in self._channels.due(now):
            self._ask_channel(peer, now)
        if not self._reliable and now >= self._keepalive_at:
            self._say(pack_keepalive(self._new_transaction_id()), now)

    def poll_timeout(self) -> float | None:
        times = [self._requests.poll_timeout()]
        if self.state is State.READY:
            times += [self._refresh_at, self._expires]
            times += [self._permissions.poll_timeout(), self._channels.poll_timeout()]
            if not self._reliable:
                times.append(self._keepalive_at)
        return min((at for at in times if at is not None), default=None)

    # -- answers -------------------------------------------------------------------------------------------------

    def _answered(self, answered: Answered[_Purpose], now: float) -> None:
        message, error = answered.message, answered.error
        success = message if error is None else None
        if error is not None and error.code == BAD_REQUEST:
            self._doubt(now)
        match answered.purpose:
            case _Allocate():
                self._allocate_answered(success, message, error, now)
            case _Refresh():
                self._refresh_answered(success, error, now)
            case _Release():
                self._end("closed", lost=False)
            case _Permit() | _Bind() if error is not None and error.code == ALLOCATION_MISMATCH:
                self._end(f"the server {explain(error)}", lost=True)
            case _Permit(ip=ip):
                self._permissions.answered(ip, now, _pause(success, error))
                if error is not None and _final(error):
                    self._events.append(PeerRefused(ip, f"the server {explain(error)}"))
            case _Bind(peer=peer):
                self._channels.answered(peer, now, _pause(success, error))
                if success is not None:  # section 12: it also installs or refreshes the permission
                    self._permissions.answered(peer.ip, now, None)
            case _Connect(peer=peer):
                number = None if success is None else success.number(Attribute.CONNECTION_ID)
                if number is not None:
                    self._events.append(PeerConnected(peer, number, asked=True))
                else:
                    reason = "did not answer in time" if error is None else explain(error)
                    self._events.append(ConnectRefused(peer, f"the server {reason}"))

    def _allocate_answered(
        self, success: StunMessage | None, message: StunMessage | None, error: ErrorCode | None, now: float
    ) -> None:
        if error is not None and message is not None:
            alternate = domain = None
            if error.code == TRY_ALTERNATE:
                alternate = message.endpoint(Attribute.ALTERNATE_SERVER)
                domain = message.text(Attribute.ALTERNATE_DOMAIN)
            self._fail(f"the server {explain(error)}", error.code, alternate, domain)
            return
        if success is None:
            self._fail("the server does not answer")
            return
        self.relayed = self._relayed_of(success)
        lifetime = success.number(Attribute.LIFETIME)
        if not self.relayed or not lifetime:
            self._fail("the server allocates, but names no usable relayed address and lifetime")
            return
        self.state = State.READY
        self._renewed(lifetime, now)
        self._spoke(now)
        self._events.append(Allocated(self.relayed, success.endpoint(Attribute.XOR_MAPPED_ADDRESS), lifetime))

    def _relayed_of(self, success: StunMessage) -> tuple[Endpoint, ...]:
        """One endpoint of each family that was asked for. Whether anybody gets there is for the owner to judge."""
        found: dict[Family, Endpoint] = {}
        for attribute, value in success.attributes:
            relayed = attribute == Attribute.XOR_RELAYED_ADDRESS and isinstance(value, Endpoint)
            if relayed and value.family in self._wanted.families:
                found.setdefault(value.family, value)
        return tuple(found.values())

    def _refresh_answered(self, success: StunMessage | None, error: ErrorCode | None, now: float) -> None:
        if success is not None:
            self._renewed(success.number(Attribute.LIFETIME) or RETRY, now)
        elif error is not None and _final(error):
            self._end(f"the server {explain(error)}", lost=True)
        elif error is None and self._refusals.believed(now):
            self._end("nobody listens there any more", lost=True)
        # Silence and the server's own errors: `_refresh_at` is RETRY away, and the allocation has not expired yet.

    def _renewed(self, lifetime: float, now: float) -> None:
        lifetime = min(float(lifetime), MAX_LIFETIME)
        self._expires = now + lifetime
        self._refresh_at = now + lifetime * REFRESH_FRACTION

    # -- what peers send -----------------------------------------------------------------------------------------

    def _channel_data(self, frame: bytes, now: float) -> None:
        try:
            channel, data = unpack_channel_data(frame)
        except DecodeError:
            return
        peer = self._channels.peer_of(channel)
        if peer is not None:
            self._heard(peer, data, now)

    def _indication(self, data: bytes, now: float) -> None:
        try:
            message = decode(data)
        except DecodeError:
            return
        peer = message.endpoint(Attribute.XOR_PEER_ADDRESS)
        if message.cls is not StunClass.INDICATION or peer is None or self.state is not State.READY:
            return
        if not self._permissions.known(peer.ip):
            return
        if message.method == Method.DATA and (payload := message.raw(Attribute.DATA)) is not None:
            self._heard(peer, payload, now)
        elif message.method == Method.CONNECTION_ATTEMPT:
            number = message.number(Attribute.CONNECTION_ID)
            if number is not None:
                self._events.append(PeerConnected(peer, number, asked=False))

    def _heard(self, peer: Endpoint, data: bytes, now: float) -> None:
        if self.state is not State.READY:
            return
        self.permit(peer.ip, now)  # it is in use, whoever talks
        if self._channels.use(peer, now):
            self._ask_channel(peer, now)
        self.of_use += 1
        self._events.append(DataReceived(peer, data))

    # -- small parts ---------------------------------------------------------------------------------------------

    def _ask_permission(self, ip: IPAddress, now: float) -> None:
        attributes = ((Attribute.XOR_PEER_ADDRESS, Endpoint(ip, 0)),)
        self._requests.begin(_Permit(ip), Method.CREATE_PERMISSION, attributes, now)
        self._spoke(now)

    def _ask_channel(self, peer: Endpoint, now: float) -> None:
        number = self._channels.number_of(peer)
        attributes = ((Attribute.CHANNEL_NUMBER, number), (Attribute.XOR_PEER_ADDRESS, peer))
        self._requests.begin(_Bind(peer), Method.CHANNEL_BIND, attributes, now)
        self._spoke(now)

    def _say(self, frame: bytes, now: float) -> None:
        self._outbox.append(frame)
        self._spoke(now)

    def _spoke(self, now: float) -> None:
        self._keepalive_at = now + KEEPALIVE

    def _fail(self, reason: str, code: int = 0, alternate: Endpoint | None = None, domain: str | None = None) -> None:
        self.state = State.ENDED
        self._requests.drop()
        self._events.append(AllocationFailed(reason, code, alternate, domain))

    def _end(self, reason: str, *, lost: bool) -> None:
        self.state = State.ENDED
        calls = [purpose.peer for purpose in self._requests.purposes if isinstance(purpose, _Connect)]
        self._events.extend(ConnectRefused(peer, reason) for peer in calls)
        self._requests.drop()
        self._events.append(AllocationEnded(reason, lost))


def _final(error: ErrorCode) -> bool:
    """Whether it was refused for what it is; what the server cannot do at the moment may pass."""
    return error.code not in SERVER_ERRORS


def _pause(success: StunMessage | None, error: ErrorCode | None) -> float | None:
    """Seconds until what was asked for a peer is asked for again; None where it was granted."""
    if success is not None:
        return None
    if error is None:
        return RETRY
    return REFUSAL_LASTS if _final(error) else TROUBLE_RETRY
