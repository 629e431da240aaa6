"""The credit and the buffers of one reliable stream, whatever carries it.

Why credit of our own: the library opens QUIC's windows when bytes arrive, whether or not the user reads them, so that a
slow reader would hold everything its peer can send. With it neither side holds more than its window to be read plus
SEND_BUFFER to be sent, and `delivered` tells a closing side that nothing it sent is lost. The window begins with
FIRST_WINDOW and is twice what has been read, so that it grows as fast as the library's, and idle streams take little of
what all of them may hold (`pool`).
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod

from warpgate.core.connection.pieces import Pieces
from warpgate.core.connection.pool import Share
from warpgate.errors import NetworkError

# At 40 ms round trip 800 Mbit/s, more than the library encrypts; both sides' buffers stay within a few MiB.
WINDOW = 4 * 1024 * 1024
# So much is taken, too, while nothing arrives and is read, as in an outage: a minute of 64 bytes every 10 ms.
FIRST_WINDOW = 512 * 1024
# Accepted from the user but not sent once yet. What is in flight is bounded by the window.
SEND_BUFFER = 1024 * 1024
# One `read`: as for TCP pipes.
CHUNK = 256 * 1024


class ByteStream(ABC):
    """`write` and `read` for the user; `_take`, `_credited` and `_ended_by_peer` for whoever carries it."""

    def __init__(self, allowed: int, granted: int, share: Share) -> None:
        """`allowed`: what may be sent before the peer gives credit; `granted`: what it may send. `share`: of what all
        streams may hold to be read; given back when nobody has this one any more.
        """
        self._share = share
        weakref.finalize(self, share.release)
        self._written = 0
        self._allowed = allowed
        self.finished = False
        self.delivered = False
        self._unread = Pieces()
        self._received = 0
        self._read = 0
        self._granted = granted
        self.peer_finished = False

    # -- what carries it -----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _open(self) -> bool:
        """Whether anything can be sent."""

    @property
    @abstractmethod
    def _waiting(self) -> int:
        """Bytes written that have not been sent once."""

    @property
    def _window(self) -> int:
        """How much may wait here to be read."""
        return min(WINDOW, max(FIRST_WINDOW, 2 * self._read), self._share.limit)

    @property
    @abstractmethod
    def _send_limit(self) -> int:
        """How many bytes may be accepted from the user now, for what all streams hold to be sent."""

    @abstractmethod
    def _carry(self, data: bytes | memoryview, *, end: bool = False) -> None:
        """Send on the stream."""

    @abstractmethod
    def _say_granted(self, total: int) -> None:
        """Tell the peer how many bytes it may have sent."""

    @abstractmethod
    def _say_delivered(self) -> None:
        """Tell the peer that everything has arrived."""

    # -- the user ------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many bytes `write` takes now."""
        if not self._open or self.finished:
            return 0
        return min(SEND_BUFFER - self._waiting, self._allowed - self._written, self._send_limit)

    @property
    def progress(self) -> tuple[int, int]:
        """Changes whenever something of what was written has gone out or been read by the peer."""
        return self._allowed, self._waiting

    def write(self, data: bytes | memoryview) -> None:
        """At most `room` bytes; they are copied."""
        self._written += len(data)
        self._carry(data)

    def finish(self) -> None:
        """Nothing more will be written; idempotent."""
        if self._open and not self.finished:
            self.finished = True
            self._carry(b"", end=True)

    @property
    def granted(self) -> int:
        """How many bytes the peer may have sent, as it was told."""
        return self._granted

    @property
    def readable(self) -> bool:
        return bool(self._unread)

    def read(self) -> bytes:
        """The oldest bytes received, CHUNK at most; b"" when there are none. What is read is new credit."""
        data = self._unread.take(CHUNK)
        self._read += len(data)
        window = self._window
        # Said when a quarter of the window has been read: four small packets a window.
        if self._read + window - self._granted >= window // 4 and not self.peer_finished:
            self._grant(self._read + window)
        self._account()
        return data

    # -- the peer ------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self._granted:
            raise NetworkError("the peer sent more than it may")
        self._unread.add(data)

    def _ended_by_peer(self) -> None:
        self.peer_finished = True
        self._account()
        self._say_delivered()

    def _credited(self, total: int) -> None:
        self._allowed = max(self._allowed, total)

    def _grant(self, total: int) -> None:
        self._granted = total
        self._account()
        self._say_granted(total)

    def _account(self) -> None:
        """After a change of what is held, or may be."""
        over = self.peer_finished or not self._open
        self._share.set(len(self._unread) if over else self._granted - self._read)
