"""Datagrams on a byte stream, each with its length before it: 2 bytes, big-endian (RFC 4571 section 2)."""

from __future__ import annotations

_SIZE = 2
LARGEST = 0xFFFF


def encode_frame(data: bytes) -> bytes:
    """OverflowError for more than LARGEST bytes."""
    return len(data).to_bytes(_SIZE, "big") + data


class FrameReader:
    """Holds less than one frame."""

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole now; empty ones mean nothing."""
        data = self._partial + data
        at, found = 0, []
        while len(data) - at >= _SIZE:
            end = at + _SIZE + int.from_bytes(data[at : at + _SIZE], "big")
            if end > len(data):
                break
            if end > at + _SIZE:
                found.append(data[at + _SIZE : end])
            at = end
        self._partial = data[at:]
        return found
