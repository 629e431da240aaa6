"""Addresses: what was encoded comes back, and everything else is an AddressError."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from strategies import addresses, fixed, mutated, only

from warpgate.errors import AddressError
from warpgate.model.address import BrokerRef, NodeAddress

encoded = addresses.map(NodeAddress.encode)


@fixed
@given(addresses)
def test_bytes_and_text_come_back(address: NodeAddress) -> None:
    assert NodeAddress.decode(address.encode()) == address
    assert NodeAddress.from_text(address.to_text()) == address
    assert NodeAddress.from_text(address.to_host_name().upper()) == address


@fixed
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"\x01" + data) | mutated(encoded))
def test_garbage_is_an_address_error_and_what_passes_is_canonical(data: bytes) -> None:
    address = only(NodeAddress.decode, data, AddressError)
    assert address is None or address.encode() == data


@fixed
@given(
    st.text()
    | st.text().map(lambda text: "wg1" + text)
    | st.text().map(lambda text: "WG1." + text)
    | mutated(encoded).map(lambda data: data.hex())
)
def test_any_text_is_an_address_error(text: str) -> None:
    try:
        NodeAddress.from_text(text)
    except AddressError:
        return
    raise AssertionError(f"{text!r} passed for an address")


@fixed
@given(
    addresses.map(NodeAddress.to_text) | addresses.map(NodeAddress.to_host_name),
    st.integers(3),
    st.integers(0, 3),
    st.text(max_size=3),
)
def test_mangled_text_is_an_address_error_or_still_the_same(
    text: str, position: int, length: int, replacement: str
) -> None:
    position = 3 + position % (len(text) - 2)
    mangled = text[:position] + replacement + text[position + length :]
    try:
        again = NodeAddress.from_text(mangled)
    except AddressError:
        return
    assert again == NodeAddress.from_text(text)


@fixed
@given(st.sampled_from(("", "mqtt://", "wss://a/")), st.text(max_size=40))
def test_any_url_is_a_broker_or_an_address_error(prefix: str, text: str) -> None:
    try:
        broker = BrokerRef.of(prefix + text)
    except AddressError:
        return
    assert BrokerRef(broker.url) == BrokerRef.of(broker.url)
