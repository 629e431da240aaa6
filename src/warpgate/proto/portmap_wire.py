"""PCP's MAP opcode (RFC 6887 sections 7 and 11) and NAT-PMP (RFC 6886 section 3), as functions over bytes.

Both are spoken to UDP port 5351 of the default gateway; the first byte tells them apart (2 and 0). IPv4
addresses travel in PCP as ::ffff:a.b.c.d. Whatever is malformed raises DecodeError and nothing else.
"""

from __future__ import annotations

import enum
import struct
from ipaddress import IPv4Address, IPv6Address

from warpgate.errors import DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import PROTOCOL_NUMBERS, Endpoint, IPAddress, Transport

SERVER_PORT = 5351  # RFC 6886 section 3, RFC 6887 section 19.1
PCP_VERSION = 2
PMP_VERSION = 0
NONCE_SIZE = 12
# RFC 6887 section 7: "no longer than 1100 octets".
MAX_SIZE = 1100

_RESPONSE = 0x80
_OP_MAP = 1
_REQUEST_HEADER = struct.Struct("!BBHI16s")
_RESPONSE_HEADER = struct.Struct("!BBBBII12x")
_MAPPING = struct.Struct("!12sB3xHH16s")
_PMP_HEADER = struct.Struct("!BBHI")
_PMP_MAP_REQUEST = struct.Struct("!BBHHHI")
_PMP_MAPPING = struct.Struct("!HHI")

# PCP's and NAT-PMP's numbers for them.
_TRANSPORTS = {number: transport for transport, number in PROTOCOL_NUMBERS.items()}
_PMP_OPCODES = {Transport.UDP: 1, Transport.TCP: 2}
_PMP_TRANSPORTS = {number: transport for transport, number in _PMP_OPCODES.items()}


class PcpResult(enum.IntEnum):
    """RFC 6887 section 7.4."""

    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


class PmpResult(enum.IntEnum):
    """RFC 6886 section 3.5."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


@dataclass(frozen=True, slots=True)
class PcpMapping:
    """The MAP payload. `external` is suggested in requests (unspecified address, port 0: any), assigned in
    responses."""

    nonce: bytes
    transport: Transport
    internal_port: int
    external: Endpoint


@dataclass(frozen=True, slots=True)
class PcpRequest:
    """Ask `client`'s port to be mapped for `lifetime` seconds; 0 deletes."""

    client: IPAddress
    lifetime: int
    mapping: PcpMapping


@dataclass(frozen=True, slots=True)
class PcpResponse:
    """`lifetime`: of the mapping, or how long an error is expected to last. `epoch`: seconds the server has known
    its mappings. `mapping` is None where the server named none (an error without a copy of the request)."""

    result: int
    lifetime: int
    epoch: int
    mapping: PcpMapping | None


@dataclass(frozen=True, slots=True)
class PmpAddress:
    """The answer to "what is your external address"; None with an error."""

    result: int
    epoch: int
    external: IPv4Address | None


@dataclass(frozen=True, slots=True)
class PmpMapped:
    """The answer to a mapping request; ports and lifetime are 0 in errors that carry none."""

    result: int
    epoch: int
    transport: Transport
    internal_port: int
    external_port: int
    lifetime: int


@dataclass(frozen=True, slots=True)
class PmpRefused:
    """An error that is no answer to either question: this is how a NAT-PMP server answers PCP (result 1)."""

    result: int
    epoch: int


Response = PcpResponse | PmpAddress | PmpMapped | PmpRefused


def encode_request(request: PcpRequest) -> bytes:
    """60 bytes."""
    header = _REQUEST_HEADER.pack(PCP_VERSION, _OP_MAP, 0, request.lifetime, _pack_ip(request.client))
    return header + _pack_mapping(request.mapping)


def encode_pmp_address_request() -> bytes:
    """2 bytes (RFC 6886 section 3.2)."""
    return bytes((PMP_VERSION, 0))


