"""Which of the paths between two nodes is used, and when one of them is under suspicion. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Sequence

from warpgate.lazy_dataclass import dataclass

# RFC 9002 section 6.2.1: a probe timeout, with 25 ms for the peer's delayed acknowledgement. The smoothed round trip
# is taken for its variation as well, as after the first sample (section 5.3: half of it, four times).
_ACK_DELAY = 0.025
_VARIATION = 2.0
# After two of them, and half a second at least, silence is no accident: the question is repeated each 1.25 round trips,
# so with 5 % loss each way all five are lost once in 100,000 times, and a stall of 200 ms passes.
_TIMEOUTS = 2
SOONEST = 0.5
# After this silence is suspicious, unless an answer that was asked for twice takes longer over a path so slow.
LATEST = 3.0
ONCE_MORE = 1.5
LONGEST = 10.0  # whatever a peer's answers took before: it may hold them back
UNKNOWN_ROUND_TRIP = 0.1
SLOWEST_ROUND_TRIP = 2.5  # two satellites; a search takes longer
# While an answer is late it is asked for again after a round trip, and not more often than this, seconds. So loss of
# 5 % each way makes all questions within the patience go unanswered once in a billion times.
QUESTION_GAP = 0.05
_LATER = 1.25  # round trips
# RFC 9002 section 6.2.1 doubles its probe timeout each time; what is expected may be a tenth of what is found out.
_BACK_OFF = 4.0
# While a path is silent it is tried again and again, for it may come back: often at first.
_KNOCKS = ((10.0, 0.1), (60.0, 1.0), (float("inf"), 5.0))
# A relayed path is kept where the direct one takes so much longer.
DETOUR = 1.5


@dataclass(frozen=True, slots=True)
class PathState:
    """What the choice goes by. `number` counts the paths of a connection, `round_trip` in seconds, None unknown."""

    number: int
    relayed: bool
    round_trip: float | None
    silent: bool  # it was given up for another one, and nothing has come by it since


def suspicion(round_trip: float | None) -> float:
    """Seconds for which an answer may be missing before the path is suspected."""
    measured = UNKNOWN_ROUND_TRIP if round_trip is None else round_trip
    timeout = measured * (1 + _VARIATION) + _ACK_DELAY
    return min(max(_TIMEOUTS * timeout, SOONEST), max(LATEST, ONCE_MORE * measured), LONGEST)


def longest_round_trip(now: float, began: float, offered: float | None, heard: float, delay: float | None) -> float:
    """Seconds that the round trip of a path takes at most that is proved now. What proved it to an initiator (`offered`
    is when it first did so) left the peer when the offer was there or, if that is later, when its first signal left,
    which was `heard`; `delay`: of a signal. A responder, and who has met no broker, has asked since it `began`.
    """
    ways = now - began if offered is None or delay is None else 2 * (now - max(offered + delay, heard - delay))
    return min(ways, SLOWEST_ROUND_TRIP)


def ask_after(expected: float, longest: float, times: int) -> float:
    """Seconds until a question that was asked so often, 1 at first, is asked again. The round trip is expected to take
    the one, but may take the other: one packet more then shows soon whether the first was lost, but not one after the
    other. Once it is measured the two are the same.
    """
    return max(QUESTION_GAP, _LATER * min(expected * _BACK_OFF ** (times - 1), longest))


def knock_after(silence: float) -> float:
    """Seconds until a path that has been silent for so long is tried again."""
    return next(pause for limit, pause in _KNOCKS if silence < limit)


def best(paths: Sequence[PathState]) -> PathState | None:
    """Those that are not silent first, then direct ones, then the newest: it is known to have worked last.

    A path that was opened later was opened for a reason; both ends see the order of nominations, so both choose alike.
    """
    chosen: PathState | None = None
    for path in paths:
        if chosen is None or _better(path, chosen):
            chosen = path
    return chosen


def _better(path: PathState, other: PathState) -> bool:
    if path.silent != other.silent:
        return not path.silent
    if path.relayed != other.relayed:
        direct, relayed = (other, path) if path.relayed else (path, other)
        detour = (
            direct.round_trip is not None
            and relayed.round_trip is not None
            and direct.round_trip > DETOUR * relayed.round_trip
        )
        return (path is relayed) if detour else (path is direct)
    return path.number > other.number


@dataclass(frozen=True, slots=True)
class Retry:
    """When a search that found nothing is tried again: after the seconds in `delays`, then never, or for ever."""

    delays: tuple[float, ...]
    for_ever: bool = False

    def after(self, failures: int) -> float | None:
        """Seconds to wait after so many failures in a row, the first is 1; None: only news is a reason."""
        if failures <= len(self.delays):
            return self.delays[failures - 1]
        return self.delays[-1] if self.for_ever else None


# Beneath a relayed path that works there is no hurry; where there is none, nothing else is left to do.
UPGRADE = Retry((5.0, 15.0, 60.0))
RESCUE = Retry((0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0), for_ever=True)
