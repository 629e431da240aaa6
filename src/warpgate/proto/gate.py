"""Which envelopes are let in: size and rate before any crypto, then freshness, replay and the sender's rate.

Two clocks are arguments: `now` is monotonic, `now_unix` the wall clock that senders put into their signals.
"""

from __future__ import annotations

from collections import OrderedDict

from warpgate.errors import AuthenticationError, DecodeError
from warpgate.proto.envelope import MAX_ENVELOPE, Opened

# Phones' and virtual machines' clocks are off by a minute or two; five minutes is what Kerberos allows
# (RFC 4120 section 8.2, "Acceptable clock skew").
WINDOW = 300.0
# The same envelope by way of a second broker arrives within its delay; later it is somebody's recording.
DUPLICATE_DELAY = 30.0
# More than GLOBAL_RATE lets through in WINDOW (60,400): no flood pushes an id out while it is fresh.
MAX_IDS = 65536
MAX_SENDERS = 4096
# An attempt sends about five signals; a node that restarts all its pipes at once sends dozens.
SENDER_RATE, SENDER_BURST = 20.0, 40.0
# Opening an envelope costs about 0.2 ms: 200 a second take 4 % of a core from whoever floods our topic.
GLOBAL_RATE, GLOBAL_BURST = 200.0, 400.0


class Duplicate(AuthenticationError):
    """The same envelope again, by another broker: not worth a word."""


class TokenBucket:
    """`burst` at once, `rate` a second for good."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token; False when there is none."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class EnvelopeGate:
    """Stands before one node's topic; remembers ids and senders, both bounded."""

    def __init__(self, now: float) -> None:
        self._all = TokenBucket(GLOBAL_RATE, GLOBAL_BURST, now)
        self._seen: OrderedDict[bytes, float] = OrderedDict()  # sender + id -> when admitted, oldest first
        self._senders: OrderedDict[bytes, TokenBucket] = OrderedDict()  # least recently heard first

    def admit_bytes(self, size: int, now: float) -> None:
        """Before opening: DecodeError when too large, AuthenticationError when the topic is flooded."""
        if size > MAX_ENVELOPE:
            raise DecodeError(f"an envelope has at most {MAX_ENVELOPE} bytes, this one {size}")
        if not self._all.take(now):
            raise AuthenticationError(f"over the rate: more than {GLOBAL_RATE:.0f} envelopes a second")

    def admit(self, opened: Opened, now_unix: float, now: float) -> None:
        """After opening: AuthenticationError (too old, replayed, over the rate), Duplicate for a second copy.

        Copies cost their sender nothing of its rate: whoever can read a broker can repeat them.
        """
        age = now_unix - opened.signal.time
        if abs(age) > WINDOW:
            raise AuthenticationError(
                f"too old: sent {age:.0f} s ago by its sender's clock, {WINDOW:.0f} s are allowed either way"
            )
        self._forget(now)
        name = opened.sender + opened.message_id
        admitted = self._seen.get(name)
        if admitted is not None:
            if now - admitted <= DUPLICATE_DELAY:
                raise Duplicate("the same envelope by another broker")
            raise AuthenticationError(f"replayed: the same envelope came {now - admitted:.0f} s ago")
        if not self._bucket(opened.sender, now).take(now):
            raise AuthenticationError(f"over the rate: more than {SENDER_RATE:.0f} signals a second")
        self._seen[name] = now

    def _bucket(self, sender: bytes, now: float) -> TokenBucket:
        bucket = self._senders.get(sender)
        if bucket is None:
            bucket = self._senders[sender] = TokenBucket(SENDER_RATE, SENDER_BURST, now)
            if len(self._senders) > MAX_SENDERS:
                self._senders.popitem(last=False)
        self._senders.move_to_end(sender)
        return bucket

    def _forget(self, now: float) -> None:
        # A signal dated WINDOW ahead stays fresh for twice WINDOW.
        while self._seen:
            name, admitted = next(iter(self._seen.items()))
            if len(self._seen) < MAX_IDS and now - admitted <= 2 * WINDOW:
                return
            del self._seen[name]
