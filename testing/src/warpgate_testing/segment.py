"""TCP segments of the internet in memory, and the answer of a host that knows nothing of their connection."""

from __future__ import annotations

from typing import Final

from warpgate.lab.flow import ACK, FIN, RST, SYN
from warpgate.lazy_dataclass import dataclass

RECEIVE_BUFFER: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class TcpSegment:
    """`flags` are control bits; `ack` and `window` count where ACK is set."""

    flags: int
    seq: int
    ack: int = 0
    window: int = RECEIVE_BUFFER
    data: bytes = b""

    @property
    def end(self) -> int:
        """The sequence number after this segment; SYN and FIN count one each."""
        return self.seq + len(self.data) + bool(self.flags & SYN) + bool(self.flags & FIN)


def reset_for(segment: TcpSegment) -> TcpSegment | None:
    """What a host without such a connection answers (RFC 9293 section 3.10.7.1); None to a RST."""
    if segment.flags & RST:
        return None
    if segment.flags & ACK:
        return TcpSegment(RST, segment.ack)
    return TcpSegment(RST | ACK, 0, segment.end)
