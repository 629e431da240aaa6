"""What the name server counts, and the text format that Prometheus reads (exposition format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds. A look-up takes under 1 ms, a write waits for the disk.
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

# Name without its prefix, "gauge" or "counter", what it is, its value.
Reading = tuple[str, str, str, int]


def family(name: str, kind: str, text: str, samples: Iterable[tuple[dict[str, str], object]]) -> list[str]:
    """The lines of one metric, `warpgate_NAME`; a sample is its labels, which may hold anything, and its value."""
    lines = [f"# HELP warpgate_{name} {text}", f"# TYPE warpgate_{name} {kind}"]
    for labels, value in samples:
        told = ",".join(f'{label}="{_escaped(of)}"' for label, of in labels.items())
        lines.append(f"warpgate_{name}{{{told}}} {value}" if told else f"warpgate_{name} {value}")
    return lines


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Metrics:
    """One for each server. Labels come from closed sets: clients cannot make the output grow.

    `others`: what else this process serves, read when somebody looks.
    """

    def __init__(self) -> None:
        self.others: list[Callable[[], Sequence[Reading]]] = []
        self.names = 0
        self.purged = 0
        self.connections = 0
        self.connections_refused = 0
        self._answers: Counter[tuple[str, int]] = Counter()
        self._refusals: Counter[str] = Counter()
        self._seconds: dict[str, list[int]] = {}
        self._seconds_sum: Counter[str] = Counter()

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """`operation`: lookup, write, ticket, health, metrics or other."""
        self._answers[operation, status] += 1
        buckets = self._seconds.setdefault(operation, [0] * (len(_BOUNDS) + 1))
        buckets[bisect_left(_BOUNDS, seconds)] += 1
        self._seconds_sum[operation] += seconds  # type: ignore[assignment]  # a Counter adds floats as well

    def refused(self, code: str) -> None:
        self._refusals[code] += 1

    def text(self) -> str:
        lines = []
        for name, kind, text, value in (
            ("names", "gauge", "Registered names, as last counted.", self.names),
            ("purged_total", "counter", "Expired rows removed.", self.purged),
            ("connections", "gauge", "Open HTTP connections.", self.connections),
            ("connections_refused_total", "counter", "Connections over a limit.", self.connections_refused),
            *(reading for read in self.others for reading in read()),
        ):
            lines += family(name, kind, text, [({}, value)])
        answers = (
            ({"operation": each, "status": str(status)}, n) for (each, status), n in sorted(self._answers.items())
        )
        lines += family("requests_total", "counter", "Answered requests.", answers)
        refusals = (({"code": code}, count) for code, count in sorted(self._refusals.items()))
        lines += family("refusals_total", "counter", "Requests refused, by the reason's code.", refusals)
        lines += family("request_seconds", "histogram", "From a request's head to its answer.", ())
        for operation, buckets in sorted(self._seconds.items()):
            lines.extend(self._histogram(operation, buckets))
        return "\n".join(lines) + "\n"

    def _histogram(self, operation: str, buckets: list[int]) -> list[str]:
        label, total, lines = f'operation="{operation}"', 0, []
        for bound, count in zip((*_BOUNDS, "+Inf"), buckets, strict=True):
            total += count
            lines.append(f'warpgate_request_seconds_bucket{{{label},le="{bound}"}} {total}')
        lines.append(f"warpgate_request_seconds_sum{{{label}}} {self._seconds_sum[operation]:.6f}")
        lines.append(f"warpgate_request_seconds_count{{{label}}} {total}")
        return lines
