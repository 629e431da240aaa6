"""Datagrams on a byte stream, each with its length before it: 2 bytes, big-endian (RFC 4571 section 2).

So are a node's addresses (`proto/channel_wire.py`).
"""

from __future__ import annotations

from warpgate.errors import DecodeError

_SIZE = 2
# What is carried is QUIC: its packets have 1,200 bytes here, and what has fewer than 21 is none (RFC 9000 section
# 10.3). On a stream a flood of tiny ones would cost its sender next to nothing.
SMALLEST, LARGEST = 21, 1500


def encode_frame(data: bytes) -> bytes:
    """A datagram has SMALLEST to LARGEST bytes."""
    return len(data).to_bytes(_SIZE, "big") + data


class FrameReader:
    """Holds less than one frame: `what`, of `smallest` to `largest` bytes."""

    def __init__(self, smallest: int = SMALLEST, largest: int = LARGEST, what: str = "a datagram") -> None:
        self._smallest, self._largest, self._what = smallest, largest, what
        self._partial = b""

    def feed(self, data: bytes) -> list[bytes]:
        """What is whole now. DecodeError for a size that none has."""
        data = self._partial + data
        at, found = 0, []
        while len(data) - at >= _SIZE:
            size = int.from_bytes(data[at : at + _SIZE], "big")
            if not self._smallest <= size <= self._largest:
                raise DecodeError(f"{self._what} of {size} bytes")
            end = at + _SIZE + size
            if end > len(data):
                break
            found.append(data[at + _SIZE : end])
            at = end
        self._partial = data[at:]
        return found
