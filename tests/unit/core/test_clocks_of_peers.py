"""What is remembered of peers' clocks: anybody may challenge who calls it."""

from __future__ import annotations

from warpgate.core.search.equipment import CLOCKS_REMEMBERED, Clocks


def test_the_longest_unheard_clocks_are_forgotten() -> None:
    clocks = Clocks()
    for number in range(2 * CLOCKS_REMEMBERED):
        clocks.learn(number.to_bytes(33, "big"), 60.0)
        clocks.learn(b"friend", 30.0)
    assert len(clocks._ahead) == CLOCKS_REMEMBERED
    assert (clocks.ahead(b"friend"), clocks.ahead(bytes(33))) == (30.0, 0.0)
