"""Port mappings on disk, beside the identity: after a crash the next start renews or deletes what is left."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address
from pathlib import Path

import msgspec

from warpgate.core.disk.identity_store import data_directory
from warpgate.core.disk.whole_file import replace_file
from warpgate.errors import AddressError, ConfigError
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.services.portmap_board import ForgetfulStore, LeaseStore, Remembered

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


class FileLeaseStore:
    """One JSON file a node. Whatever is wrong with it counts as empty: leases end by themselves."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[Remembered, ...]:
        try:
            with self._path.open("rb") as file:
                rows = msgspec.json.decode(file.read(LARGEST_FILE), type=tuple[_Row, ...])
            return tuple(_remembered(row) for row in rows)
        except (OSError, msgspec.MsgspecError, ValueError, AddressError):
            return ()

    def save(self, leases: tuple[Remembered, ...]) -> None:
        with contextlib.suppress(OSError):
            if leases:
                replace_file(self._path, msgspec.json.encode([_row(lease) for lease in leases]))
            else:
                self._path.unlink(missing_ok=True)


def lease_store_of(node_id: str) -> LeaseStore:
    """In the user's data directory; nowhere when there is none."""
    try:
        return FileLeaseStore(data_directory() / "leases" / f"{node_id}.json")
    except ConfigError:
        return ForgetfulStore()


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
