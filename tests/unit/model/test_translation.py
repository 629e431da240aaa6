"""Addresses behind a NAT64: RFC 6052's own table, and what RFC 7050 makes of a resolver's answers."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.errors import AddressError
from warpgate.model.scope import carries, is_translators
from warpgate.model.translation import (
    SERVICE_CONTINUITY,
    WELL_KNOWN_ADDRESSES,
    WELL_KNOWN_PREFIX,
    Nat64Prefix,
    prefixes_in,
    prefixes_shared,
)

LENGTHS = (32, 40, 48, 56, 64, 96)
WELL_KNOWN = Nat64Prefix(WELL_KNOWN_PREFIX)


def prefix_of(text: str) -> Nat64Prefix:
    return Nat64Prefix(IPv6Network(text))


@pytest.mark.parametrize(
    ("prefix", "embedded"),
    [
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
    ],
)
def test_the_examples_of_rfc_6052_section_2_4(prefix: str, embedded: str) -> None:
    ip = IPv4Address("192.0.2.33")
    assert prefix_of(prefix).embed(ip) == IPv6Address(embedded)
    assert prefix_of(prefix).extract(IPv6Address(embedded)) == ip


@given(st.sampled_from(LENGTHS), st.binary(min_size=16, max_size=16), st.ip_addresses(v=4))
def test_what_goes_in_comes_out(length: int, octets: bytes, ip: IPv4Address) -> None:
    network = IPv6Network((octets[:8] + b"\0" + octets[9:], length), strict=False)
    prefix = Nat64Prefix(network)
    assert prefix.embed(ip) in network
    assert prefix.extract(prefix.embed(ip)) == ip


def test_other_addresses_stand_for_themselves() -> None:
    assert WELL_KNOWN.extract(IPv6Address("2001:db8::1")) is None
    assert prefix_of("2001:db8::/32").extract(IPv6Address("2001:db8:c000:221:ff00::")) is None


@pytest.mark.parametrize("text", ["2001:db8::/33", "::/0", "2001:db8::/128", "2001:db8:0:0:1234::/96"])
def test_prefixes_that_rfc_6052_does_not_allow(text: str) -> None:
    with pytest.raises(AddressError, match="RFC 6052"):
        prefix_of(text)


def test_what_may_be_sent_through() -> None:
    own = prefix_of("2001:db8:1::/96")
    for text in ("127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.0.1", "0.0.0.0"):
        assert not carries(own, IPv4Address(text))
        assert not carries(WELL_KNOWN, IPv4Address(text))
    assert not carries(own, SERVICE_CONTINUITY[1])
    # A network of its own may translate to its own private hosts; the well-known prefix stands for global ones.
    assert carries(own, IPv4Address("10.0.0.1"))
    assert not carries(WELL_KNOWN, IPv4Address("10.0.0.1"))
    assert carries(WELL_KNOWN, IPv4Address("198.51.100.1"))


@pytest.mark.parametrize(
    ("prefix", "possible"),
    [
        ("64:ff9b::/96", True), ("64:ff9b:1:fffe::/96", True), ("64:ff9b:1::/48", True), ("2001:db8:1::/96", True),
        ("fd00:64::/96", True), ("::/96", False), ("::ffff:0:0/96", False), ("fe80::/96", False), ("ff02::/96", False),
        ("2002:c0a8:101::/48", False), ("2001::/32", False), ("100::/96", False), ("4000::/32", False),
    ],
)  # fmt: skip
def test_where_a_translator_can_be(prefix: str, possible: bool) -> None:
    """A resolver may tell any prefix: ours or our link's must not become the way to the internet."""
    assert is_translators(prefix_of(prefix)) is possible


@given(st.sampled_from(LENGTHS), st.integers(1, 2**60))
def test_a_resolver_tells_the_prefix(length: int, number: int) -> None:
    network = IPv6Network((int(IPv6Address("2001:db8::")) | number << 96 - 60, length), strict=False)
    packed = bytearray(network.network_address.packed)
    packed[8] = 0
    prefix = Nat64Prefix(IPv6Network((bytes(packed), length), strict=False))
    found = prefixes_in(prefix.embed(ip) for ip in WELL_KNOWN_ADDRESSES)
    assert found[0] == prefix


def test_no_translator_no_prefix() -> None:
    assert prefixes_in(()) == ()
    assert prefixes_in([IPv6Address("2001:db8::1"), IPv6Address("::1")]) == ()


def test_an_answer_that_could_mean_several_prefixes_needs_a_second_one() -> None:
    """RFC 7050 section 3: 192.0.0.170 stands at two places of the same address."""
    ambiguous = IPv6Address("2001:db8:c000:aa::192.0.0.170")
    assert prefixes_in([ambiguous]) == ()
    assert prefixes_in([ambiguous, IPv6Address("2001:db8:c000:aa::192.0.0.171")]) == (
        prefix_of("2001:db8:c000:aa::/96"),
    )


def test_of_several_prefixes_the_one_told_most_comes_first() -> None:
    both = [WELL_KNOWN.embed(ip) for ip in WELL_KNOWN_ADDRESSES]
    one = prefix_of("2001:db8:64::/96").embed(WELL_KNOWN_ADDRESSES[0])
    assert prefixes_in([one, *both]) == (WELL_KNOWN, prefix_of("2001:db8:64::/96"))


def test_names_of_any_servers_tell_the_prefix_when_two_agree() -> None:
    own = prefix_of("2001:db8:64::/96")
    one, other = IPv4Address("198.51.100.1"), IPv4Address("203.0.113.9")
    first, second = (one, own.embed(one)), (other, own.embed(other))
    assert prefixes_shared([first, second]) == (own,)
    assert prefixes_shared([first]) == ()  # a host that writes its IPv4 address into its own IPv6 one
    assert prefixes_shared([(one, other, own.embed(one), own.embed(other))]) == ()
    assert prefixes_shared([(one, own.embed(other)), (other, own.embed(one))]) == ()
    assert prefixes_shared([(one, WELL_KNOWN.embed(one))]) == (WELL_KNOWN,)
