"""Everything a command says goes through one `Output`: text for people, or JSON lines for programs.

stdout carries results (and, where a pipe is joined to it, the pipe's bytes); stderr carries what happens and
what went wrong. With --json every line on stdout is one object with an "event", and nothing else is ever
written there. Texts of others never bring more than one line, nor anything that a terminal would obey.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from warpgate.cli.records import Failed, Record
from warpgate.cli.terminal import in_one_line, unguarded
from warpgate.lazy_dataclass import dataclass

if TYPE_CHECKING:
    from warpgate.events import Event


@dataclass
class Output:
    """`bytes_on_stdout`: stdout belongs to a pipe, so that what people read goes to stderr."""

    json: bool = False
    verbose: bool = False
    bytes_on_stdout: bool = False

    def show(self, record: Record) -> None:
        """Print a result."""
        if self.json:
            _print_line(sys.stdout, _json_line(record.event, record.members()))
        else:
            _print_line(sys.stderr if self.bytes_on_stdout else sys.stdout, in_one_line(record).text())

    def heading(self, text: str) -> None:
        """A line that only people need."""
        if not self.json:
            _print_line(sys.stdout, text)

    def note(self, text: str) -> None:
        """Something worth knowing that is no result: stderr, for people only. One line."""
        if not self.json:
            self._tell(in_one_line(text))

    def prompt(self, text: str) -> None:
        """A question; the answer is typed behind it."""
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()

    def warn(self, record: Record) -> None:
        """Something went wrong that does not end the command."""
        if self.json:
            self.show(record)
        else:
            self._tell(in_one_line(record).text())

    def notice(self, event: Event, text: str) -> None:
        """One that whoever waits for peers must know of: for people in these words, for programs as with -v."""
        if self.json and not self.verbose:
            self._show_event(event)
        else:
            self.note(text)

    def _show_event(self, event: Event) -> None:
        _print_line(sys.stdout, _json_line(_snake_case(type(event).__name__), asdict(event)))

    def observe(self, event: Event) -> None:
        """The node's observer: with -v, every event as it happens."""
        if not self.verbose:
            return
        from warpgate.cli.words import describe  # noqa: PLC0415 - only for -v

        if self.json:
            self._show_event(event)
        else:
            now = datetime.now().strftime("%H:%M:%S.%f")[:-3]
            self._tell(f"{now} {describe(in_one_line(event))}")

    def trace(self, error: BaseException) -> None:
        """Where a bug is. Each line is marked: the messages of errors may have lines, and not all are ours."""
        for line in "".join(traceback.format_exception(error)).splitlines():
            _print_line(sys.stderr, f"| {line}")

    def fail(self, failure: Failed) -> None:
        """Say why the command failed: one sentence on stderr, or the "failed" object."""
        self.warn(failure)

    def _tell(self, text: str) -> None:
        _print_line(sys.stderr, f"warpgate: {text}")


def discard_stdout() -> None:
    """Nobody reads stdout any more: let what is still buffered vanish instead of failing again at exit."""
    if sys.stdout is not None and unguarded(sys.stdout) is sys.__stdout__:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_line(stream: TextIO | None, text: str) -> None:
    if stream is None:  # the program was started with this stream closed
        return
    stream.write(text + "\n")
    stream.flush()


def _json_line(event: str, members: dict[str, Any]) -> str:
    return json.dumps({"event": event, **members}, default=str)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
