"""The running processes of one key: which of them an address means, and whether another one is there at all.

Several processes may have one key: two on one machine, a machine and its clone, a restarted one and what peers know of
the one before. Each that accepts peers has a random *instance*, which its address names. All of them hear the same
topic, so each has to know what it is to leave to another.

Rules:

* What names our own instance, or none, is ours. So is what names one that this very place has had before: a restarted
  process takes the peers of its predecessor.
* What names any other is another's if that one is there. Whether it is shows a question to our own topic, which every
  running process answers with the question's nonce, and only the holder of the key can. Who has not answered within
  PATIENCE does not run; then it is ours as well (the key has moved to another machine, say). Until that is known,
  offers wait.
* A recording proves nothing: neither a question (it only gets an answer) nor an answer (its nonce is old).
* A process that runs *beside* the one that peers are to reach is there for those alone who name it.
"""

from __future__ import annotations

import enum
from collections.abc import Collection

# Two ways over the slowest broker that is of any use.
PATIENCE = 1.0
# For so long nobody needs to be asked again. Also how long a nonce is good.
ANSWER_LIFE = 60.0
# Whoever holds the key could invent any number.
MAX_OTHERS = 64


class Whose(enum.Enum):
    OURS = "ours"
    ANOTHERS = "another's"
    UNKNOWN = "not known before those of this key have been asked"


class Instances:
    """`now` is a monotonic clock, seconds."""

    def __init__(self, own: bytes, earlier: Collection[bytes] = (), *, beside: bool = False) -> None:
        """`own` b"": this process accepts nobody. `earlier`: those that ran in this place before."""
        self.own = own
        self.beside = beside
        self._earlier = frozenset(earlier)
        self._heard: dict[bytes, float] = {}  # when it was shown last that this one runs
        self._told: dict[bytes, str] = {}  # of those that are twins: where they are
        self._asked: float | None = None
        self._nonce = b""

    def whose(self, instance: bytes, now: float) -> Whose:
        """Whose an offer for this instance is."""
        if instance == self.own or (not self.beside and (not instance or instance in self._earlier)):
            return Whose.OURS
        if self.beside:
            return Whose.ANOTHERS
        heard = self._heard.get(instance)
        if heard is not None and now - heard < ANSWER_LIFE:
            return Whose.ANOTHERS
        if self._asked is None or now - self._asked >= ANSWER_LIFE or now - self._asked < PATIENCE:
            return Whose.UNKNOWN
        self._forget(instance)
        return Whose.OURS

    def surely_anothers(self, instance: bytes) -> bool:
        """Whether what came straight to us is meant for one that is known to run: there is no time to ask."""
        if self.beside:
            return instance != self.own
        return instance in self._heard and instance not in self._earlier

    def until_question(self, now: float) -> float:
        """Seconds until the others may be asked again."""
        return 0.0 if self._asked is None else max(0.0, self._asked + PATIENCE - now)

    def ask(self, nonce: bytes, now: float) -> bool:
        """Whether the others should be asked, with this nonce: not when they just were, nor by who accepts nobody."""
        if not self.own or self.until_question(now):
            return False
        self._asked, self._nonce = now, nonce
        return True

    def asked_by(self, instance: bytes) -> bool:
        """Whether to answer this one's question: not if it is our own, which we hear as well."""
        return bool(self.own and instance) and instance != self.own

    def knows(self, instance: bytes) -> bool:
        return instance in self._heard

    def answered(self, instance: bytes, nonce: bytes, where: str, now: float, *, beside: bool) -> bool:
        """Whether an answer to our question shows a twin that was not known yet."""
        if not instance or instance == self.own or self._asked is None or nonce != self._nonce:
            return False
        if now - self._asked >= ANSWER_LIFE:
            return False
        new = instance not in self._heard
        if new and len(self._heard) >= MAX_OTHERS:
            self._forget(next(iter(self._heard)))
        self._heard[instance] = now
        if beside or self.beside:
            return False
        self._told[instance] = where
        return new

    def settle(self, now: float) -> None:
        """Forget those that have not answered the last question, when they have had the time for it."""
        if self._asked is not None and now - self._asked >= PATIENCE:
            for instance in [each for each, heard in self._heard.items() if heard < self._asked]:
                self._forget(instance)

    @property
    def warning(self) -> str:
        """What peers should know of it; "" when there is no twin."""
        if not self._told:
            return ""
        return f"another node runs with the same key, {next(iter(self._told.values()))}: names may lead to either"

    def _forget(self, instance: bytes) -> None:
        self._heard.pop(instance, None)
        self._told.pop(instance, None)
