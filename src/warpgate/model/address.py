"""A node's address: who it is (key), where it hears signals (brokers), and how it is attached to the net.

Wire format, version 1, integers big-endian (`broker` and `attachment` are laid out in their modules):

    address = version(1)=1  public key(33)  counts(1)  [instance(4)]  broker*  attachment*
    counts  = instance follows << 7 | brokers << 4 | attachments

Each address has exactly one encoding (unused bits are zero, what can be omitted is), so a digest names it.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b32decode, b32encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from warpgate.errors import AddressError, AuthenticationError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.attachment import Attachment, LearntBy, Listening, decode_attachment, encode_attachment
from warpgate.model.broker import BrokerRef, decode_broker, encode_broker
from warpgate.model.identity import PUBLIC_KEY_SIZE, check_public_key, node_id_of
from warpgate.model.nat import NatProfile
from warpgate.model.wanted import INSTANCE_SIZE
from warpgate.model.wire import Reader

__all__ = ["Attachment", "BrokerRef", "LearntBy", "Listening", "NodeAddress"]

ADDRESS_VERSION = 1
TEXT_PREFIX = "wg1"
HOST_NAME_PREFIX = "wg1."
MAX_BROKERS = 4
MAX_ATTACHMENTS = 8
MAX_ADDRESS_SIZE = 1024
DIGEST_SIZE = 8
HALF_DIGEST = DIGEST_SIZE // 2
_HAS_RELAY = 0x80
_HAS_INSTANCE = 0x80

# A mangled paste passes unnoticed once in 2^32.
_CHECKSUM_SIZE = 4
_LABEL = 63  # RFC 1035 section 2.3.4: the most characters between two dots of a host name


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Everything a peer needs to reach a node.

    `instance` tells the processes of one key apart: 4 bytes, b"" where the address is of no process in particular.
    `relay`: the node has a relay that its peers can be reached by.
    """

    public_key: bytes
    brokers: tuple[BrokerRef, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    instance: bytes = b""
    relay: bool = False

    def __hash__(self) -> int:
        return hash(self.public_key)  # cheap; few addresses of one key are remembered at a time

    def __post_init__(self) -> None:
        if len(self.public_key) != PUBLIC_KEY_SIZE:
            raise AddressError(f"a public key has {PUBLIC_KEY_SIZE} bytes, this one {len(self.public_key)}")
        if len(self.brokers) > MAX_BROKERS or len(self.attachments) > MAX_ATTACHMENTS:
            raise AddressError(f"an address has at most {MAX_BROKERS} brokers and {MAX_ATTACHMENTS} attachments")
        if len(self.instance) not in (0, INSTANCE_SIZE):
            raise AddressError(f"an instance has {INSTANCE_SIZE} bytes, this one {len(self.instance)}")

    @property
    def node_id(self) -> str:
        return node_id_of(self.public_key)

    @property
    def digest(self) -> bytes:
        """8 bytes that name this version of the address (SHA-256 prefix of the encoding)."""
        return hashlib.sha256(self.encode()).digest()[:DIGEST_SIZE]

    @property
    def reach_digest(self) -> bytes:
        """8 bytes that name the endpoints alone: the same whatever is learnt of brokers and NATs."""
        return _reach_digest(self)

    def plan_digest(self, peer: NodeAddress) -> bytes:
        """8 bytes that name what `peer` decides by: 4 for the endpoints, 4 for the kinds of NAT before them.

        It stays the same while more samples confirm a kind, or widen a block; and where the NATs of both sides keep
        their mappings, whatever is learnt of their filters and ports, which decides nothing then.
        """
        steady = all(at.nat.mapping.predictable for at in (*self.attachments, *peer.attachments))
        places = tuple(replace(at, nat=at.nat.steady_kind if steady else at.nat.kind) for at in self.attachments)
        return self.reach_digest[:HALF_DIGEST] + NodeAddress(self.public_key, (), places).digest[:HALF_DIGEST]

    def moved_since(self, plan_digest: bytes) -> bool:
        """Whether the endpoints are others than when `plan_digest` was made."""
        return plan_digest[:HALF_DIGEST] != self.reach_digest[:HALF_DIGEST]

    def encode(self) -> bytes:
        """At most 1024 bytes; AddressError when it would be more, or a NAT profile has impossible ports."""
        return _encoded(self)

    @classmethod
    def decode(cls, data: bytes) -> NodeAddress:
        """Raises AddressError for anything that `encode` did not make."""
        if not data or len(data) > MAX_ADDRESS_SIZE:
            raise AddressError(f"an address has 1 to {MAX_ADDRESS_SIZE} bytes, not {len(data)}")
        if (version := data[0] & ~_HAS_RELAY) != ADDRESS_VERSION:
            raise AddressError(f"the address is of version {version}; this program knows version {ADDRESS_VERSION}")
        reader = Reader(data, offset=1)
        public_key = reader.take(PUBLIC_KEY_SIZE)
        try:
            check_public_key(public_key)
        except AuthenticationError as error:
            raise AddressError(f"the address holds no valid public key: {error}") from None
        counts = reader.number(1)
        instance = reader.take(INSTANCE_SIZE) if counts & _HAS_INSTANCE else b""
        brokers = tuple([decode_broker(reader) for _ in range(counts >> 4 & 7)])
        attachments = tuple([decode_attachment(reader) for _ in range(counts & 15)])
        address = cls(public_key, brokers, attachments, instance, bool(data[0] & _HAS_RELAY))
        if address.encode() != data:
            raise AddressError("the address is not encoded canonically, or bytes follow it")
        return address

    def to_text(self) -> str:
        """`wg1` and base64url (RFC 4648 section 5, no padding) of the encoding and its checksum."""
        data = self.encode()
        return TEXT_PREFIX + urlsafe_b64encode(data + _checksum(data)).decode("ascii").rstrip("=")

    def to_host_name(self) -> str:
        """The same where a host name is wanted, one fifth longer: `wg1.` and base32 (RFC 4648 section 6) in labels.

        Upper and lower case are the same in it, since programs like ssh turn host names to lower case.
        """
        data = self.encode()
        body = b32encode(data + _checksum(data)).decode("ascii").rstrip("=").lower()
        return HOST_NAME_PREFIX + ".".join(body[start : start + _LABEL] for start in range(0, len(body), _LABEL))

    @classmethod
    def from_text(cls, text: str) -> NodeAddress:
        """Undo `to_text` and `to_host_name`, forgiving white space (pasted lines get wrapped).

        The AddressError tells apart mangled text, text of another version, and text that is no address.
        """
        compact = "".join(text.split())
        if compact.lower().startswith(HOST_NAME_PREFIX):
            return cls._from_host_name(compact.lower())
        if not compact.startswith(TEXT_PREFIX):
            raise AddressError(_why_not_an_address(compact))
        body = compact.removeprefix(TEXT_PREFIX)
        return cls._checked(_unpadded(body, 4, urlsafe_b64decode, urlsafe_b64encode), "text")

    @classmethod
    def _from_host_name(cls, text: str) -> NodeAddress:
        body = text.removeprefix(HOST_NAME_PREFIX).replace(".", "").upper()
        return cls._checked(_unpadded(body, 8, b32decode, b32encode), "in the host name")

    @classmethod
    def _checked(cls, data: bytes, what: str) -> NodeAddress:
        if len(data) <= _CHECKSUM_SIZE:
            raise AddressError(f"the address {what} is mangled: characters were lost, added or changed")
        encoded, checksum = data[:-_CHECKSUM_SIZE], data[-_CHECKSUM_SIZE:]
        if checksum != _checksum(encoded):
            raise AddressError("the address text is mangled: its checksum does not match (copy it again, whole)")
        return cls.decode(encoded)


@lru_cache(maxsize=32)  # one attempt asks for that of the same two addresses half a dozen times
def _encoded(address: NodeAddress) -> bytes:
    out = bytearray((ADDRESS_VERSION | (_HAS_RELAY if address.relay else 0),)) + address.public_key
    flag = _HAS_INSTANCE if address.instance else 0
    out.append(flag | len(address.brokers) << 4 | len(address.attachments))
    out += address.instance
    for broker in address.brokers:
        out += encode_broker(broker)
    for attachment in address.attachments:
        out += encode_attachment(attachment)
    if len(out) > MAX_ADDRESS_SIZE:
        raise AddressError(f"the address takes {len(out)} bytes, more than {MAX_ADDRESS_SIZE}")
    return bytes(out)


@lru_cache(maxsize=32)
def _reach_digest(address: NodeAddress) -> bytes:
    places = tuple(replace(attachment, nat=NatProfile(), pool=()) for attachment in address.attachments)
    return NodeAddress(address.public_key, (), places).digest


def _unpadded(body: str, group: int, decode: Callable[[bytes], bytes], encode: Callable[[bytes], bytes]) -> bytes:
    """b"" for what `encode` does not make: decoders skip characters outside the alphabet, and stray bits at the end."""
    try:
        data = decode(body.encode("ascii") + b"=" * (-len(body) % group))
    except (UnicodeEncodeError, binascii.Error):
        return b""
    return data if encode(data).decode("ascii").rstrip("=") == body else b""


def _why_not_an_address(text: str) -> str:
    shown = text if len(text) <= 24 else text[:24] + "..."
    if re.match(r"wg[0-9]", text):
        return f"{shown!r} is an address text of another version; this program knows {TEXT_PREFIX!r}"
    if text[:3].lower() == TEXT_PREFIX:
        return "the address text is mangled: its upper and lower case were changed"
    return f"{shown!r} is not a node address (those start with {TEXT_PREFIX!r})"


def _checksum(encoded: bytes) -> bytes:
    return hashlib.sha256(b"warpgate/1 address text" + encoded).digest()[:_CHECKSUM_SIZE]
