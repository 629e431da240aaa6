"""The list of public servers as data: a TOML file with a number that grows, a day on which it ends, and signatures.

    # signed <node id of the key> <base64 of 64 bytes>
    sequence = 7
    expires = 2027-05-31
    brokers = ["mqtts://...", ...]
    stun = ["host:port", ...]

The first lines may be signatures, one a key, so that a list can be for those who know the old key and those who know
the new one. Each is over all that follows these lines (`Identity.sign`, with a prefix of its own). The list that comes
with the package is the same without signatures.

Whoever fetched one has proved nothing: its size is judged first, then its signature, and only then is it read.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from ipaddress import ip_address
from typing import Any, TypeVar

from warpgate.errors import AuthenticationError, ConfigError, DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.identity import SIGNATURE_SIZE, Identity, node_id_of, verify
from warpgate.model.scope import Scope, scope_of
from warpgate.model.servers import BrokerUrl, StunServer

T = TypeVar("T", BrokerUrl, StunServer)

# Thirty servers with a remark each take 3 kB.
LARGEST_LIST = 12 * 1024
MOST_SIGNATURES = 4
MOST_SERVERS = 32  # of a kind
MOST_SEQUENCE = 2**31 - 1
_PURPOSE = b"warpgate/1 servers\n"
_SIGNATURE = re.compile(r"# signed ([a-z2-7]{26}) ([A-Za-z0-9+/]{86}==)", re.ASCII)
# RFC 6761, RFC 6762, RFC 8375, and what ICANN has set aside for private use: nobody's on the internet.
_INSIDE = frozenset({"localhost", "local", "internal", "arpa", "lan", "home", "corp"})
_TOP_LEVEL = re.compile(r"[a-z]{2,63}|xn--[a-z0-9-]{1,59}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ServerList:
    """Servers in order of preference; `expires` in Unix seconds: the end of that day."""

    sequence: int
    expires: float
    brokers: tuple[BrokerUrl, ...]
    stun: tuple[StunServer, ...]


def parse_list(body: bytes) -> ServerList:
    """What a list without its signatures says. DecodeError.

    Entries of a kind that this version does not know are passed over: a list is for many versions.
    """
    import tomllib  # noqa: PLC0415 - a node with servers of its own never needs it

    try:
        table = tomllib.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the list of servers is not TOML: {error}") from None
    sequence, expires = table.get("sequence"), table.get("expires")
    if isinstance(sequence, bool) or not isinstance(sequence, int) or not 1 <= sequence <= MOST_SEQUENCE:
        raise DecodeError("the list of servers has no sequence number")
    if not isinstance(expires, date) or isinstance(expires, datetime) or expires == date.max:
        raise DecodeError("the list of servers has no day on which it ends")
    end = datetime.combine(expires + timedelta(days=1), time(), UTC).timestamp()
    return ServerList(
        sequence, end, _entries(table, "brokers", BrokerUrl.parse), _entries(table, "stun", StunServer.parse)
    )


def _entries(table: Mapping[str, Any], kind: str, parse: Callable[[str], T]) -> tuple[T, ...]:
    texts = table.get(kind)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DecodeError(f"the list of servers has no {kind}")
    if len(texts) > MOST_SERVERS:
        raise DecodeError(f"the list of servers has more than {MOST_SERVERS} {kind}")
    found: dict[T, None] = {}
    for text in texts:
        try:
            server = parse(text)
        except ConfigError:
            continue
        check_public(server.host)
        # What a list names is a server: no records of a stranger's domain say where it is.
        found[replace(server, by_service=False) if isinstance(server, StunServer) else server] = None
    if not found:
        raise DecodeError(f"the list of servers has no {kind} that this version knows")
    return tuple(found)


def check_public(host: str) -> None:
    """DecodeError for what is no host of the internet: a list leads nobody to this machine, or into its network."""
    try:
        inside = scope_of(ip_address(host)) is not Scope.GLOBAL
    except ValueError:
        labels = host.rpartition(".")
        # Resolvers take 127.0x1 for an address, and a name without a dot for one of the own domain.
        inside = not labels[0] or labels[2] in _INSIDE or _TOP_LEVEL.fullmatch(labels[2]) is None
    if inside:
        raise DecodeError(f"the list of servers names {host[:80]!r}, which is no host of the internet")


def signed(body: bytes, *keys: Identity) -> bytes:
    """The list with a signature by each key."""
    lines = [f"# signed {key.node_id} {base64.b64encode(key.sign(_PURPOSE + body)).decode()}\n" for key in keys]
    return "".join(lines).encode() + body


def without_signatures(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """The list itself, and the signatures in front of it by node id. DecodeError: it is too long, or has too many."""
    if len(data) > LARGEST_LIST:
        raise DecodeError(f"the list of servers has more than {LARGEST_LIST} bytes")
    found: dict[str, bytes] = {}
    while (line := data.partition(b"\n")[0]).startswith(b"# signed "):
        match = _SIGNATURE.fullmatch(line.decode("latin-1"))
        if match is None or len(found) >= MOST_SIGNATURES:
            raise DecodeError("the list of servers begins with no signatures of ours")
        try:
            found[match[1]] = base64.b64decode(match[2], validate=True)
        except binascii.Error:
            raise DecodeError("the list of servers begins with no signatures of ours") from None
        data = data[len(line) + 1 :]
    return data, found


def open_list(data: bytes, keys: tuple[bytes, ...]) -> ServerList:
    """What a list says that one of `keys` (33 bytes each) has signed. AuthenticationError, DecodeError."""
    body, signatures = without_signatures(data)
    error = AuthenticationError("the list of servers is not signed with a key that this package knows")
    for key in keys:
        signature = signatures.get(node_id_of(key), b"")
        if len(signature) == SIGNATURE_SIZE:
            try:
                verify(key, signature, _PURPOSE + body)
            except AuthenticationError:
                error = AuthenticationError("the signature of the list of servers is forged, or the list was altered")
            else:
                return parse_list(body)
    raise error
