"""Which other interfaces could lead to a server."""

from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.net.network import Interface
from warpgate.net.uplinks import other_uplinks

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
    network: Any = SimpleNamespace(interfaces=lambda: FOUND, route_source=lambda _: source)
    return [str(ip) for ip in other_uplinks(network, Endpoint.of(remote, 80))]


def test_one_address_of_each_other_interface_of_the_family() -> None:
    assert others("198.51.100.1", "192.168.1.3") == ["10.0.0.2"]
    assert others("198.51.100.1", "10.0.0.2") == ["192.168.1.2"]
    assert others("2001:db8::1", "2001:db8:1::2") == []


def test_no_route_and_this_machine_itself() -> None:
    assert others("198.51.100.1", None) == []
    assert others("127.0.0.1", "127.0.0.1") == []
