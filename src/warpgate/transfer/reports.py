"""What sender and receiver tell whoever watches them."""

from __future__ import annotations

from collections.abc import Callable

from warpgate.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Announced:
    """The list is known on both sides. `files` and `size` (bytes) are totals; `peer` is the other side's node id."""

    peer: str
    name: str
    directory: bool
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class Advanced:
    """`done` bytes of `size` are there, among them `resumed` from an earlier try; `current` is the file at work."""

    peer: str
    name: str
    current: str
    done: int
    size: int
    resumed: int


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The sender has lost the connection, and will try again in `wait` seconds."""

    name: str
    error: str
    wait: float


@dataclass(frozen=True, slots=True)
class Transferred:
    """Complete, verified, in its place. `sha256` (hexadecimal) of a single file, "" of a directory.

    `left_out`: files that were listed and could not be read to their end. `identical`: it was there before. `more`: how
    many files and directories the sender has told to be coming after this. `text`: what was sent to be read, which is
    nowhere else.
    """

    peer: str
    name: str
    directory: bool
    files: int
    size: int
    resumed: int
    sha256: str
    left_out: int = 0
    identical: bool = False
    more: int = 0
    text: str | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file below a directory that was listed and does not come; the rest does."""

    peer: str
    name: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The receiver gets no more of this one over the connection that it came on."""

    peer: str
    name: str


Report = Announced | Advanced | Interrupted | LeftOut | Transferred | Stopped
Watcher = Callable[[Report], None]
