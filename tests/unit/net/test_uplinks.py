"""Which interfaces matter, and which others could lead to a server."""

from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

from warpgate.core.sockets import MAX_ATTACHMENTS, usable_interfaces
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.net.network import Gateway, Interface
from warpgate.net.uplinks import OTHER_WAYS, by_use, other_uplinks, ways_to

FOUND = tuple(
    Interface(name, ip_address(text), 24)
    for name, text in (
        ("lo", "127.0.0.1"),
        ("wlan0", "192.168.1.2"),
        ("wlan0", "192.168.1.3"),
        ("wlan0", "2001:db8:1::2"),
        ("wwan0", "10.0.0.2"),
        ("wwan0", "10.0.0.3"),
    )
)


def others(remote: str, usual: str | None) -> list[str]:
    source: IPAddress | None = None if usual is None else ip_address(usual)
    network: Any = SimpleNamespace(interfaces=lambda: FOUND, gateways=lambda: (), route_source=lambda _: source)
    return [str(ip) for ip in other_uplinks(network, Endpoint.of(remote, 80))]


def test_one_address_of_each_other_interface_of_the_family() -> None:
    assert others("198.51.100.1", "192.168.1.3") == ["10.0.0.2"]
    assert others("198.51.100.1", "10.0.0.2") == ["192.168.1.2"]
    assert others("2001:db8::1", "2001:db8:1::2") == []


def test_no_route_and_this_machine_itself() -> None:
    assert others("198.51.100.1", None) == []
    assert others("127.0.0.1", "127.0.0.1") == []


def machine(*found: tuple[str, str], gateways: tuple[str, ...] = (), source: str = "10.99.0.1") -> Any:
    """A developer's: what it has in the order of its kernel's numbers."""
    return SimpleNamespace(
        interfaces=lambda: tuple(Interface(name, ip_address(text), 24) for name, text in found),
        gateways=lambda: tuple(Gateway(name, ip_address("192.168.1.1")) for name in gateways),
        route_source=lambda remote: ip_address(source) if remote.ip.version == 4 else None,
    )


BRIDGES = tuple((f"br-{number:02x}", f"172.18.{number}.1") for number in range(40))
UPLINK = (("eth0", "192.168.1.2"), ("eth0", "2001:db8:1::2"))


def names(network: Any, only: tuple[str, ...] | None = None) -> list[str]:
    return [f"{interface.name} {interface.ip}" for interface in usable_interfaces(network, only)]


def test_the_uplink_is_in_however_many_bridges_come_before_it() -> None:
    wanted = ["eth0 192.168.1.2", "eth0 2001:db8:1::2"]
    lan = ("lan1", "192.168.9.1")
    network = machine(("lo", "127.0.0.1"), *BRIDGES, ("docker0", "172.17.0.1"), lan, *UPLINK, gateways=("eth0",))
    assert names(network)[:3] == [*wanted, "lan1 192.168.9.1"]
    assert len(names(network)) == MAX_ATTACHMENTS
    everything = tuple(dict.fromkeys(name for name, _ in (*BRIDGES, *UPLINK)))
    assert names(network, everything)[:2] == wanted


def test_a_tunnel_that_everything_leaves_by_is_an_uplink() -> None:
    """Such a route names no gateway."""
    network = machine(*BRIDGES, *UPLINK, ("tun0", "10.99.0.1"), gateways=("eth0",))
    assert names(network)[:3] == ["eth0 192.168.1.2", "eth0 2001:db8:1::2", "tun0 10.99.0.1"]


def test_many_addresses_of_one_uplink_leave_room_for_another() -> None:
    crowd = tuple(("eth0", f"192.168.1.{number}") for number in range(2, 20))
    network = machine(*crowd, ("wlan0", "192.168.7.2"), gateways=("eth0", "wlan0"))
    assert names(network)[:3] == ["eth0 192.168.1.2", "eth0 192.168.1.3", "wlan0 192.168.7.2"]


def test_bridges_and_tunnels_of_other_systems_come_last_as_well() -> None:
    made_up = (
        "vEthernet (WSL)",
        "VMware Network Adapter VMnet8",
        "VirtualBox Host-Only Network",
        "bridge100",
        "awdl0",
        "utun3",
        "tailscale0",
        "ztabcdef",
    )
    found = tuple((name, f"172.18.{number}.1") for number, name in enumerate(made_up))
    network = machine(*found, ("lan1", "192.168.9.1"), source="192.168.1.2")
    assert names(network)[0] == "lan1 192.168.9.1"


def test_where_all_are_alike_the_order_is_the_kernels() -> None:
    network = machine(("eth1", "192.168.2.2"), ("eth0", "192.168.1.2"), ("eth2", "192.168.3.2"))
    assert [interface.name for interface in by_use(network.interfaces(), network)] == ["eth1", "eth0", "eth2"]


def test_other_ways_out_are_tried_before_bridges() -> None:
    network = machine(*BRIDGES, *UPLINK, ("wwan0", "10.0.0.2"), gateways=("eth0", "wwan0"), source="192.168.1.2")
    assert str(other_uplinks(network, Endpoint.of("198.51.100.1", 80))[0]) == "10.0.0.2"


def test_a_name_with_many_addresses_leaves_room_for_another_way_out() -> None:
    """The uplink that the system chooses may lead nowhere."""
    network = machine(*UPLINK, ("wwan0", "10.0.0.2"), gateways=("eth0", "wwan0"), source="192.168.1.2")
    remotes = [Endpoint.of(f"198.51.100.{last}", 1883) for last in range(1, 9)]
    ways = ways_to(remotes, network)
    assert ways[:8] == [(remote, None) for remote in remotes]
    assert ways[8] == (remotes[0], Endpoint.of("10.0.0.2", 0))
    assert len(ways) == len(remotes) + OTHER_WAYS
