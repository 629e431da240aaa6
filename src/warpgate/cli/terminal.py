"""The door to the terminal: whatever this program writes to stdout and stderr as text goes through it.

File names, plugin names, refusals and error texts are chosen by peers, servers and routers. `Door` stands in front of
both streams while a command runs, and writes control characters, bidirectional controls and whatever else is not
plainly visible as escapes: also for tracebacks, warnings, logging and argparse, which know nothing of it. That a text
does not bring line feeds of its own, and with them lines that look like ours, is `in_one_line`'s part.

A pipe's bytes are no text: they go to the descriptor as they are (`cli/stdio.py`), as netcat's and ssh's do.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar, cast

from warpgate.model.text import printable, printable_lines

T = TypeVar("T")


class Door:
    """A text stream in front of another one."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        shown = printable_lines(text)
        encoding = self.stream.encoding
        if encoding and not shown.isascii():  # a peer's letter that this terminal does not have must not end us
            shown = shown.encode(encoding, "backslashreplace").decode(encoding)
        self.stream.write(shown)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def guarded(stream: TextIO | None) -> TextIO | None:
    """None for a stream that the program was started without."""
    return None if stream is None else cast("TextIO", Door(stream))


def unguarded(stream: TextIO) -> TextIO:
    """For what draws by escapes of its own: all text that it draws must have been made printable."""
    return stream.stream if isinstance(stream, Door) else stream


@contextmanager
def guarded_streams() -> Iterator[None]:
    """stdout and stderr behind doors in this block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = guarded(before[0]), guarded(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def in_one_line(value: T) -> T:
    """A record, an event or any other value with every text in it made one printable line."""
    shown: Any = value
    if isinstance(value, str):
        shown = printable(value, None)
    elif isinstance(value, tuple | list):
        items = (in_one_line(item) for item in value)
        shown = tuple(items) if isinstance(value, tuple) else list(items)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {
            field.name: in_one_line(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init
        }
        shown = dataclasses.replace(value, **changed)
    return cast("T", shown)
