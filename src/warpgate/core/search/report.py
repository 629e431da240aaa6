"""What each plugin knew, did and heard in one attempt: collected from events, read by ConnectFailed and explain."""

from __future__ import annotations

from dataclasses import field

from warpgate.events import (
    Event,
    LinkVerified,
    PluginEnded,
    PluginNoted,
    PluginReport,
    PluginSkipped,
    PluginStarted,
    SignalSent,
)
from warpgate.lazy_dataclass import dataclass

AT_WORK = "still at work when the attempt ended"


@dataclass(slots=True)
class _Row:
    outcome: str = "timed out"
    reason: str = AT_WORK
    started: float | None = None
    ended: float | None = None
    notes: list[tuple[float, str]] = field(default_factory=list)


class Reporter:
    """Listens to the events of one session; `rows` is the report so far, times in seconds after `start`."""

    def __init__(self, session: bytes, start: float, before: tuple[PluginReport, ...] = ()) -> None:
        """`before`: rows about what had to be done before the attempt, with times below 0."""
        self._before = before
        self._session = session.hex()
        self._start = start
        self._rows: dict[str, _Row] = {}

    def observe(self, event: Event, now: float) -> None:
        """Take what belongs to this session."""
        if getattr(event, "session", None) != self._session:
            return
        match event:
            case PluginSkipped(plugin=plugin, reason=reason):
                row = self._row(plugin)
                row.outcome, row.reason = "skipped", reason
            case PluginStarted(plugin=plugin):
                self._row(plugin).started = now - self._start
            case PluginNoted(plugin=plugin, text=text):
                self._row(plugin).notes.append((now - self._start, text))
            case LinkVerified(plugin=plugin, transport=transport, local=local, remote=remote):
                self._row(plugin).notes.append((now - self._start, f"{transport} link {local} -> {remote} proved"))
            case PluginEnded(plugin=plugin, outcome=outcome, reason=reason):
                row = self._row(plugin)
                row.outcome, row.reason, row.ended = outcome, reason, now - self._start
            case SignalSent(kind=kind, sequence=sequence, brokers=brokers):
                how = f"sent over {brokers} broker{'' if brokers == 1 else 's'}" if brokers else "waits for a broker"
                self._row("signals").notes.append((now - self._start, f"{kind} {sequence} {how}"))

    def _row(self, plugin: str) -> _Row:
        return self._rows.setdefault(plugin, _Row())

    @property
    def rows(self) -> tuple[PluginReport, ...]:
        """One row a plugin; what was said on the signal channel is in the row called `signals`."""
        return self._before + tuple(
            PluginReport(
                name,
                "info" if name == "signals" else row.outcome,
                "" if name == "signals" else row.reason,
                row.started,
                row.ended,
                tuple(row.notes),
            )
            for name, row in self._rows.items()
        )
