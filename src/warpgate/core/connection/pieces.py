"""Bytes that wait to be read, as they came.

One growing `bytearray` for each of 400 pipes costs two to three times what is in it: each time it grows it moves, and
what it leaves behind fits none of the others. Pieces as they came fit each other's places, and are copied once, when
they are read.
"""

from __future__ import annotations

from collections import deque

# Smaller ones are put together: each has 60 bytes of its own, and a peer may send single bytes.
SMALL = 512


class Pieces:
    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray | memoryview] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, data: bytes) -> None:
        self._size += len(data)
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, bytearray) and len(last) < SMALL:
            last += data
        elif len(data) < SMALL:
            self._pieces.append(bytearray(data))
        else:
            self._pieces.append(data)

    def take(self, limit: int) -> bytes:
        """The oldest, `limit` bytes at most."""
        taken, room = [], limit
        while room and self._pieces:
            piece = self._pieces.popleft()
            if len(piece) > room:
                whole = memoryview(piece)
                self._pieces.appendleft(whole[room:])
                piece = whole[:room]
            taken.append(piece)
            room -= len(piece)
        self._size -= limit - room
        return b"".join(taken)

    def clear(self) -> None:
        self._pieces.clear()
        self._size = 0
