"""What an address is: the table of special networks, addresses inside addresses, and what a server may name."""

from __future__ import annotations

from ipaddress import IPv6Network, ip_address

import pytest

from warpgate.model.endpoint import Endpoint
from warpgate.model.scope import Scope, carried_by, is_private, misnamed, scope_of, site_of
from warpgate.model.translation import Nat64Prefix


@pytest.mark.parametrize(
    ("ip", "scope"),
    [
        ("0.0.0.0", Scope.NOBODY), ("0.255.255.255", Scope.NOBODY), ("1.0.0.0", Scope.GLOBAL),
        ("10.0.0.1", Scope.SITE), ("11.0.0.0", Scope.GLOBAL), ("100.63.255.255", Scope.GLOBAL),
        ("100.64.0.1", Scope.SITE), ("100.127.255.255", Scope.SITE), ("100.128.0.0", Scope.GLOBAL),
        ("127.0.0.1", Scope.LOOPBACK), ("127.255.255.255", Scope.LOOPBACK), ("169.254.169.254", Scope.LINK),
        ("172.15.255.255", Scope.GLOBAL), ("172.31.255.255", Scope.SITE), ("172.32.0.0", Scope.GLOBAL),
        ("192.0.0.1", Scope.TRANSLATOR), ("192.0.0.171", Scope.TRANSLATOR), ("192.0.1.0", Scope.GLOBAL),
        ("192.168.0.1", Scope.SITE), ("198.19.255.255", Scope.SITE), ("198.20.0.0", Scope.GLOBAL),
        ("223.255.255.255", Scope.GLOBAL), ("224.0.0.1", Scope.NOBODY), ("239.255.255.250", Scope.NOBODY),
        ("240.0.0.1", Scope.NOBODY), ("255.255.255.255", Scope.NOBODY),
        # laboratories are made of these
        ("192.0.2.1", Scope.GLOBAL), ("198.51.100.1", Scope.GLOBAL), ("203.0.113.1", Scope.GLOBAL),
        ("2001:db8::1", Scope.GLOBAL),
        ("::", Scope.NOBODY), ("::1", Scope.LOOPBACK), ("fe80::1", Scope.LINK), ("febf::1", Scope.LINK),
        ("fec0::1", Scope.SITE), ("fd12::1", Scope.SITE), ("fc00::1", Scope.SITE), ("ff02::fb", Scope.NOBODY),
        ("2a00::1", Scope.GLOBAL), ("4000::1", Scope.NOBODY), ("100::1", Scope.NOBODY),
        ("64:ff9b:1::1", Scope.TRANSLATOR),
        # by what is inside
        ("64:ff9b::8.8.8.8", Scope.GLOBAL), ("64:ff9b::192.168.1.1", Scope.SITE),
        ("64:ff9b::127.0.0.1", Scope.LOOPBACK), ("64:ff9b::0.0.0.0", Scope.NOBODY),
        ("2002:808:808::1", Scope.GLOBAL), ("2002:c0a8:101::1", Scope.SITE), ("2002:7f00:1::", Scope.LOOPBACK),
        ("::127.0.0.1", Scope.LOOPBACK), ("::10.0.0.1", Scope.SITE), ("::8.8.8.8", Scope.NOBODY),
        ("::ffff:10.0.0.1", Scope.SITE), ("::ffff:8.8.8.8", Scope.NOBODY), ("::ffff:0:127.0.0.1", Scope.LOOPBACK),
        ("2001:0:808:808:0:1234:f7f7:f7f7", Scope.GLOBAL), ("2001:0:808:808:0:1234:3f57:fefe", Scope.SITE),
        ("2001:0:a00:1:0:1234:f7f7:f7f7", Scope.SITE), ("2001:1::1", Scope.GLOBAL),
    ],
)  # fmt: skip
def test_scopes(ip: str, scope: Scope) -> None:
    assert scope_of(ip_address(ip)) is scope
    assert is_private(ip_address(ip)) is (scope in (Scope.SITE, Scope.TRANSLATOR))


def test_a_network_s_own_prefix_counts_as_the_well_known_one_does() -> None:
    prefix = Nat64Prefix(IPv6Network("2001:db8:64::/48"))
    inside = prefix.embed(ip_address("192.168.7.7"))  # type: ignore[arg-type]
    assert scope_of(inside) is Scope.GLOBAL
    assert scope_of(inside, prefix) is Scope.SITE
    assert carried_by(inside, prefix) == (ip_address("192.168.7.7"),)


def test_private_networks_are_told_apart() -> None:
    assert site_of(ip_address("10.1.1.1")) == site_of(ip_address("10.9.9.9"))
    assert site_of(ip_address("10.1.1.1")) != site_of(ip_address("192.168.1.1"))
    assert site_of(ip_address("203.0.113.1")) is None
    assert site_of(ip_address("fd00::1")) is not None
    assert site_of(ip_address("127.0.0.1")) is None


@pytest.mark.parametrize(
    ("named", "by", "why"),
    [
        ("203.0.113.9:5000", "192.0.2.1", None), ("203.0.113.9:5000", "10.0.0.1", None),
        ("203.0.113.9:0", "192.0.2.1", "port 0"),
        ("0.0.0.0:5000", "192.0.2.1", "no unicast"), ("224.0.0.1:5000", "192.0.2.1", "no unicast"),
        ("240.0.0.1:5000", "10.0.0.1", "no unicast"), ("127.0.0.1:5000", "192.0.2.1", "loopback"),
        ("127.0.0.1:5000", "10.0.0.1", "loopback"), ("127.0.0.1:5000", "127.0.0.1", None),
        ("10.9.9.9:5000", "127.0.0.1", None), ("10.9.9.9:5000", "192.0.2.1", "private"),
        ("10.9.9.9:5000", "192.168.1.1", None), ("169.254.1.1:5000", "169.254.1.2", "link-local"),
        ("192.0.0.2:5000", "192.0.2.1", "translator"), ("[fd00::1]:5000", "2001:db8::1", "private"),
        ("[fd00::1]:5000", "fd00::53", None), ("[2002:a00:1::]:5000", "10.0.0.1", "private"),
        ("[::127.0.0.1]:5000", "::1", "loopback"), ("[64:ff9b::10.0.0.1]:1", "2001:db8::1", "private"),
    ],
)  # fmt: skip
def test_what_a_server_may_name(named: str, by: str, why: str | None) -> None:
    reason = misnamed(Endpoint.parse(named), ip_address(by))
    assert reason is None if why is None else why in str(reason)
