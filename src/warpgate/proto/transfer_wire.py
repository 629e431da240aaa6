"""What `send` and `receive` say to each other on a stream pipe: frames, and the messages in them (docs/protocol.md).

    frame = length(4, big-endian)  body     body = msgpack array, its first element the kind of message

The sender offers, lists, and then sends the files one after the other; the receiver says what it has of them, and in
the end that it has them all. Every length is bounded here, so that decoding hostile bytes costs no more than they did.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from warpgate.errors import DecodeError

VERSION = 1
TRANSFER_SIZE = 16
DIGEST_SIZE = 32
# A file's data travels in pieces: large enough that Python's cost for each is small, small enough for a line that
# breaks again and again, since a piece that is not complete is lost.
PIECE = 64 * 1024
MAX_FRAME = 256 * 1024
BATCH = 64  # entries (or partial files) in one message: below MAX_FRAME with the longest of paths
MAX_ENTRIES = 100_000
# What a list may cost the receiver: 80 bytes for each entry, and those of its name. 100,000 names of 45 bytes pass.
MAX_LIST = 12 * 1024 * 1024
MAX_SIZE = 2**62
MAX_DEPTH = 64
MAX_NAME = 255  # bytes of UTF-8: what Linux and most others allow between two slashes
MAX_PATH = 3072  # bytes: below Linux's 4096 together with the directory that it goes to
MAX_TEXT = 500
MAX_SHOWN = 16 * 1024  # bytes of a text that is sent to be read

Size = Annotated[int, Meta(ge=0, le=MAX_SIZE)]
Index = Annotated[int, Meta(ge=0, lt=MAX_ENTRIES)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Digest = Annotated[bytes, Meta(min_length=DIGEST_SIZE, max_length=DIGEST_SIZE)]
TransferId = Annotated[bytes, Meta(min_length=TRANSFER_SIZE, max_length=TRANSFER_SIZE)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]


class Reason(enum.StrEnum):
    """Why a transfer is refused. Peers of other versions may know more: an unknown one is told by its text."""

    EXISTS = "exists"  # the name is taken, and nothing is overwritten
    BUSY = "busy"  # it is coming in over another connection: worth another try
    SPACE = "space"  # it does not fit
    UNSAFE = "unsafe"  # a name or path that is not written to
    LIMIT = "limit"  # too many, too long, too deep
    FILES = "files"  # the receiver's file system said no
    MISMATCH = "mismatch"  # what arrived is not what was sent
    DECLINED = "declined"  # the person at the other side said no, or nothing
    PROTOCOL = "protocol"  # a message that may not come now, or another version


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of all messages."""


class Offer(Message, frozen=True, tag=1):
    """The sender's first message. `transfer` is the same when it tries again; `entries` and `size` are totals.

    `more`: how many files and directories the same command sends after this one. `text`: a file to be read by a person
    at once, and not to be kept.
    """

    version: Annotated[int, Meta(ge=0, lt=2**16)]
    transfer: TransferId
    name: Name
    directory: bool
    entries: Annotated[int, Meta(ge=0, le=MAX_ENTRIES)]
    size: Size
    more: Annotated[int, Meta(ge=0, lt=2**16)] = 0
    text: bool = False


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A file or a directory below the one offered; its `path` from there, empty for a single file itself.

    `modified` in nanoseconds since 1970; `size` 0 for directories. Directories stand before what is in them.
    """

    path: Annotated[tuple[Name, ...], Meta(max_length=MAX_DEPTH)]
    directory: bool
    size: Size
    modified: int
    executable: bool


class Entries(Message, frozen=True, tag=2):
    """The next entries of the list; their numbers follow from the order."""

    entries: Annotated[tuple[Entry, ...], Meta(min_length=1, max_length=BATCH)]


class Begin(Message, frozen=True, tag=3):
    """The file of this number follows, from this offset: 0, or what the receiver has of it, if that is right."""

    index: Index
    offset: Size


class Data(Message, frozen=True, tag=4):
    piece: Annotated[bytes, Meta(min_length=1, max_length=PIECE)]


class End(Message, frozen=True, tag=5):
    """The file is complete; SHA-256 of the whole of it."""

    digest: Digest


class Finish(Message, frozen=True, tag=6):
    """All files have been sent."""


class Abort(Message, frozen=True, tag=7):
    """The sender gives up, and does not come back."""

    text: Text


class Busy(Message, frozen=True, tag=8):
    """Either: still there, hashing what there is."""


class Omit(Message, frozen=True, tag=9):
    """The file of this number does not come, or not to its end: it cannot be read any more."""

    index: Index


class Part(msgspec.Struct, frozen=True, array_like=True):
    """The first `size` bytes of a file that the receiver has from an earlier try, and their SHA-256."""

    index: Index
    size: Annotated[int, Meta(ge=1, le=MAX_SIZE)]
    digest: Digest


class Have(Message, frozen=True, tag=16):
    """The receiver's answer to the list, in as many messages as it takes; `last` marks the last."""

    parts: Annotated[tuple[Part, ...], Meta(max_length=BATCH)]
    last: bool


class Done(Message, frozen=True, tag=17):
    """Everything is in its place, and every hash was right; `identical`: it was there before."""

    identical: bool = False


class Refused(Message, frozen=True, tag=18):
    """The receiver takes no more; `reason` is a Reason's value."""

    reason: Annotated[str, Meta(max_length=32)]
    text: Text


AnyMessage = Offer | Entries | Begin | Data | End | Finish | Abort | Busy | Omit | Have | Done | Refused

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: AnyMessage) -> bytes:
    """The message as a frame."""
    body = _ENCODER.encode(message)
    return len(body).to_bytes(4, "big") + body


class Deframer:
    """Messages out of a stream that is cut anywhere. Holds one frame at most, besides what it was fed last."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.progress = 0  # bytes fed, those of signs of life aside

    @property
    def pending(self) -> bool:
        """Whether the stream would end within a frame."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[AnyMessage]:
        """The messages that are complete now. DecodeError for what is none; nothing must be fed after that."""
        self._buffer += data
        self.progress += len(data)
        view, start = memoryview(self._buffer), 0
        try:
            while len(view) - start >= 4:
                length = int.from_bytes(view[start : start + 4], "big")
                if not 0 < length <= MAX_FRAME:
                    raise DecodeError(f"a frame of {length} bytes (1 to {MAX_FRAME} are allowed)")
                if len(view) - start - 4 < length:
                    break
                with view[start + 4 : start + 4 + length] as body:  # a DecodeError's traceback would hold it
                    message = decode(body)
                if isinstance(message, Busy):
                    self.progress -= 4 + length
                yield message
                start += 4 + length
        finally:
            view.release()
            del self._buffer[:start]


def decode(body: bytes | memoryview) -> AnyMessage:
    """Raises DecodeError; fields added at the end by later versions pass."""
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"no message of a file transfer: {error}") from None


def clip(text: str) -> str:
    """What fits into `Abort` and `Refused`."""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."
