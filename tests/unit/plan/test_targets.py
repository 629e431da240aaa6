"""The policy over a peer's endpoints, as a table: what may be tried, in which order, and why the rest is not."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Network, ip_address, ip_network

import pytest

from warpgate.model.address import Attachment, LearntBy, Listening, NodeAddress
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.model.nat import Filtering, Mapping, NatProfile
from warpgate.model.translation import Nat64Prefix
from warpgate.plan.targets import (
    MAX_PAIRS,
    MAX_PAIRS_UNINVITED,
    Surroundings,
    broker_refusal,
    names_a_stranger,
    pairs,
    refusal,
    refusals,
)

OURS, THEIRS = b"\2" * 33, b"\3" * 33
EIM = NatProfile(mapping=Mapping.EIM, filtering=Filtering.APDF)
EIF = NatProfile(mapping=Mapping.EIM, filtering=Filtering.EIF)
NONE = NatProfile(mapping=Mapping.NONE)
UDP, TCP = Transport.UDP, Transport.TCP


def at(
    host: str,
    reflexive: str | None = None,
    *,
    port: int = 5000,
    mapped: int | None = None,
    nat: NatProfile | None = None,
    learnt: LearntBy = LearntBy.STUN,
) -> Attachment:
    """An interface; its mapped port is the same unless told otherwise, and unknown without a reflexive address."""
    outside = None if reflexive is None else ip_address(reflexive)
    listening = Listening(port, (port if mapped is None else mapped) if outside else None, learnt)
    return Attachment(ip_address(host), outside, listening, listening, NatProfile() if nat is None else nat)


def node(*attachments: Attachment, key: bytes = THEIRS) -> NodeAddress:
    return NodeAddress(key, (), attachments)


def own(*attachments: Attachment) -> NodeAddress:
    return node(*attachments, key=OURS)


HOME = own(at("192.168.1.2", "198.51.100.1", nat=EIM))
OFFLINE = own(at("192.168.1.2"))
PUBLIC = own(at("198.51.100.1", "198.51.100.1", nat=NONE))
NOWHERE = own(at("127.0.0.1"))
COMPANY = own(at("192.168.1.2", "10.0.0.1", nat=EIM))  # its NAT is itself inside a private internet
STRANGER = node(at("192.168.7.7", "203.0.113.9"))
NEIGHBOUR = node(at("192.168.1.9", "198.51.100.1"))
UNKNOWN = node(at("192.168.1.9"))
PRIVATE = "is private, and the peer shares neither our public address nor a network of ours"
MACHINE = "this machine's own address"
INSIDE = "inside an IPv6 address"
LOW = "ports below 1024 are tried only where the peer itself listens"
ALLOWED = None

# Who we are, what the peer says of itself, the endpoint, and what is said of it when our user has asked for the
# peer (invited) and when he has not.
POLICY = [
    # public endpoints
    (HOME, STRANGER, "203.0.113.9:5000", ALLOWED, ALLOWED),
    (HOME, STRANGER, "[2001:db8::9]:5000", ALLOWED, ALLOWED),
    (PUBLIC, STRANGER, "203.0.113.9:5000", ALLOWED, ALLOWED),
    # ports
    (HOME, STRANGER, "203.0.113.9:1024", ALLOWED, ALLOWED),
    (HOME, STRANGER, "203.0.113.9:1023", LOW, LOW),
    (HOME, STRANGER, "203.0.113.9:22", LOW, LOW),
    (HOME, STRANGER, "203.0.113.9:0", LOW, LOW),
    (HOME, node(at("203.0.113.9", "203.0.113.9", port=443)), "203.0.113.9:443", ALLOWED, ALLOWED),
    (HOME, node(at("192.168.7.7", "203.0.113.9", mapped=443)), "203.0.113.9:443", ALLOWED, ALLOWED),
    (HOME, node(at("192.168.7.7", "203.0.113.9", mapped=443)), "203.0.113.9:80", LOW, LOW),
    # what is nobody's
    (HOME, STRANGER, "0.0.0.0:5000", "no unicast", "no unicast"),
    (HOME, STRANGER, "[::]:5000", "no unicast", "no unicast"),
    (HOME, STRANGER, "224.0.0.251:5353", "no unicast", "no unicast"),
    (HOME, STRANGER, "[ff02::fb]:5353", "no unicast", "no unicast"),
    (HOME, STRANGER, "255.255.255.255:5000", "no unicast", "no unicast"),
    (HOME, NEIGHBOUR, "192.168.1.255:5000", "a broadcast address", "a broadcast address"),
    (HOME, STRANGER, "169.254.169.254:8000", "link-local", "link-local"),
    (HOME, STRANGER, "[fe80::1]:5000", "link-local", "link-local"),
    # the machine itself
    (HOME, STRANGER, "127.0.0.1:5000", "a loopback address", "a loopback address"),
    (HOME, STRANGER, "127.9.9.9:5000", "a loopback address", "a loopback address"),
    (HOME, STRANGER, "[::1]:5000", "a loopback address", "a loopback address"),
    (PUBLIC, STRANGER, "127.0.0.1:5000", "a loopback address", "a loopback address"),
    (NOWHERE, node(at("127.0.0.1")), "127.0.0.1:5000", ALLOWED, ALLOWED),
    (NOWHERE, node(at("127.0.0.1")), "127.0.0.1:6000", "a loopback address", "a loopback address"),
    (NOWHERE, node(at("127.0.0.1")), "127.0.0.1:80", LOW, LOW),
    (HOME, node(at("192.168.1.2", "198.51.100.1")), "192.168.1.2:5000", ALLOWED, MACHINE),
    (HOME, node(at("192.168.1.2", "198.51.100.1")), "192.168.1.2:6000", MACHINE, MACHINE),
    (HOME, node(at("192.168.1.2", "203.0.113.9")), "192.168.1.2:5000", ALLOWED, MACHINE),
    (HOME, STRANGER, "192.168.1.2:5000", MACHINE, MACHINE),
    (PUBLIC, node(at("198.51.100.1", "198.51.100.1")), "198.51.100.1:5000", ALLOWED, MACHINE),
    (PUBLIC, node(at("198.51.100.1", "198.51.100.1")), "198.51.100.1:6000", MACHINE, MACHINE),
    (PUBLIC, STRANGER, "198.51.100.1:6000", MACHINE, MACHINE),
    # IPv4 inside IPv6
    (HOME, STRANGER, "[64:ff9b::c000:221]:5000", ALLOWED, ALLOWED),
    (HOME, STRANGER, "[64:ff9b::c0a8:102]:5000", INSIDE, INSIDE),
    (HOME, STRANGER, "[64:ff9b::7f00:1]:5000", INSIDE, INSIDE),
    (HOME, STRANGER, "[64:ff9b:1::c0a8:102]:5000", "a translator", "a translator"),
    (PUBLIC, STRANGER, "[64:ff9b::c633:6401]:6000", MACHINE, MACHINE),
    (HOME, STRANGER, "[2002:cb00:7109::1]:5000", ALLOWED, ALLOWED),
    (HOME, STRANGER, "[2002:c0a8:101::1]:5000", INSIDE, INSIDE),
    (HOME, STRANGER, "[2001:0:cb00:7109:0:1234:34ff:8ef6]:5000", ALLOWED, ALLOWED),
    (HOME, STRANGER, "[2001:0:cb00:7109:0:1234:3f57:fefd]:5000", INSIDE, INSIDE),
    (HOME, STRANGER, "[::127.0.0.1]:5000", INSIDE, INSIDE),
    (NOWHERE, node(at("::127.0.0.1")), "[::127.0.0.1]:5000", INSIDE, INSIDE),
    (HOME, STRANGER, "[::203.0.113.9]:5000", "no unicast", "no unicast"),
    (HOME, STRANGER, "[::ffff:0:10.0.0.1]:5000", INSIDE, INSIDE),
    # what the registries keep
    (HOME, STRANGER, "0.1.2.3:5000", "no unicast", "no unicast"),
    (HOME, STRANGER, "240.0.0.1:5000", "no unicast", "no unicast"),
    (HOME, STRANGER, "192.0.0.170:5000", "a translator", "a translator"),
    (HOME, STRANGER, "198.18.0.1:5000", PRIVATE, PRIVATE),
    (HOME, STRANGER, "[fec0::1]:5000", PRIVATE, PRIVATE),
    (HOME, STRANGER, "[100::1]:5000", "no unicast", "no unicast"),
    (HOME, STRANGER, "[4000::1]:5000", "no unicast", "no unicast"),
    # somebody else's private network
    (HOME, STRANGER, "192.168.7.7:5000", PRIVATE, PRIVATE),
    (HOME, STRANGER, "10.1.2.3:5000", PRIVATE, PRIVATE),
    (HOME, STRANGER, "172.16.0.1:5000", PRIVATE, PRIVATE),
    (HOME, STRANGER, "100.64.0.1:5000", PRIVATE, PRIVATE),
    (HOME, STRANGER, "[fd00::1]:5000", PRIVATE, PRIVATE),
    (PUBLIC, STRANGER, "192.168.7.7:5000", PRIVATE, PRIVATE),
    # our own network, by somebody who is elsewhere
    (HOME, STRANGER, "192.168.1.9:5000", PRIVATE, PRIVATE),
    # our own network, by somebody who may be in it
    (HOME, NEIGHBOUR, "192.168.1.9:5000", ALLOWED, ALLOWED),
    (HOME, UNKNOWN, "192.168.1.9:5000", ALLOWED, PRIVATE),
    (OFFLINE, UNKNOWN, "192.168.1.9:5000", ALLOWED, ALLOWED),
    (OFFLINE, NEIGHBOUR, "192.168.1.9:5000", ALLOWED, PRIVATE),
    (OFFLINE, UNKNOWN, "192.168.2.9:5000", PRIVATE, PRIVATE),
    # behind our NAT, but not on our link (another segment of the same site): only our user can say so
    (HOME, node(at("10.9.9.9", "198.51.100.1")), "10.9.9.9:5000", ALLOWED, PRIVATE),
    # a private internet
    (COMPANY, node(at("192.168.7.7", "10.0.0.2")), "10.0.0.2:5000", ALLOWED, ALLOWED),
    (COMPANY, node(at("192.168.7.7", "10.0.0.2")), "192.168.7.7:5000", PRIVATE, PRIVATE),
    (COMPANY, node(at("192.168.7.7", "172.16.0.2")), "172.16.0.2:5000", PRIVATE, PRIVATE),
    (COMPANY, node(at("10.0.0.9", "192.168.1.9")), "192.168.1.9:5000", PRIVATE, PRIVATE),
]


@pytest.mark.parametrize(("we", "peer", "endpoint", "invited", "uninvited"), POLICY)
def test_policy(we: NodeAddress, peer: NodeAddress, endpoint: str, invited: str | None, uninvited: str | None) -> None:
    target = Endpoint.parse(endpoint)
    for asked, expected in ((True, invited), (False, uninvited)):
        reason = refusal(target, we, peer, None, asked)
        if expected is None:
            assert reason is None, (asked, reason)
        else:
            assert reason is not None, asked
            assert expected in reason
            assert str(target) in reason


def test_the_interfaces_own_prefixes_count_where_they_are_known() -> None:
    wide = Surroundings((ip_network("192.168.0.0/16"),))
    target = Endpoint.parse("192.168.200.1:5000")
    assert refusal(target, OFFLINE, UNKNOWN, None) is not None
    assert refusal(target, OFFLINE, UNKNOWN, wide) is None
    assert refusal(Endpoint.parse("192.168.255.255:5000"), OFFLINE, UNKNOWN, wide) is not None
    assert refusal(Endpoint.parse("192.168.1.255:5000"), OFFLINE, UNKNOWN, wide) is None
    point_to_point = Surroundings((ip_network("192.168.1.2/31"), ip_network("192.168.1.9/32")))
    assert refusal(Endpoint.parse("192.168.1.3:5000"), OFFLINE, UNKNOWN, point_to_point) is None
    assert refusal(Endpoint.parse("192.168.1.9:5000"), OFFLINE, UNKNOWN, point_to_point) is None


def test_every_address_of_the_machine_counts_and_every_way_to_write_it() -> None:
    """Also of interfaces that the node does not use, and through the network's own NAT64."""
    bridge, prefix = ip_address("172.17.0.1"), Nat64Prefix(IPv6Network("2001:db8:64::/96"))
    around = Surroundings((ip_network("172.17.0.0/16"),), frozenset({bridge}), prefix)
    peer = node(at("172.17.0.1", "198.51.100.1", port=6000))
    assert refusal(Endpoint(bridge, 6000), HOME, peer, around, invited=False) is not None
    assert refusal(Endpoint(bridge, 6000), HOME, peer, Surroundings(around.links), invited=False) is None
    for text in ("10.0.0.1", "127.0.0.1", "172.17.0.1", "0.0.0.0"):
        inside = prefix.embed(IPv4Address(text))
        assert "inside an IPv6 address" in str(refusal(Endpoint(inside, 5000), HOME, STRANGER, around))
        assert refusal(Endpoint(inside, 5000), HOME, STRANGER) is None
    assert refusal(Endpoint(prefix.embed(IPv4Address("203.0.113.9")), 5000), HOME, STRANGER, around) is None


