"""What `send` and `receive` report. The names and fields are fixed: scripts rely on them."""

from __future__ import annotations

from typing import Any

from warpgate.cli.records import Record
from warpgate.lazy_dataclass import dataclass
from warpgate.model.text import printable
from warpgate.transfer.reports import Advanced, Announced, Interrupted, Transferred

_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")


@dataclass(frozen=True, slots=True)
class CodeShown(Record):
    """What the other side is to be told; good for one use."""

    event = "code"
    code: str

    def text(self) -> str:
        return f"On the other machine:  warpgate receive {self.code}"


@dataclass(frozen=True, slots=True)
class OfferedShown(Record):
    """`files` and `size` (bytes) are totals; `peer` is the other side's node id."""

    event = "offered"
    peer: str
    name: str
    directory: bool
    files: int
    size: int

    @classmethod
    def of(cls, told: Announced) -> OfferedShown:
        return cls(told.peer, told.name, told.directory, told.files, told.size)

    def text(self) -> str:
        what = f"{self.files} files, " if self.directory else ""
        return f"{printable(self.name)}: {what}{in_bytes(self.size)}, with {self.peer}"


@dataclass(frozen=True, slots=True)
class ProgressShown(Record):
    """At most two a second. `resumed` of the `done` bytes were there from an earlier try."""

    event = "progress"
    peer: str
    name: str
    current: str
    done: int
    size: int
    resumed: int

    @classmethod
    def of(cls, told: Advanced) -> ProgressShown:
        return cls(told.peer, told.name, told.current, told.done, told.size, told.resumed)

    def text(self) -> str:
        raise NotImplementedError("people get a bar")


@dataclass(frozen=True, slots=True)
class InterruptedShown(Record):
    event = "interrupted"
    name: str
    error: str
    wait: float

    @classmethod
    def of(cls, told: Interrupted) -> InterruptedShown:
        return cls(told.name, told.error, told.wait)

    def text(self) -> str:
        return f"{self.error}; trying again in {self.wait:g} s"


@dataclass(frozen=True, slots=True)
class SentShown(Record):
    """Complete and verified on the other side. `sha256` is hexadecimal, "" for a directory.

    `left_out`: files that could not be read to their end. `identical`: the other side had it all before.
    """

    event = "sent"
    peer: str
    name: str
    directory: bool
    files: int
    size: int
    resumed: int
    sha256: str
    seconds: float
    left_out: int
    identical: bool

    @classmethod
    def of(cls, told: Transferred, seconds: float) -> SentShown:
        return cls(
            told.peer,
            told.name,
            told.directory,
            told.files,
            told.size,
            told.resumed,
            told.sha256,
            round(seconds, 3),
            told.left_out,
            told.identical,
        )

    def text(self) -> str:
        if self.identical:
            return f"{printable(self.name)} is there already, identical"
        return f"sent {printable(self.name)}: {_summary(self.size, self.resumed, self.sha256)}, {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class ReceivedShown(Record):
    """Complete, verified, and at `path`."""

    event = "received"
    peer: str
    name: str
    directory: bool
    files: int
    size: int
    resumed: int
    sha256: str
    path: str
    left_out: int
    identical: bool

    @classmethod
    def of(cls, told: Transferred, path: str) -> ReceivedShown:
        return cls(
            told.peer,
            told.name,
            told.directory,
            told.files,
            told.size,
            told.resumed,
            told.sha256,
            path,
            told.left_out,
            told.identical,
        )

    def text(self) -> str:
        if self.identical:
            return f"{printable(self.path)} was there already, identical, says {self.peer}"
        return f"received {printable(self.path)}: {_summary(self.size, self.resumed, self.sha256)}, from {self.peer}"


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


def _summary(size: int, resumed: int, sha256: str) -> str:
    again = f" ({in_bytes(resumed)} of it were there already)" if resumed else ""
    verified = f"SHA-256 {sha256[:16]}..." if sha256 else "verified"
    return f"{in_bytes(size)}{again}, {verified}"
