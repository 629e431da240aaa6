"""How long is waited for something of the peer's: as long as it takes at the measured speed of signals. Pure.

A signal goes from us over a broker to the peer, so it takes about as long as a round trip between the two, or as the
way there over a relay. What a strategy waits for is a number of those; below a quarter of a second a signal other
reasons decide (a busy machine, a lost packet), which each place's own constant stands for.

Not so where the broker is quicker than the way between the two (behind a satellite whose modem answers TCP itself, or
a VPN that packets do not take). So packets have at least as long as those to the nearest STUN server and back: where
none is near, no peer is.
"""

from __future__ import annotations

# A TCP connection over a relay and two satellites in a row takes 10 s to be proved. The delay is measured with a peer
# who may be anybody: holding its answers back must not keep anything of ours open for long.
LONGEST = 15.0
# One signal, s: over two satellites in a row it takes 2.5. How far a peer is from its broker is what it says itself,
# and how long an answer took is up to it, too; what goes by a signal's delay alone must not be moved beyond an attempt.
LONGEST_SIGNAL = 5.0
# An attempt: TLS over a TCP relay takes nine signals' time, two more where a broker has to be met first.
ATTEMPT_SIGNALS = 12
MOST_OF_USUAL = 2


def round_trip_of(signal_delay: float | None, nearest: float | None) -> float | None:
    """Seconds that packets to the peer and back may take. `nearest`: to the nearest STUN server. None: unknown."""
    known = [seconds for seconds in (signal_delay, nearest) if seconds is not None]
    return min(max(known), LONGEST_SIGNAL) if known else None


def patience_of(least: float, signals: float, each: float | None) -> float:
    """Seconds: `least`, or as long as so many signals take, up to `LONGEST`. `each`: what one takes, or a round trip;
    None: unknown.
    """
    return max(least, min(signals * (each or 0.0), LONGEST))


def attempt_patience(usual: float, each: float | None) -> float:
    """Seconds that an attempt may take with a peer that answers: `usual`, or twice that where signals are slow."""
    return max(usual, min(ATTEMPT_SIGNALS * (each or 0.0), MOST_OF_USUAL * usual))