# -- pairs ------------------------------------------------------------------------------------------------------------


def shown(we: NodeAddress, peer: NodeAddress, transport: Transport = UDP, *, invited: bool = True) -> list[str]:
    """`base -> remote` and the two properties, as one line each."""
    return [
        f"{pair.base} -> {pair.remote}{' nearby' if pair.nearby else ''}{' open' if pair.open else ''}"
        for pair in pairs(we, peer, transport, None, invited)
    ]


def test_two_homes() -> None:
    peer = node(at("192.168.7.7", "203.0.113.9", mapped=6000, nat=EIM))
    assert shown(HOME, peer) == ["192.168.1.2:5000 -> 203.0.113.9:6000"]


@pytest.mark.parametrize(
    ("nat", "learnt", "open_"),
    [
        (EIM, LearntBy.STUN, ""),
        (EIF, LearntBy.STUN, " open"),
        (EIM, LearntBy.PORT_MAP, " open"),
        (NatProfile(), LearntBy.STUN, ""),
        (NatProfile(mapping=Mapping.APDM, filtering=Filtering.EIF), LearntBy.STUN, " open"),
    ],
)
def test_what_accepts_strangers(nat: NatProfile, learnt: LearntBy, open_: str) -> None:
    peer = node(at("192.168.7.7", "203.0.113.9", nat=nat, learnt=learnt))
    assert shown(HOME, peer) == [f"192.168.1.2:5000 -> 203.0.113.9:5000{open_}"]


