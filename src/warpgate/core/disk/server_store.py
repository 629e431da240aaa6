"""The servers that were good, on disk: one file for all identities of a user, since it is about networks."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import msgspec

from warpgate.core.disk.store import Store
from warpgate.core.server_memory import (
    KEY_SIZE,
    MOST_ADDRESSES,
    MOST_BROKERS,
    MOST_HOSTS,
    MOST_NETWORKS,
    KnownBroker,
    KnownHost,
    KnownNetwork,
    Networks,
)
from warpgate.model.endpoint import IPAddress
from warpgate.model.scope import Scope, scope_of
from warpgate.model.servers import BrokerUrl, StunServer

# Sixteen networks full of names take 80 kB; whatever is much larger is some other file.
LARGEST_FILE = 256 * 1024
_SLOWEST = 60.0
_Seconds = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class _Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    ips: tuple[str, ...]
    seen: _Seconds


class _Broker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str
    seen: _Seconds
    rtt: float | None = None


class _Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    hosts: tuple[_Host, ...] = ()
    brokers: tuple[_Broker, ...] = ()


_Rows = tuple[_Network, ...]


def server_store(path: Path | None) -> Store[Networks]:
    return Store(path, LARGEST_FILE, _Rows, read=_networks, write=_rows, empty=dict)


def _rows(networks: Networks) -> _Rows:
    return tuple(_row(key, network) for key, network in networks.items())


def _networks(rows: _Rows) -> Networks:
    return dict(_network(row) for row in rows[-MOST_NETWORKS:])


def _row(key: bytes, network: KnownNetwork) -> _Network:
    return _Network(
        key.hex(),
        tuple(_Host(name, tuple(map(str, known.ips)), int(known.seen)) for name, known in network.hosts.items()),
        tuple(_Broker(url, int(known.seen), known.rtt) for url, known in network.brokers.items()),
    )


def _network(row: _Network) -> tuple[bytes, KnownNetwork]:
    """ValueError or ConfigError for rows that this program did not write."""
    key = bytes.fromhex(row.key)
    if len(key) != KEY_SIZE or len(row.hosts) > MOST_HOSTS or len(row.brokers) > MOST_BROKERS:
        raise ValueError("no network of ours")
    hosts = {StunServer.parse(host.name).host: KnownHost(_ips(host.ips), float(host.seen)) for host in row.hosts}
    brokers = {str(BrokerUrl.parse(known.url)): _broker(known) for known in row.brokers}
    return key, KnownNetwork(hosts, brokers)


def _ips(texts: tuple[str, ...]) -> tuple[IPAddress, ...]:
    ips = tuple(map(ip_address, texts))
    if len(ips) > MOST_ADDRESSES or any(scope_of(ip) not in (Scope.GLOBAL, Scope.SITE) for ip in ips):
        raise ValueError("no addresses of a server")
    return ips


def _broker(row: _Broker) -> KnownBroker:
    if row.rtt is not None and not 0 <= row.rtt <= _SLOWEST:
        raise ValueError(f"no round trip: {row.rtt}")
    return KnownBroker(row.rtt, float(row.seen))
