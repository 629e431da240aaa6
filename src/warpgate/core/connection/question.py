"""Whether the peer answers: a QUIC PING and its repetitions, of which one has to be acknowledged."""

from __future__ import annotations

REMEMBERED = 64  # repetitions; the last ones are answered first


class Question:
    """One at a time; `asked_at` is when the latest one was asked first, on the loop's clock.

    Numbers are those that the engine gives to its PINGs, each higher than the one before.
    """

    def __init__(self) -> None:
        self.asked_at = 0.0
        self._first: int | None = None  # None: nothing is asked
        self._sent: dict[int, float] = {}  # when it and its repetitions were

    @property
    def open(self) -> bool:
        return self._first is not None

    @property
    def times(self) -> int:
        """How often it was asked."""
        return len(self._sent)

    def ask(self, number: int, now: float) -> None:
        """For the first time, or once more."""
        if self._first is None:
            self._first, self.asked_at = number, now
            self._sent.clear()
        self._sent[number] = now
        if len(self._sent) > REMEMBERED:
            del self._sent[next(iter(self._sent))]

    def is_answered(self, acknowledged: int) -> bool:
        """By the acknowledgement of this number."""
        return self._first is not None and acknowledged >= self._first

    def sent_at(self, number: int) -> float | None:
        return self._sent.get(number)

    def drop(self) -> None:
        """It was answered, or nobody waits for that any more."""
        self._first = None