@pytest.mark.parametrize("nat", [NONE, NatProfile()])
def test_a_public_host_is_open_until_it_is_known_to_be_filtered(nat: NatProfile) -> None:
    assert shown(HOME, node(at("203.0.113.9", "203.0.113.9", nat=nat))) == ["192.168.1.2:5000 -> 203.0.113.9:5000 open"]


def test_neighbours_first_then_ipv6_then_the_rest() -> None:
    we = own(at("192.168.1.2", "198.51.100.1", nat=EIM), at("2001:db8:1::2", "2001:db8:1::2"))
    peer = node(at("192.168.1.9", "198.51.100.1", mapped=6000, nat=EIM), at("2001:db8:2::9", "2001:db8:2::9"))
    assert shown(we, peer) == [
        "192.168.1.2:5000 -> 192.168.1.9:5000 nearby open",
        "[2001:db8:1::2]:5000 -> [2001:db8:2::9]:5000 open",
        "192.168.1.2:5000 -> 198.51.100.1:6000",
    ]


def test_families_and_loopback_are_not_mixed() -> None:
    assert shown(own(at("2001:db8:1::2")), STRANGER) == []
    assert shown(NOWHERE, STRANGER) == []
    assert shown(HOME, node(at("127.0.0.1"))) == []
    assert shown(NOWHERE, node(at("127.0.0.1", port=6000))) == ["127.0.0.1:5000 -> 127.0.0.1:6000 nearby open"]


