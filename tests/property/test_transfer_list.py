"""The compact list of a transfer holds what a list of objects would, and finds what a dictionary would."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warpgate.proto.transfer_list import EntryList
from warpgate.proto.transfer_wire import MAX_SIZE, Entry

names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=4)
times = st.integers(-(2**70), 2**70)


@st.composite
def trees(draw: st.DrawFn) -> list[Entry]:
    """Each entry in a directory that stands before it, no path twice."""
    entries: list[Entry] = []
    folders: list[tuple[str, ...]] = [()]
    for _ in range(draw(st.integers(0, 60))):
        path = (*draw(st.sampled_from(folders)), draw(names))
        if path in [entry.path for entry in entries]:
            continue
        directory = draw(st.booleans())
        size = 0 if directory else draw(st.integers(0, MAX_SIZE))
        entries.append(Entry(path, directory, size, draw(times), draw(st.booleans())))
        if directory:
            folders.append(path)
    return entries


# To draw a tree takes long for Hypothesis, which is no fault of what is tested.
ON_BUSY_MACHINES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def held(entries: list[Entry]) -> EntryList:
    rows = EntryList()
    for entry in entries:
        rows.add(entry)
    return rows


def as_kept(entry: Entry) -> Entry:
    modified = max(-(2**63), min(2**63 - 1, entry.modified))
    return Entry(entry.path, entry.directory, entry.size, modified, entry.executable)


@ON_BUSY_MACHINES
@given(trees())
def test_what_went_in_comes_out(entries: list[Entry]) -> None:
    rows = held(entries)
    assert list(rows) == [as_kept(entry) for entry in entries]
    assert rows.files == sum(not entry.directory for entry in entries)
    assert [rows.size(row) for row in range(len(rows))] == [entry.size for entry in entries]


@ON_BUSY_MACHINES
@given(trees(), st.lists(names, max_size=3))
def test_a_path_is_found_where_it_is_and_nowhere_else(entries: list[Entry], other: list[str]) -> None:
    rows = held(entries)
    kinds = {(): True} | {entry.path: entry.directory for entry in entries}
    for path in [*kinds, tuple(other), *((*entry.path, "x") for entry in entries)]:
        assert rows.kind_of(path) == kinds.get(path)


def test_the_only_file_has_no_name() -> None:
    assert list(held([Entry((), False, 5, 6, True)])) == [Entry((), False, 5, 6, True)]


def test_names_that_only_a_file_system_has_are_not_found() -> None:
    assert held([Entry(("a",), False, 1, 1, False)]).kind_of(("\udcff",)) is None
