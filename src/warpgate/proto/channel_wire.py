"""What is on the streams of a QUIC connection between two nodes: the wire of durable pipes.

    stream 0            both ways, *control*. The client's begins with its head (`quic_proof`). Then, on both sides,
                        news = length(2) address: the sender's encoded NodeAddress, whenever that has changed
    streams 2 and 3     the client's and the server's *credit* = stream(8) total(8): so many user bytes may have been
                        sent on that stream; a total of ALL says that everything up to the FIN has arrived
    4, 8 ... and 1, 5 ...  one pipe each, opened by the client and the server: pipe head, then the users' bytes; FIN is
                        end of stream. pipe head = length(1) name of the service, UTF-8, "" for the one without a
                        name. Who takes the pipe says 0 first, who does not 1 and why (UTF-8, up to FIN)
    DATAGRAM frames     of a pipe whose head says length + 128: the id of its stream, as a variable-length integer
                        (RFC 9000 section 16), then one datagram of the user's. On the stream nothing of users' is sent

Other integers are big-endian. Nothing here is secret or proved: QUIC has done that.
"""

from __future__ import annotations

from warpgate.errors import DecodeError
from warpgate.model.address import MAX_ADDRESS_SIZE
from warpgate.model.text import printable
from warpgate.model.wanted import MAX_SERVICE, is_service_name
from warpgate.proto.datagram_frames import FrameReader
from warpgate.proto.quic_wire import encode_integer, integer_at

# RFC 7301; a change of the rules in this file needs another name.
ALPN = "warpgate-paths/1"
CONTROL = 0
CLIENT_CREDIT, SERVER_CREDIT = 2, 3
ALL = (1 << 64) - 1
TAKEN, NOT_TAKEN = b"\0", b"\1"
MAX_REASON = 200
# Added to the first byte of the head: the pipe is one of datagrams.
DATAGRAMS = 0x80
# A packet of 1,200 bytes less its header with a connection id of 9 bytes (14 at most), its tag (16), the type and
# length of the frame (3) and the id of the stream (8 at most).
LARGEST_DATAGRAM = 1150

# The application error code of an orderly end, plus how many pipes of the other side were seen (`nth_pipe`): those
# beyond may be opened again on another connection.
SEEN = 1 << 16

_CREDIT_SIZE = 16


def is_pipe(stream: int) -> bool:
    """Whether the id is one of a pipe's: bidirectional (RFC 9000 section 2.1), and not the control stream."""
    return stream % 4 in (0, 1) and stream != CONTROL


def opened_by_client(stream: int) -> bool:
    return stream % 2 == 0


def nth_pipe(stream: int) -> int:
    """The how many-th of its opener's pipes it is, from 1 on."""
    return (stream + 3) // 4


def encode_credit(stream: int, total: int) -> bytes:
    return stream.to_bytes(8, "big") + total.to_bytes(8, "big")


def encode_pipe_head(service: str, *, datagrams: bool = False) -> bytes:
    """`service` is a name as in `model.wanted`, or ""."""
    name = service.encode()
    return bytes((len(name) + (DATAGRAMS if datagrams else 0),)) + name


def begins_datagrams(head: bytes) -> bool:
    """Whether a pipe that begins so is one of datagrams."""
    return head[:1] >= bytes((DATAGRAMS,))


def encode_datagram(stream: int, data: bytes) -> bytes:
    return encode_integer(stream) + data


def decode_datagram(frame: bytes) -> tuple[int, bytes]:
    """The stream and the user's datagram. DecodeError."""
    stream, at = integer_at(frame, 0)
    return stream, frame[at:]


def largest_datagram(frame: int) -> int:
    """Bytes of the user's in a DATAGRAM frame of `frame` bytes."""
    return frame - 11


def encode_refusal(reason: str) -> bytes:
    return NOT_TAKEN + reason.encode()[:MAX_REASON]


class CreditReader:
    """From the bytes of a credit stream to (stream, total)."""

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, data: bytes) -> list[tuple[int, int]]:
        data = self._partial + data
        whole = len(data) - len(data) % _CREDIT_SIZE
        self._partial = data[whole:]
        return [
            (int.from_bytes(data[at : at + 8], "big"), int.from_bytes(data[at + 8 : at + 16], "big"))
            for at in range(0, whole, _CREDIT_SIZE)
        ]


class NewsReader(FrameReader):
    """From the bytes of a control stream to addresses."""

    def __init__(self) -> None:
        super().__init__(1, MAX_ADDRESS_SIZE, "an address")


class PipeHeadReader:
    """The beginning of one pipe; `service` is None until it is whole."""

    def __init__(self) -> None:
        self._partial = b""
        self.service: str | None = None

    def feed(self, data: bytes) -> bytes:
        """What follows the head. DecodeError for a name that is none."""
        if self.service is not None:
            return data
        self._partial += data
        size = self._partial[0] % DATAGRAMS if self._partial else 0
        if size > MAX_SERVICE:
            raise DecodeError(f"a service's name of {size} bytes")
        if not self._partial or len(self._partial) < 1 + size:
            return b""
        try:
            service = self._partial[1 : 1 + size].decode()
        except UnicodeDecodeError:
            raise DecodeError("a service's name that is no UTF-8") from None
        if service and not is_service_name(service):
            raise DecodeError(f"{service!r} is no name of a service")
        self.service = service
        return self._partial[1 + size :]


class ReplyReader:
    """What the acceptor of a pipe says first. `taken` is None until it has."""

    def __init__(self) -> None:
        self.taken: bool | None = None
        self._reason = b""

    @property
    def full(self) -> bool:
        """Whether no more of the reason is taken."""
        return len(self._reason) == MAX_REASON

    @property
    def reason(self) -> str:
        """Why it is not taken, for people."""
        return printable(self._reason.decode(errors="replace"))

    def feed(self, data: bytes) -> bytes:
        """What follows. DecodeError for an answer that does not exist."""
        if self.taken is None and data:
            if data[:1] not in (TAKEN, NOT_TAKEN):
                raise DecodeError("a pipe that is neither taken nor refused")
            self.taken = data[:1] == TAKEN
            data = data[1:]
        if self.taken is False:
            self._reason = (self._reason + data)[:MAX_REASON]
            return b""
        return data