def test_a_transport_that_nobody_listens_on() -> None:
    deaf = Attachment(ip_address("203.0.113.9"), None, Listening(), Listening(5000))
    assert shown(PUBLIC, node(deaf), UDP) == []
    assert shown(PUBLIC, node(deaf), TCP) == ["198.51.100.1:5000 -> 203.0.113.9:5000 open"]
    assert shown(own(deaf), STRANGER, UDP) == []


def test_a_mapped_port_that_is_not_measured_yet_is_taken_to_be_preserved() -> None:
    half = Attachment(
        ip_address("192.168.7.7"),
        ip_address("203.0.113.9"),
        Listening(5000, None),
        Listening(5000, 5000, LearntBy.STUN),
        EIM,
    )
    assert shown(HOME, node(half), UDP) == ["192.168.1.2:5000 -> 203.0.113.9:5000"]


def test_what_is_refused_is_no_pair() -> None:
    hostile = [
        at("192.168.7.7"),
        at("127.0.0.1"),
        at("224.0.0.1"),
        at("203.0.113.9", "203.0.113.9", port=6000),
    ]
    assert shown(HOME, node(*hostile), invited=False) == ["192.168.1.2:5000 -> 203.0.113.9:6000 open"]


def test_pairs_are_bounded_and_more_so_on_a_strangers_word() -> None:
    we = own(*(at(f"198.51.100.{number}", nat=NONE) for number in range(1, 9)))
    peer = node(*(at(f"203.0.113.{number}", nat=NONE) for number in range(1, 9)))
    assert len(pairs(we, peer, UDP, None, True)) == MAX_PAIRS
    assert len(pairs(we, peer, UDP, None, False)) == MAX_PAIRS_UNINVITED


