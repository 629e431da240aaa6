"""What each strategy says of itself for a pair of addresses: pure, and UNKNOWN rules nothing out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from warpgate.model.address import Attachment, BrokerRef, LearntBy, Listening, NodeAddress
from warpgate.model.nat import Filtering, Mapping, NatProfile
from warpgate.plugins.base import Plugin
from warpgate.plugins.direct import Direct
from warpgate.plugins.reverse import Reverse
from warpgate.plugins.tcp_punch import TcpPunch
from warpgate.plugins.udp_punch import UdpPunch

BROKERS = (BrokerRef("mqtt://203.0.113.8:1883", 0.04),)
NAT = NatProfile(mapping=Mapping.EIM, filtering=Filtering.APDF)


def node(
    number: int,
    host: str,
    reflexive: str | None,
    nat: NatProfile,
    *,
    brokers: tuple[BrokerRef, ...] = BROKERS,
    learnt: LearntBy = LearntBy.STUN,
) -> NodeAddress:
    outside = None if reflexive is None else ip_address(reflexive)
    listening = Listening(5000, 5000 if outside else None, learnt)
    attachment = Attachment(ip_address(host), outside, listening, listening, nat)
    return NodeAddress(bytes((number,)) * 33, brokers, (attachment,))


def home(number: int, nat: NatProfile = NAT, **options: object) -> NodeAddress:
    return node(number, f"192.168.{number}.2", f"198.51.100.{number}", nat, **options)  # type: ignore[arg-type]


def public(number: int) -> NodeAddress:
    return node(number, f"198.51.100.{number}", f"198.51.100.{number}", NatProfile(mapping=Mapping.NONE))


BLOCKED = replace(NAT, udp_blocked=True)
EIF = NatProfile(mapping=Mapping.EIM, filtering=Filtering.EIF)
NOT_OPEN = "none of the peer's addresses is known to accept strangers"
NOT_CALLABLE = "none of our addresses is known to accept the peer's call"

ROWS = [
    (Direct, home(1), public(2), None),
    (Direct, home(1), home(2, EIF), None),
    (Direct, home(1), home(2, learnt=LearntBy.PORT_MAP), None),
    (Direct, home(1), home(2), NOT_OPEN),
    (Direct, home(1), home(2, NatProfile()), NOT_OPEN),  # behind a NAT, so hardly; the punches will do
    (Direct, home(1), node(2, "192.168.1.3", "198.51.100.1", NAT), None),  # a neighbour
    (Direct, node(1, "192.168.1.2", None, NatProfile()), node(2, "192.168.1.3", None, NatProfile()), None),
    (Direct, node(1, "127.0.0.1", None, NatProfile()), node(2, "127.0.0.1", None, NatProfile()), None),
    (Direct, home(1), NodeAddress(b"\2" * 33), NOT_OPEN),
    (Reverse, public(1), home(2), None),
    (Reverse, home(1, EIF), home(2), None),
    (Reverse, home(1), home(2), NOT_CALLABLE),
    (Reverse, home(1), public(2), NOT_CALLABLE),
    (UdpPunch, home(1), home(2), None),
    (UdpPunch, home(1, NatProfile()), home(2, NatProfile()), None),
    (UdpPunch, home(1, BLOCKED), home(2), "our network blocks UDP"),
    (UdpPunch, home(1), home(2, BLOCKED), "the peer's network blocks UDP"),
    (UdpPunch, home(1), NodeAddress(b"\2" * 33, BROKERS), None),  # its answer may know better
    (UdpPunch, home(1), NodeAddress(b"\2" * 33), "no UDP endpoint of the peer's"),
    (TcpPunch, home(1), home(2), None),
    (TcpPunch, home(1, BLOCKED), home(2, BLOCKED), None),
    (TcpPunch, home(1), NodeAddress(b"\2" * 33, BROKERS), None),
    (TcpPunch, home(1), NodeAddress(b"\2" * 33), "no TCP endpoint of the peer's"),
]


@pytest.mark.parametrize(("plugin", "local", "remote", "reason"), ROWS)
def test_suitability(plugin: type[Plugin], local: NodeAddress, remote: NodeAddress, reason: str | None) -> None:
    said = plugin.unsuitable(local, remote)
    if reason is None:
        assert said is None
    else:
        assert said is not None
        assert said.startswith(reason)


@pytest.mark.parametrize("plugin", [Direct, Reverse, UdpPunch, TcpPunch])
def test_it_is_the_same_every_time(plugin: type[Plugin]) -> None:
    assert plugin.unsuitable(home(1), home(2)) == plugin.unsuitable(home(1), home(2))
