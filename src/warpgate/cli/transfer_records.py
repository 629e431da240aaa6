"""What `send` and `receive` report. The names and fields are fixed: scripts rely on them."""

from __future__ import annotations

from typing import Any

from warpgate.cli.records import Record
from warpgate.lazy_dataclass import dataclass
from warpgate.model.text import printable
from warpgate.transfer.reports import Advanced, Announced, Interrupted

_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")


@dataclass(frozen=True, slots=True)
class CodeShown(Record):
    """What the other side is to be told; good for one use."""

    event = "code"
    code: str

    def text(self) -> str:
        return f"On the other machine:  warpgate receive {self.code}"


@dataclass(frozen=True, slots=True)
class OfferedShown(Announced, Record):
    event = "offered"

    def text(self) -> str:
        what = f"{self.files} files, " if self.directory else ""
        return f"{printable(self.name)}: {what}{in_bytes(self.size)}, with {self.peer}"


@dataclass(frozen=True, slots=True)
class ProgressShown(Advanced, Record):
    """At most two a second."""

    event = "progress"

    def text(self) -> str:
        raise NotImplementedError("people get a bar")


@dataclass(frozen=True, slots=True)
class InterruptedShown(Interrupted, Record):
    event = "interrupted"

    def text(self) -> str:
        return f"{self.error}; trying again in {self.wait:g} s"


@dataclass(frozen=True, slots=True)
class Moved(Record):
    """Complete and verified. `sha256` is hexadecimal, "" for a directory.

    `left_out`: files that could not be read to their end. `identical`: the receiver had it all before.
    """

    peer: str
    name: str
    directory: bool
    files: int
    size: int
    resumed: int
    sha256: str
    left_out: int
    identical: bool

    @property
    def summary(self) -> str:
        again = f" ({in_bytes(self.resumed)} of it were there already)" if self.resumed else ""
        verified = f"SHA-256 {self.sha256[:16]}..." if self.sha256 else "verified"
        return f"{in_bytes(self.size)}{again}, {verified}"


@dataclass(frozen=True, slots=True)
class SentShown(Moved):
    event = "sent"
    seconds: float

    def text(self) -> str:
        if self.identical:
            return f"{printable(self.name)} is there already, identical"
        return f"sent {printable(self.name)}: {self.summary}, {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class ReceivedShown(Moved):
    """It is at `path`."""

    event = "received"
    path: str

    def text(self) -> str:
        if self.identical:
            return f"{printable(self.path)} was there already, identical, says {self.peer}"
        return f"received {printable(self.path)}: {self.summary}, from {self.peer}"


@dataclass(frozen=True, slots=True)
class TextShown(Record):
    """A text that was sent to be read. Each line is indented, so that none looks like one of ours."""

    event = "text"
    peer: str
    lines: tuple[str, ...]

    def members(self) -> dict[str, Any]:
        return {"peer": self.peer, "text": "\n".join(self.lines)}

    def text(self) -> str:
        return "\n".join((f"{self.peer} says:", *(f"  {line}" for line in self.lines)))


@dataclass(frozen=True, slots=True)
class NotReceived(Record):
    """One transfer has failed; `receive` goes on. `reason` is one word where the sender was refused, else ""."""

    event = "failed"
    peer: str
    error: str
    reason: str

    def text(self) -> str:
        return f"not received from {self.peer}: {self.error}"


@dataclass(frozen=True, slots=True)
class Skipped(Record):
    """A file, or something in a directory, is not sent; the rest is."""

    event = "skipped"
    path: str
    reason: str

    def text(self) -> str:
        return f"skipped {printable(self.path)}: {self.reason}"


def in_bytes(count: int) -> str:
    """For people, in powers of 1000."""
    if count < 1000:
        return f"{count} bytes"
    power = min(len(_UNITS), (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.1f} {_UNITS[power - 1]}"