@pytest.mark.parametrize("invited", [True, False])
def test_many_pairs_of_one_kind_leave_room_for_the_others(invited: bool) -> None:
    """Bridges of two developers' machines in one household; and many IPv6 addresses, which may lead nowhere."""
    bridges = [f"172.{number}.0.1" for number in range(17, 24)]
    we = own(at("192.168.1.2", "198.51.100.1", nat=EIM), *map(at, bridges))
    peer = node(at("192.168.1.9", "198.51.100.1", mapped=6000, nat=EIM), *map(at, bridges))
    found = [str(pair.remote) for pair in pairs(we, peer, UDP, None, invited)]
    assert found[0] == "192.168.1.9:5000"
    assert "198.51.100.1:6000" in found

    six = [at(f"2001:db8:1::{number}", nat=NONE) for number in range(1, 8)]
    we = own(*six, at("192.168.1.2", "198.51.100.1", nat=EIM))
    six = [at(f"2001:db8:2::{number}", nat=NONE) for number in range(1, 8)]
    found = [str(pair.remote) for pair in pairs(we, node(*six, *STRANGER.attachments), UDP, None, invited)]
    assert found[-1] == "203.0.113.9:5000"
    assert len(set(found)) >= 4, "not one of our addresses to all of theirs, nor the other way round"


def test_the_same_pair_is_listed_once() -> None:
    assert len(pairs(HOME, node(at("203.0.113.9"), at("203.0.113.9")), UDP)) == 1


# -- reasons ----------------------------------------------------------------------------------------------------------


def test_reasons_are_told_once_each() -> None:
    peer = node(at("192.168.7.7"), at("192.168.7.7"), at("127.0.0.1", "203.0.113.9", port=22))
    assert refusals(HOME, peer) == (
        f"192.168.7.7:5000 {PRIVATE}",
        "127.0.0.1:22 is a loopback address",
    )
    assert refusals(HOME, node(at("203.0.113.9", "203.0.113.9"))) == ()


def test_only_the_peers_own_addresses_may_be_named() -> None:
    inside, outside = Endpoint.parse("192.168.7.7:1"), Endpoint.parse("203.0.113.9:2")
    third = Endpoint.parse("203.0.113.10:2")
    assert not names_a_stranger(inside, STRANGER)
    assert not names_a_stranger(outside, STRANGER)
    assert names_a_stranger(third, STRANGER)
    assert names_a_stranger(inside, node())


# -- brokers that a peer's address names ------------------------------------------------------------------------------

AT_HOME = Surroundings(
    (ip_network("192.168.1.0/24"), ip_network("2001:db8:5::/64")),
    frozenset(map(ip_address, ("127.0.0.1", "::1", "192.168.1.2", "2001:db8:5::2", "198.51.100.1"))),
    Nat64Prefix(IPv6Network("2001:db8:64::/96")),
)
OWN_MACHINE = "is this machine's own address"


@pytest.mark.parametrize(
    ("broker", "reason"),
    [
        ("203.0.113.9:1883", None),
        ("203.0.113.9:443", None),
        ("[2001:db8:9::9]:8883", None),
        ("192.168.1.9:1883", None),
        ("192.168.1.9:80", "is private, and no broker's port"),
        ("192.168.7.7:1883", "is private, and not on a network of ours"),
        ("10.0.0.1:1883", "is private, and not on a network of ours"),
        ("[fd00::1]:1883", "is private, and not on a network of ours"),
        ("127.0.0.1:1883", OWN_MACHINE),
        ("127.8.8.8:1883", OWN_MACHINE),
        ("[::1]:1883", OWN_MACHINE),
        ("192.168.1.2:6000", OWN_MACHINE),
        ("198.51.100.1:1883", OWN_MACHINE),
        ("[64:ff9b::c633:6401]:1883", OWN_MACHINE),
        ("[2001:db8:64::c633:6401]:1883", OWN_MACHINE),
        ("[64:ff9b::7f00:1]:1883", "is 127.0.0.1 inside an IPv6 address, and that is a loopback address"),
        ("[2002:c0a8:101::1]:1883", "is 192.168.1.1 inside an IPv6 address, and that is private"),
        ("169.254.169.254:1883", "is link-local"),
        ("[fe80::1]:1883", "is link-local"),
        ("0.0.0.0:1883", "is no unicast address"),
        ("192.168.1.255:1883", "is a broadcast address"),
        ("224.0.0.1:1883", "is no unicast address"),
    ],
)
def test_a_broker_that_a_peers_address_names(broker: str, reason: str | None) -> None:
    endpoint = Endpoint.parse(broker)
    assert broker_refusal(endpoint, AT_HOME) == (None if reason is None else f"{endpoint} {reason}")
