"""What is wanted of a peer, on the wire: one form for each value, and no other bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.errors import ConfigError, DecodeError
from warpgate.model.wanted import ANYTHING, LARGEST, Wanted, checked_service, is_service_name

NAMES = st.text(max_size=32).filter(lambda name: name == "" or is_service_name(name))
WANTED = st.builds(Wanted, st.sampled_from([b"", bytes(4), b"abcd"]), NAMES)


@given(WANTED)
def test_it_comes_back(wanted: Wanted) -> None:
    data = wanted.encode()
    assert Wanted.decode(data) == wanted
    assert len(data) <= LARGEST
    assert (data == b"") == (wanted == ANYTHING)


@given(st.binary(max_size=50))
def test_other_bytes_are_refused(data: bytes) -> None:
    try:
        wanted = Wanted.decode(data)
    except DecodeError:
        return
    assert wanted.encode() == data


@pytest.mark.parametrize(
    "name", ["a b", "a/b", "a:1", "a=b", "a,b", "x" * 33, "\u00e9" * 17, "tab\t", "\u202e", 5, None, b"ssh"]
)
def test_what_is_no_name_of_a_service(name: object) -> None:
    with pytest.raises(ConfigError, match="is no name of a service"):
        checked_service(name)
