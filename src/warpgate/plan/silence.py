"""When a peer that answers nothing is taken to be absent, and what is said of it then.

An offer is repeated at 0.25, 0.6, 1.2, 2, 3 and 6 s, over every broker of the peer's. Whoever runs answers the first
one that it gets within a quarter of a second (`answer_delay`), so that an absent peer is told from a lossy broker.
"""

from __future__ import annotations

from collections.abc import Sequence

# Seconds after the first offer has left: six more by then.
TOLD = 4.0
# A peer that has just been started still gets the offer of 6 s.
GIVEN_UP = 7.2
# Where signals are slow: an offer and its answer, each repeated by TCP after a loss (RFC 6298 waits for twice the round
# trip or so), that is two ways there and back and as much again.
DELAYS = 6


def silence_due(after: float, signal_delay: float | None) -> float:
    """Seconds from the first offer that left: `TOLD` or `GIVEN_UP`, and more by the measured delay of a signal."""
    return after + DELAYS * (signal_delay or 0.0)


def silence_words(peer: str, offers: int, brokers: Sequence[str]) -> str:
    """`offers`: how many left, to at least one broker; `brokers`: the peer's."""
    where = f"broker{'s' * (len(brokers) != 1)} {', '.join(brokers)}"
    if not offers:
        return f"no offer could be sent to node {peer}: none of its brokers can be reached from here ({where})"
    number = f"{offers} offer{'s' * (offers != 1)}"
    return f"node {peer} answered none of {number} over {where}: it is not running, or not at these brokers"
