"""Two pure connections and a path that loses what hypothesis says."""

from __future__ import annotations

import heapq

from hypothesis import given, settings
from hypothesis import strategies as st

from warpgate_testing.tcp import Connection, State

DELAY = 0.05
LIMIT = 20_000


def run(ends: tuple[Connection, Connection], lost: set[int], outboxes: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Let both send everything and close; what each received. `lost` numbers the segments that do not arrive."""
    now, count = 0.0, 0
    wire: list[tuple[float, int, int, object]] = []
    rest, received = [outboxes[0], outboxes[1]], [bytearray(), bytearray()]
    for _ in range(LIMIT):
        for side, end in enumerate(ends):
            if end.state is State.ESTABLISHED and not end.detached:
                rest[side] = rest[side][end.write(rest[side], now) :]
                if not rest[side] and not end.finishing:
                    end.finish(now)
            received[side] += end.read(7000)
            while (segment := end.poll_transmit()) is not None:
                count += 1
                if count not in lost:
                    heapq.heappush(wire, (now + DELAY, count, 1 - side, segment))
        timeouts = [due for end in ends if (due := end.poll_timeout()) is not None]
        if not wire and (not timeouts or all(end.finished for end in ends)) and not any(e.readable for e in ends):
            break
        if any(end.readable for end in ends):
            continue
        now = min([*timeouts, *(event[0] for event in wire[:1])])
        while wire and wire[0][0] <= now:
            _, _, side, segment = heapq.heappop(wire)
            ends[side].receive(segment, now)  # type: ignore[arg-type]
        for end in ends:
            end.handle_timeout(now)
    return bytes(received[0]), bytes(received[1])


@settings(max_examples=150, deadline=None)
@given(
    lost=st.sets(st.integers(1, 60), max_size=25),
    sizes=st.tuples(st.integers(0, 200_000), st.integers(0, 200_000)),
    crossed=st.booleans(),
)
def test_whatever_is_lost_once_both_ends_get_everything(lost: set[int], sizes: tuple[int, int], crossed: bool) -> None:
    outboxes = (b"a" * sizes[0], b"b" * sizes[1])
    ends = (Connection(0.0, active=True), Connection(0.0, active=crossed))
    received = run(ends, lost, outboxes)
    failures = [end.failure for end in ends]
    # The only excuse is an opening or a stretch of data that got no segment through in its whole patience.
    if failures == [None, None]:
        assert received == (outboxes[1], outboxes[0])
        assert all(end.finished for end in ends)
    else:
        assert len(lost) >= 5


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(2, 40), max_size=3), st.integers(0, 100_000))
def test_three_losses_never_break_a_connection(lost: set[int], size: int) -> None:
    ends = (Connection(0.0, active=True), Connection(0.0, active=False))
    assert run(ends, lost, (bytes(size), b"")) == (b"", bytes(size))
    assert all(end.finished and end.failure is None for end in ends)
