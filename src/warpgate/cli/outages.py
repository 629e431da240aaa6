"""What `connect` tells of its durable connection: each path for programs, outages for people, as `send` does."""

from __future__ import annotations

from warpgate.cli.output import Output
from warpgate.cli.records import PathTaken
from warpgate.events import Event, PathChosen, PathsMissing, PathsWork


class Outages:
    """`observe` is the node's observer."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._missing: set[str] = set()  # connections that nothing works of, as far as was told

    def observe(self, event: Event) -> None:
        output = self._output
        if isinstance(event, PathChosen) and (output.json or output.verbose):
            output.show(PathTaken.of(event))
        elif isinstance(event, PathsMissing) and not output.json:
            self._missing.add(event.connection)
            output.note("connection lost, searching ...")
        elif isinstance(event, PathsWork) and event.connection in self._missing:
            self._missing.discard(event.connection)
            output.note(f"back after {event.gap:.1f} s, by {event.plugin}")
