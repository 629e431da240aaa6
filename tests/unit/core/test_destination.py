"""What a user may give as a destination."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from warpgate.core.names.destination import parse_destination
from warpgate.errors import AddressError, NicknameError
from warpgate.model.address import NodeAddress
from warpgate.model.identity import Identity

ADDRESS = NodeAddress(Identity(ec.derive_private_key(1234, ec.SECP256R1())).public_key)


@pytest.mark.parametrize(
    "dest",
    [
        ADDRESS,
        ADDRESS.encode(),
        bytearray(ADDRESS.encode()),
        ADDRESS.to_text(),
        f"  {ADDRESS.to_text()}\n",
        ADDRESS.to_host_name(),
    ],
)
def test_an_address_in_any_form(dest: NodeAddress | bytes | str) -> None:
    assert parse_destination(dest) == ADDRESS


@pytest.mark.parametrize("dest", [b"", b"\xff" * 40, "wg1", "WG1abc", "wg2abc", ADDRESS.to_text()[:-1]])
def test_what_is_no_address_and_cannot_be_a_nickname(dest: bytes | str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_destination(dest)
    assert not isinstance(caught.value, NicknameError)


@pytest.mark.parametrize(("dest", "name"), [("alice", "alice"), (" Alice\n", "alice"), ("ALICE-2", "alice-2")])
def test_a_nickname_is_folded(dest: str, name: str) -> None:
    assert parse_destination(dest) == name


@pytest.mark.parametrize("dest", ["", "a b", "a/b", "192.0.2.1", "admin", "x" * 300])
def test_what_is_neither(dest: str) -> None:
    with pytest.raises(NicknameError, match="is no address text"):
        parse_destination(dest)
