"""Which envelopes are let in: size and rate before any crypto, then replay and the sender's rate, then freshness.

Two clocks are arguments: `now` is monotonic, `now_unix` the wall clock that senders put into their signals.

What belongs to a session that is there is fresh: its id is a random number of this very attempt. An offer that begins
one is fresh by the sender's clock, or by a token that we gave out for it: clocks may be off, and a recording made
before this process began was never seen here. So whoever looks stale is not refused, but asked again.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict

from warpgate.errors import AuthenticationError, DecodeError
from warpgate.model.recent import Recent
from warpgate.proto.bucket import TokenBucket
from warpgate.proto.envelope import MAX_ENVELOPE, Opened

# Phones' and virtual machines' clocks are off by a minute or two; five minutes is what Kerberos allows
# (RFC 4120 section 8.2, "Acceptable clock skew").
WINDOW = 300.0
# The same envelope by way of a second broker arrives within its delay; later it is somebody's recording.
DUPLICATE_DELAY = 30.0
# A sender that got a token uses it at once; the way to it and back takes seconds at the worst.
TOKEN_LIFE = 60.0
# More than GLOBAL_RATE lets through in WINDOW (60,400): no flood pushes an id out while it is fresh.
MAX_IDS = 65536
MAX_SENDERS = 4096
# An attempt sends about five signals; a node that restarts all its pipes at once sends dozens.
SENDER_RATE, SENDER_BURST = 20.0, 40.0
# Opening an envelope costs 0.2 ms to 0.5 ms, what is well-formed most: a tenth of a core for 200 a second of a flood.
GLOBAL_RATE, GLOBAL_BURST = 200.0, 400.0


class Duplicate(AuthenticationError):
    """The same envelope again, by another broker: not worth a word."""


class Stale(AuthenticationError):
    """It may be a recording: worth a token, by which its sender can say it again."""


class Freshness:
    """Tells what was said lately from recordings: by the sender's clock, or by a token of ours."""

    def __init__(self, secret: bytes, now: float) -> None:
        """`secret`: 32 random bytes of this process; `now`: its start, by the monotonic clock."""
        self._secret = secret
        self._started = now

    def token(self, sender: bytes, session: bytes, now: float) -> bytes:
        """20 bytes that make this sender's offer of this session fresh for `TOKEN_LIFE` seconds."""
        issued = int(now).to_bytes(4, "big")
        return issued + hmac.digest(self._secret, issued + sender + session, hashlib.sha256)[:16]

    def check(self, opened: Opened, now_unix: float, now: float) -> None:
        """Stale unless the offer's time is of this process's life and near ours, or its token is ours and young."""
        signal = opened.signal
        if signal.token:
            issued = int.from_bytes(signal.token[:4], "big")
            expected = self.token(opened.sender, signal.session, issued)
            if hmac.compare_digest(signal.token, expected) and 0 <= now - issued <= TOKEN_LIFE:
                return
        age = now_unix - signal.time
        if abs(age) > WINDOW:
            raise Stale(f"sent {age:.0f} s ago by its sender's clock, {WINDOW:.0f} s are allowed either way")
        if age > now - self._started:  # the wall clock may have been set since
            raise Stale(f"sent {age - (now - self._started):.0f} s before this node was started")


class EnvelopeGate:
    """Stands before one node's topic; remembers ids and senders, both bounded."""

    def __init__(self, now: float) -> None:
        self._all = TokenBucket(GLOBAL_RATE, GLOBAL_BURST, now)
        self._seen: OrderedDict[bytes, float] = OrderedDict()  # sender + id -> when admitted, oldest first
        self._senders: Recent[bytes, TokenBucket] = Recent(MAX_SENDERS)

    def admit_bytes(self, size: int, now: float, *, marked: bool = False) -> None:
        """Before opening: DecodeError when too large, AuthenticationError when the topic is flooded.

        What is `marked` as an acquaintance's, as far as these may have it, has its turn in any case, and others wait.
        """
        if size > MAX_ENVELOPE:
            raise DecodeError(f"an envelope has at most {MAX_ENVELOPE} bytes, this one {size}")
        if marked:
            self._all.overdraw(1)
        elif not self._all.take(now):
            raise AuthenticationError(f"over the rate: more than {GLOBAL_RATE:.0f} envelopes a second")

    def admit(self, opened: Opened, now: float) -> None:
        """After opening: AuthenticationError (replayed, over the rate), Duplicate for a second copy.

        Copies cost their sender nothing of its rate: whoever can read a broker can repeat them.
        """
        self._forget(now)
        name = opened.sender + opened.message_id
        admitted = self._seen.get(name)
        if admitted is not None:
            if now - admitted <= DUPLICATE_DELAY:
                raise Duplicate("the same envelope by another broker")
            raise AuthenticationError(f"replayed: the same envelope came {now - admitted:.0f} s ago")
        bucket = self._senders.get(opened.sender) or TokenBucket(SENDER_RATE, SENDER_BURST, now)
        self._senders[opened.sender] = bucket
        if not bucket.take(now):
            raise AuthenticationError(f"over the rate: more than {SENDER_RATE:.0f} signals a second")
        self._seen[name] = now

    def _forget(self, now: float) -> None:
        # A signal dated WINDOW ahead stays fresh for twice WINDOW.
        while self._seen:
            name, admitted = next(iter(self._seen.items()))
            if len(self._seen) < MAX_IDS and now - admitted <= 2 * WINDOW:
                return
            del self._seen[name]
