"""Bytes that wait to be read, however they are cut."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from warpgate.core.connection.pieces import Pieces

Step = tuple[bytes, int]
STEPS = st.lists(
    st.tuples(st.binary(max_size=40) | st.integers(500, 1500).map(bytes), st.integers(0, 2000)), max_size=60
)


@given(STEPS)
def test_what_goes_in_comes_out_in_order(steps: list[Step]) -> None:
    pieces, expected = Pieces(), bytearray()
    for data, limit in steps:
        pieces.add(data)
        expected += data
        assert pieces.take(limit) == expected[:limit]
        del expected[:limit]
        assert len(pieces) == len(expected)
    pieces.clear()
    assert (len(pieces), pieces.take(1)) == (0, b"")


def test_single_bytes_cost_little_more_than_they_are() -> None:
    pieces = Pieces()
    for _ in range(50_000):
        pieces.add(b"x")
    assert sum(sys.getsizeof(piece) + 8 for piece in pieces._pieces) < 1.5 * len(pieces)
