"""Port mappings on disk, beside the identity: after a crash the next start renews or deletes what is left."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import msgspec

from warpgate.core.disk.store import Store
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.services.portmap_board import Remembered

# 32 leases take 5 kB; whatever is much larger is some other file.
LARGEST_FILE = 65_536


class _Row(msgspec.Struct, frozen=True):
    """One lease as the file has it."""

    protocol: str
    gateway: str
    transport: str
    internal: str
    external_port: int
    nonce: bytes = b""


_Rows = tuple[_Row, ...]


def lease_store(path: Path | None) -> Store[tuple[Remembered, ...]]:
    return Store(path, LARGEST_FILE, _Rows, read=_leases, write=_rows, empty=tuple)


def _rows(leases: tuple[Remembered, ...]) -> _Rows:
    return tuple(map(_row, leases))


def _leases(rows: _Rows) -> tuple[Remembered, ...]:
    return tuple(map(_remembered, rows))


def _row(lease: Remembered) -> _Row:
    return _Row(
        lease.protocol,
        lease.gateway,
        lease.transport.value,
        str(lease.internal),
        lease.external_port,
        lease.nonce,
    )


def _remembered(row: _Row) -> Remembered:
    """ValueError or AddressError for rows that this program did not write."""
    ip_address(row.gateway)
    if not 0 <= row.external_port <= 65535 or len(row.nonce) not in (0, 12):
        raise ValueError(f"no lease: {row}")
    return Remembered(
        row.protocol,
        row.gateway,
        Transport(row.transport),
        Endpoint.parse(row.internal),
        row.external_port,
        row.nonce,
    )
