"""The book of found pairs, in memory and on disk; and files that nobody of ours wrote."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.core.disk.pair_store import LARGEST_FILE, pair_store
from warpgate.core.found_pairs import GOOD_FOR, MOST_PAIRS, MOST_PEERS, FoundPairs
from warpgate.model.endpoint import Endpoint

OWN, OTHER, PEER = (bytes([2]) + bytes([number]) * 32 for number in range(3))
BASE, REMOTE = Endpoint.parse("192.168.1.2:4000"), Endpoint.parse("198.51.100.2:5000")
V6 = Endpoint.parse("[2001:db8::2]:6000")


class Machine:
    """One user's data directory, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.now = 1_800_000_000.0
        self.path = folder / "pairs.json"

    def process(self, own: bytes = OWN) -> FoundPairs:
        return FoundPairs(own, pair_store(self.path), lambda: self.now)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_next_process_of_the_same_identity_knows(machine: Machine) -> None:
    first = machine.process()
    first.found(PEER, BASE, REMOTE)()
    machine.now += 1
    first.found(PEER, V6, V6)()
    assert first.of(PEER) == machine.process().of(PEER) == ((V6, V6), (BASE, REMOTE))
    assert machine.process(OTHER).of(PEER) == ()
    assert machine.process().of(OTHER) == ()
    assert stat.S_IMODE(machine.path.stat().st_mode) == 0o600


def test_processes_that_run_at_once_lose_nothing_of_each_other(machine: Machine) -> None:
    one, other = machine.process(), machine.process(OTHER)
    write = one.found(PEER, BASE, REMOTE)
    other.found(PEER, V6, V6)()
    write()
    assert machine.process().of(PEER) == ((BASE, REMOTE),)
    assert machine.process(OTHER).of(PEER) == ((V6, V6),)


@pytest.mark.parametrize("seconds", [GOOD_FOR + 1, -GOOD_FOR - 1])
def test_what_is_old_or_of_the_future_is_no_help(machine: Machine, seconds: float) -> None:
    machine.process().found(PEER, BASE, REMOTE)()
    machine.now += seconds
    assert machine.process().of(PEER) == ()


def test_the_book_is_bounded_and_the_oldest_goes_first(machine: Machine) -> None:
    book = machine.process()
    for number in range(MOST_PEERS + 1):
        machine.now += 1
        for port in range(1, MOST_PAIRS + 2):
            machine.now += 1
            write = book.found(number.to_bytes(33, "big"), BASE, Endpoint(REMOTE.ip, port))
    write()
    assert len(book._pairs) == MOST_PEERS * MOST_PAIRS
    assert book.of((0).to_bytes(33, "big")) == ()
    newest = book.of(MOST_PEERS.to_bytes(33, "big"))
    assert [remote.port for _, remote in newest] == list(range(MOST_PAIRS + 1, 1, -1))
    assert len(machine.process().of(MOST_PEERS.to_bytes(33, "big"))) == 1  # written once


@given(st.binary(max_size=300))
def test_garbage_counts_as_empty(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage-pairs.json"
    path.write_bytes(data)
    assert pair_store(path).load() == []


@pytest.mark.parametrize(
    "change",
    [
        {"own": "00"},
        {"peer": "zz"},
        {"base": "nowhere"},
        {"remote": "127.0.0.1:9"},
        {"remote": "224.0.0.1:9"},
        {"seen": -1},
        {"more": 1},
    ],
)
def test_rows_that_this_program_would_not_write_count_as_none(machine: Machine, change: dict[str, Any]) -> None:
    machine.process().found(PEER, BASE, REMOTE)()
    [row] = json.loads(machine.path.read_text())
    machine.path.write_text(json.dumps([row | change]))
    assert pair_store(machine.path).load() == []


def test_a_file_that_is_too_large_is_some_other_file(machine: Machine) -> None:
    machine.path.write_text("[" + " " * LARGEST_FILE + "]")
    assert pair_store(machine.path).load() == []
