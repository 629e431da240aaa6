"""The gateway's half of PCP and NAT-PMP (RFC 6887 section 11, RFC 6886 section 3): what it reads, and what it says.

Laid out here once more, so that the client's codec is held against the RFCs and not against itself.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from warpgate.errors import DecodeError
from warpgate.model.endpoint import Endpoint, IPAddress, Transport
from warpgate.proto.portmap_wire import (
    MAX_SIZE,
    PcpMapping,
    PcpRequest,
    PcpResponse,
    PmpAddress,
    PmpMapped,
    PmpRefused,
    Response,
)

_PCP_REQUEST = struct.Struct("!BBHI16s 12sB3xHH16s")
_PCP_MAPPING = struct.Struct("!12sB3xHH16s")
_MAP, _ANSWER, _UNKNOWN = 1, 0x80, 0x7F
_NUMBERS = {Transport.TCP: 6, Transport.UDP: 17}
_OPCODES = {Transport.UDP: 1, Transport.TCP: 2}


def decode_request(data: bytes) -> PcpRequest:
    """What a PCP server receives. DecodeError for all but a MAP request."""
    if not _PCP_REQUEST.size <= len(data) <= MAX_SIZE or len(data) % 4:
        raise DecodeError(f"a PCP MAP request does not have {len(data)} bytes")
    fields = _PCP_REQUEST.unpack_from(data)
    version, opcode, _, lifetime, client, nonce, number, internal_port, external_port, external = fields
    transport = next((known for known, its_number in _NUMBERS.items() if its_number == number), None)
    if (version, opcode) != (2, _MAP) or transport is None:
        raise DecodeError(f"PCP version {version}, opcode {opcode}, protocol {number} is no MAP request of ours")
    mapping = PcpMapping(nonce, transport, internal_port, Endpoint(_ip(external), external_port))
    return PcpRequest(_ip(client), lifetime, mapping)


def encode_response(response: Response) -> bytes:
    """What the gateway answers, in either protocol."""
    match response:
        case PcpResponse(result, lifetime, epoch, mapping):
            head = struct.pack("!BBBBII12x", 2, _ANSWER | _MAP, 0, result, lifetime, epoch)
            return head if mapping is None else head + _mapping(mapping)
        case PmpAddress(result, epoch, external):
            return _pmp(0, result, epoch) + (b"" if external is None else external.packed)
        case PmpMapped(result, epoch, transport, internal_port, external_port, lifetime):
            ports = struct.pack("!HHI", internal_port, external_port, lifetime)
            return _pmp(_OPCODES[transport], result, epoch) + ports
        case PmpRefused(result, epoch):
            return _pmp(_UNKNOWN, result, epoch)


def _pmp(opcode: int, result: int, epoch: int) -> bytes:
    return struct.pack("!BBHI", 0, _ANSWER | opcode, result, epoch)


def _mapping(mapping: PcpMapping) -> bytes:
    number, external = _NUMBERS[mapping.transport], mapping.external
    in_six = external.ip.packed if external.ip.version == 6 else IPv6Address(f"::ffff:{external.ip}").packed
    return _PCP_MAPPING.pack(mapping.nonce, number, mapping.internal_port, external.port, in_six)


def _ip(data: bytes) -> IPAddress:
    ip = IPv6Address(data)
    return ip.ipv4_mapped or ip
