"""What Windows says in bytes and in text: structures and strings of its documentation, without asking it anything."""

from __future__ import annotations

import re
import struct

from warpgate.platform.sockets import Flight

# mstcpip.h, TCP_INFO_v0: State, Mss, ConnectionTimeMs, TimestampsEnabled and its padding, RttUs, MinRttUs,
# BytesInFlight, Cwnd, SndWnd, RcvWnd, RcvBuf, BytesOut, BytesIn, BytesReordered, BytesRetrans, FastRetrans, DupAcksIn,
# TimeoutEpisodes, SynRetrans and padding.
TCP_INFO = struct.Struct("=iIQ?3xIIIIIIIQQIIIIIB3x")
SIO_TCP_INFO = 0xD8000027

# winsock2.h: what users meet, in the words of other systems; Windows' own are sentences of two lines.
WINSOCK_TEXTS = {
    10013: "Permission denied",
    10024: "Too many open files",
    10040: "Message too long",
    10047: "Address family not supported by protocol",
    10048: "Address already in use",
    10049: "Cannot assign requested address",
    10050: "Network is down",
    10051: "Network is unreachable",
    10052: "Network dropped connection on reset",
    10053: "Software caused connection abort",
    10054: "Connection reset by peer",
    10055: "No buffer space available",
    10057: "Transport endpoint is not connected",
    10060: "Connection timed out",
    10061: "Connection refused",
    10064: "Host is down",
    10065: "No route to host",
    11001: "Name or service not known",
    11002: "Temporary failure in name resolution",
}

# sddl.h: the groups whose members are other people: everyone, authenticated users, all users, anonymous, guests,
# interactive and network logons.
_OTHERS = {"WD", "AU", "BU", "AN", "BG", "IU", "NU", "S-1-1-0", "S-1-5-11", "S-1-5-32-545"}
_READING = {"FA", "FR", "GA", "GR", "KA", "KR", "RP", "CC"}
_FILE_READ_DATA, _GENERIC_ALL, _GENERIC_READ = 0x1, 0x10000000, 0x80000000
_ACE = re.compile(r"\(([^;)]*);([^;)]*);([^;)]*);[^;)]*;[^;)]*;([^;)]*)[^)]*\)")


def flight_of(info: bytes) -> Flight:
    """ValueError when it is none.

    Acknowledged is what went out and is not in flight. What was repeated is taken off: were it counted as sent, a
    connection that only repeats itself would seem to get on.
    """
    try:
        fields = TCP_INFO.unpack_from(info)
    except struct.error as error:
        raise ValueError(f"no TCP_INFO_v0: {len(info)} bytes") from error
    in_flight, sent, repeated = fields[6], fields[11], fields[14]
    return Flight(in_flight, float(sent - repeated - in_flight))


def others_in(sddl: str) -> bool:
    """Whether a security descriptor's text (of its DACL, "D:...") lets people other than the owner and those who run
    the machine read the file. One without a list lets everybody.
    """
    _, found, acl = sddl.partition("D:")
    if not found or acl.startswith("NO_ACCESS_CONTROL"):
        return True
    return any(
        kind in ("A", "XA") and "IO" not in flags and who in _OTHERS and _reads(rights)
        for kind, flags, rights, who in _ACE.findall(acl.partition("S:")[0])
    )


def _reads(rights: str) -> bool:
    if rights.startswith("0x"):
        return bool(int(rights, 16) & (_FILE_READ_DATA | _GENERIC_ALL | _GENERIC_READ))
    return any(rights[start : start + 2] in _READING for start in range(0, len(rights), 2))