def encode_pmp_map_request(transport: Transport, internal_port: int, external_port: int, lifetime: int) -> bytes:
    """12 bytes; lifetime 0 (and external port 0) deletes (RFC 6886 sections 3.3 and 3.4)."""
    opcode = _PMP_OPCODES[transport]
    return _PMP_MAP_REQUEST.pack(PMP_VERSION, opcode, 0, internal_port, external_port, lifetime)


def decode_response(data: bytes) -> Response:
    """What a gateway answered, in either protocol; DecodeError for anything else."""
    if len(data) < _PMP_HEADER.size or len(data) > MAX_SIZE:
        raise DecodeError(f"a port mapping response does not have {len(data)} bytes")
    if not data[1] & _RESPONSE:
        raise DecodeError("a request where a response was expected")
    if data[0] == PMP_VERSION:
        return _decode_pmp(data)
    if data[0] == PCP_VERSION:
        return _decode_pcp(data)
    raise DecodeError(f"port mapping protocol version {data[0]} is unknown")


def _decode_pcp(data: bytes) -> PcpResponse:
    if len(data) < _RESPONSE_HEADER.size or len(data) % 4:
        raise DecodeError(f"a PCP response does not have {len(data)} bytes")
    _, opcode, _, result, lifetime, epoch = _RESPONSE_HEADER.unpack_from(data)
    if opcode != _RESPONSE | _OP_MAP:
        raise DecodeError(f"PCP opcode {opcode & 0x7F} was not asked for")
    has_mapping = len(data) >= _RESPONSE_HEADER.size + _MAPPING.size
    if not has_mapping and result == PcpResult.SUCCESS:
        raise DecodeError("a successful PCP MAP response without its mapping")
    mapping = _unpack_mapping(data, _RESPONSE_HEADER.size) if has_mapping else None
    return PcpResponse(result, lifetime, epoch, mapping)


def _decode_pmp(data: bytes) -> PmpAddress | PmpMapped | PmpRefused:
    _, opcode, result, epoch = _PMP_HEADER.unpack_from(data)
    opcode &= 0x7F
    body = data[_PMP_HEADER.size :]
    if opcode == 0:
        if len(body) >= 4:
            return PmpAddress(result, epoch, IPv4Address(body[:4]))
        if result != PmpResult.SUCCESS:
            return PmpAddress(result, epoch, None)
    elif opcode in _PMP_TRANSPORTS and len(body) >= _PMP_MAPPING.size:
        return PmpMapped(result, epoch, _PMP_TRANSPORTS[opcode], *_PMP_MAPPING.unpack_from(body))
    if result == PmpResult.SUCCESS:
        raise DecodeError(f"NAT-PMP opcode {opcode} with {len(body)} bytes is no answer")
    return PmpRefused(result, epoch)


def _pack_mapping(mapping: PcpMapping) -> bytes:
    protocol = PROTOCOL_NUMBERS[mapping.transport]
    external = mapping.external
    return _MAPPING.pack(mapping.nonce, protocol, mapping.internal_port, external.port, _pack_ip(external.ip))


def _unpack_mapping(data: bytes, offset: int) -> PcpMapping:
    nonce, protocol, internal_port, external_port, ip = _MAPPING.unpack_from(data, offset)
    if protocol not in _TRANSPORTS:
        raise DecodeError(f"a PCP mapping of IP protocol {protocol} was not asked for")
    return PcpMapping(nonce, _TRANSPORTS[protocol], internal_port, Endpoint(_unpack_ip(ip), external_port))


def _pack_ip(ip: IPAddress) -> bytes:
    return bytes(10) + b"\xff\xff" + ip.packed if ip.version == 4 else ip.packed


def _unpack_ip(data: bytes) -> IPAddress:
    ip = IPv6Address(data)
    return ip if ip.ipv4_mapped is None else ip.ipv4_mapped
