"""What a user may give as a destination."""

from __future__ import annotations

import pytest

from warpgate.core.destination import parse_destination
from warpgate.errors import AddressError, ServiceError
from warpgate.model.address import NodeAddress
from warpgate.model.identity import Identity

ADDRESS = NodeAddress(Identity.generate().public_key)


@pytest.mark.parametrize(
    "dest",
    [ADDRESS, ADDRESS.encode(), bytearray(ADDRESS.encode()), ADDRESS.to_text(), f"  {ADDRESS.to_text()}\n"],
)
def test_an_address_in_any_form(dest: NodeAddress | bytes | str) -> None:
    assert parse_destination(dest) == ADDRESS


@pytest.mark.parametrize("dest", [b"", b"\xff" * 40, "wg1", ADDRESS.to_text()[:-1], "not an address", "a/b"])
def test_what_is_none(dest: bytes | str) -> None:
    with pytest.raises(AddressError):
        parse_destination(dest)


def test_a_nickname_needs_a_name_service() -> None:
    with pytest.raises((ServiceError, AddressError)):
        parse_destination("alice")
