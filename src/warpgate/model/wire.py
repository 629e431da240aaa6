"""What the address codec reads and packs numbers with; every failure is an AddressError."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from warpgate.errors import AddressError
from warpgate.model.endpoint import IPAddress

T = TypeVar("T")


class Reader:
    """Takes bytes from the front; running out is an AddressError."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes, offset: int) -> None:
        self._data = data
        self._offset = offset

    def take(self, count: int) -> bytes:
        end = self._offset + count
        if end > len(self._data):
            raise AddressError(f"the address is cut short: {len(self._data)} bytes, at least {end} needed")
        taken, self._offset = self._data[self._offset : end], end
        return taken

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "big", signed=signed)

    def ip(self, v6: bool) -> IPAddress:
        return IPv6Address(self.take(16)) if v6 else IPv4Address(self.take(4))


def pack_number(value: int, *, signed: bool = False) -> bytes:
    try:
        return value.to_bytes(2, "big", signed=signed)
    except OverflowError:
        raise AddressError(f"{value} does not fit in 2 bytes of an address") from None


def pick(table: Sequence[T], number: int) -> T:
    if number >= len(table):
        raise AddressError(f"the address holds an unknown value ({number} of {len(table)})")
    return table[number]
