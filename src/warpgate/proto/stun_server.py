"""What a STUN server answers: Binding (RFC 8489) and NAT behaviour discovery (RFC 5780), sans-I/O.

Rules:

* An answer is small: whatever is asked, it has at most `LARGEST_SURPLUS` bytes more than the request. PADDING comes
  back no longer than it came. A source gets a bounded number of answers a second: who forges a victim's address gains
  next to nothing.
* What is not a Binding request gets no answer (RFC 8489 section 6.3); one that asks for what we do not have gets a
  420 that says so. Nothing names this software.
* CHANGE-REQUEST needs a second address with the same two ports (RFC 5780 section 6): without one there is no
  OTHER-ADDRESS, and the request is refused. Two ports on one address still let a client see whether its mapping
  depends on the port it sends to.
* Over a connection there is nothing to change, pad or redirect: such a request is refused.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from warpgate.errors import DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.proto.stun import (
    BINDING,
    Attribute,
    AttributeValue,
    ChangeRequest,
    ErrorCode,
    StunClass,
    StunMessage,
    decode,
    encode,
    is_stun,
)

# Four addresses of IPv6 with their headers and FINGERPRINT: what the answer to an empty request holds at most.
LARGEST_SURPLUS = 4 * 24 + 8
# RFC 5780 section 7.6: PADDING "SHOULD be equal in length to the MTU of the outgoing interface": enough for one
# fragment beyond any common MTU, and nobody gets more than was sent.
LARGEST_PADDING = 2048
# RESPONSE-PORT aims at another port of the source's address: never at a well-known service there.
LOWEST_RESPONSE_PORT = 1024
# A node asks every 20 to 26 s, so this serves 2,000 nodes behind one address; a victim whose address is forged gets
# at most 12 kB a second.
SOURCE_RATE, SOURCE_BURST = 100.0, 400.0
# 1 MiB permanently. Sources share a place by chance, which costs one of them answers only while the other floods.
LIMITER_PLACES = 65536

# RFC 8489 and ICE: what a Binding request may hold without needing anything of a server without credentials.
_UNDERSTOOD = frozenset({
    Attribute.CHANGE_REQUEST,
    Attribute.PADDING,
    Attribute.RESPONSE_PORT,
    Attribute.USERNAME,
    Attribute.USERHASH,
    Attribute.REALM,
    Attribute.NONCE,
    Attribute.PASSWORD_ALGORITHM,
    Attribute.PRIORITY,
    Attribute.USE_CANDIDATE,
})  # fmt: skip
_DATAGRAM_ONLY = frozenset({Attribute.CHANGE_REQUEST, Attribute.PADDING, Attribute.RESPONSE_PORT})
_FINGERPRINT_HEADER = b"\x80\x28\x00\x04"


@dataclass(frozen=True, slots=True)
class Answer:
    """`data` is to leave from `origin`, one of our endpoints, to `remote`."""

    data: bytes
    origin: Endpoint
    remote: Endpoint


@dataclass(slots=True)
class StunCounters:
    """Since the start. `ignored`: not a Binding request; `limited`: a source over its rate; `refused`: 400 and 420."""

    answered: int = 0
    refused: int = 0
    limited: int = 0
    ignored: int = 0


class SourceLimiter:
    """Token buckets for sources in a table of fixed size; of IPv6, a /64 is one source.

    `salt` (random bytes) keeps outsiders from choosing sources that share a place.
    """

    __slots__ = ("_at", "_burst", "_rate", "_salt", "_tokens")

    def __init__(self, rate: float, burst: float, now: float, *, salt: bytes, places: int) -> None:
        self._rate = rate
        self._burst = burst
        self._salt = salt
        self._tokens = array("d", [burst]) * places
        self._at = array("d", [now]) * places

    def take(self, source: IPAddress, now: float) -> bool:
        """Whether this source may have one more."""
        place = hash(self._salt + source.packed[:8]) % len(self._at)
        tokens = min(self._burst, self._tokens[place] + max(0.0, now - self._at[place]) * self._rate)
        self._at[place] = now
        allowed = tokens >= 1
        self._tokens[place] = tokens - 1 if allowed else tokens
        return allowed


class StunServer:
    """Answers for the endpoints `places` (ours: the one with the other address and port, None where there is none)."""

    def __init__(
        self,
        places: Mapping[Endpoint, Endpoint | None],
        now: float,
        *,
        salt: bytes,
        rate: float = SOURCE_RATE,
        burst: float = SOURCE_BURST,
    ) -> None:
        self.counters = StunCounters()
        self._places = dict(places)
        self._limiter = SourceLimiter(rate, burst, now, salt=salt, places=LIMITER_PLACES)

    def changes_address(self, ip: str) -> bool:
        """Whether all of RFC 5780 can be had at this address."""
        return any(str(place.ip) == ip for place, other in self._places.items() if other is not None)

    def receive(self, data: bytes, local: Endpoint, source: Endpoint, now: float) -> Answer | None:
        """A datagram that came to `local`, one of the places; None when there is nothing to say."""
        request = self._admitted(data, source, now)
        if request is None:
            return None
        other = self._places[local]
        refusal = _refusal(request, frozenset({Attribute.CHANGE_REQUEST}) if other is None else frozenset())
        if refusal is not None:
            return Answer(self._sealed(data, refusal, refused=True), local, source)
        origin = _origin(local, other, request)
        attributes = _addresses(source, origin, other)
        padding = request.raw(Attribute.PADDING)
        if padding is not None:
            attributes.append((Attribute.PADDING, bytes(min(len(padding), LARGEST_PADDING))))
        port = request.number(Attribute.RESPONSE_PORT)
        remote = source if port is None else Endpoint(source.ip, port)
        return Answer(self._sealed(data, _success(request, attributes)), origin, remote)

    def receive_frame(self, data: bytes, local: Endpoint, source: Endpoint, now: float) -> bytes | None:
        """One message of a connection to `local`; the answer on the same connection."""
        request = self._admitted(data, source, now)
        if request is None:
            return None
        refusal = _refusal(request, _DATAGRAM_ONLY)
        if refusal is not None:
            return self._sealed(data, refusal, refused=True)
        return self._sealed(data, _success(request, _addresses(source, local, self._places[local])))

    def _admitted(self, data: bytes, source: Endpoint, now: float) -> StunMessage | None:
        if not is_stun(data):
            self.counters.ignored += 1
            return None
        if not self._limiter.take(source.ip, now):
            self.counters.limited += 1
            return None
        try:
            message = decode(data)
        except DecodeError:
            message = None
        if message is None or message.method != BINDING or message.cls is not StunClass.REQUEST:
            self.counters.ignored += 1
            return None
        return message

    def _sealed(self, request: bytes, answer: StunMessage, *, refused: bool = False) -> bytes:
        """With FINGERPRINT when the request had one (`decode` has checked that it comes last)."""
        if refused:
            self.counters.refused += 1
        else:
            self.counters.answered += 1
        return encode(answer, fingerprint=request[-8:-4] == _FINGERPRINT_HEADER)


def _origin(local: Endpoint, other: Endpoint | None, request: StunMessage) -> Endpoint:
    """Where the answer comes from (RFC 5780 section 6.1, table 1)."""
    change = request.get(Attribute.CHANGE_REQUEST)
    if other is None or not change:
        return local
    return Endpoint(
        other.ip if change & ChangeRequest.IP else local.ip,
        other.port if change & ChangeRequest.PORT else local.port,
    )


def _addresses(source: Endpoint, origin: Endpoint, other: Endpoint | None) -> list[tuple[int, AttributeValue]]:
    """RFC 5780 section 6.1 wants both forms of the mapped address; a plain RFC 8489 server sends the one."""
    attributes: list[tuple[int, AttributeValue]] = [(Attribute.XOR_MAPPED_ADDRESS, source)]
    if other is not None:
        attributes += [
            (Attribute.MAPPED_ADDRESS, source),
            (Attribute.RESPONSE_ORIGIN, origin),
            (Attribute.OTHER_ADDRESS, other),
        ]
    return attributes


def _success(request: StunMessage, attributes: list[tuple[int, AttributeValue]]) -> StunMessage:
    return StunMessage(BINDING, StunClass.SUCCESS, request.transaction_id, tuple(attributes))


def _refusal(request: StunMessage, missing: frozenset[Attribute]) -> StunMessage | None:
    """The error that this request gets; `missing` is what we cannot do where it came in."""
    if unknown := request.unknown(_UNDERSTOOD - missing):
        return _error(request, 420, "Unknown Attribute", (Attribute.UNKNOWN_ATTRIBUTES, unknown))
    port = request.number(Attribute.RESPONSE_PORT)
    if port is None:
        return None
    # RFC 5780 section 6.1: with PADDING as well, "the server MUST return an error response of type 400".
    if Attribute.PADDING in request or port < LOWEST_RESPONSE_PORT:
        return _error(request, 400, "Bad Request")
    return None


def _error(request: StunMessage, code: int, reason: str, *more: tuple[int, AttributeValue]) -> StunMessage:
    attributes = ((Attribute.ERROR_CODE, ErrorCode(code, reason)), *more)
    return StunMessage(BINDING, StunClass.ERROR, request.transaction_id, attributes)
