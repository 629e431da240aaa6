"""Which strategies run in an attempt, and why the others do not: a value that tests compare and explain prints."""

from __future__ import annotations

from collections.abc import Sequence

from warpgate.errors import ConfigError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Mode, Transport


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one plugin says of itself for this pair of addresses; `unsuitable` is a reason or None."""

    plugin: str
    transports: frozenset[Transport]
    needs_signal: bool
    unsuitable: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """A plugin that runs, and what its link may run over."""

    plugin: str
    transports: frozenset[Transport]


@dataclass(frozen=True, slots=True)
class Skipped:
    plugin: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps start in the same tick."""

    steps: tuple[Step, ...]
    skipped: tuple[Skipped, ...]


# What carries which mode. A stream over UDP is QUIC on the link.
CARRIERS = {
    Mode.STREAM: frozenset(Transport),
    Mode.DATAGRAM: frozenset({Transport.UDP}),
    Mode.PATH: frozenset(Transport),
}


def make_plan(
    verdicts: Sequence[Verdict], mode: Mode, transport: Transport | None = None, *, can_signal: bool = True
) -> Plan:
    """ConfigError when the transport cannot carry the mode at all."""
    carriers = CARRIERS[mode] if transport is None else CARRIERS[mode] & {transport}
    if not carriers:
        name = "none" if transport is None else transport.value.upper()
        raise ConfigError(f"a {mode.value} pipe cannot run over {name} (datagrams run over UDP)")
    steps, skipped = [], []
    for verdict in verdicts:
        usable = verdict.transports & carriers
        if not usable:
            reason = f"makes no {' or '.join(sorted(carrier.value.upper() for carrier in carriers))} link"
        elif verdict.unsuitable is not None:
            reason = verdict.unsuitable
        elif verdict.needs_signal and not can_signal:
            reason = "the peer's address names no broker to signal over"
        else:
            steps.append(Step(verdict.plugin, usable))
            continue
        skipped.append(Skipped(verdict.plugin, reason))
    return Plan(tuple(steps), tuple(skipped))
