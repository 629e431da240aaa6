"""What of a mapping is announced, and what is kept on disk."""

from __future__ import annotations

import random
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import pytest

from warpgate.config import Config
from warpgate.core.disk.lease_store import lease_store
from warpgate.core.port_mapping import PortMapping, PortMapStatus, leads_here, with_mapping
from warpgate.events import DoubleNatFound
from warpgate.model.address import Attachment, LearntBy, Listening
from warpgate.model.endpoint import Endpoint, IPAddress, Transport
from warpgate.net.network import Interface
from warpgate.services.portmap_board import Mapped, Remembered

STUN = Listening(5000, 5123, LearntBy.STUN)


def attachment(host: str = "192.168.1.2", reflexive: str | None = "203.0.113.1") -> Attachment:
    seen = None if reflexive is None else ip_address(reflexive)
    return Attachment(ip_address(host), seen, STUN if seen else Listening(5000), Listening(5000))


@pytest.mark.parametrize(
    ("external", "host", "reflexive", "announced"),
    [
        ("203.0.113.1", "192.168.1.2", "203.0.113.1", True),
        ("203.0.113.1", "192.168.1.2", "198.51.100.7", False),  # double NAT, seen by STUN
        ("100.64.0.9", "192.168.1.2", "198.51.100.7", False),
        ("203.0.113.1", "192.168.1.2", None, True),  # STUN has not answered
        ("100.64.0.9", "192.168.1.2", None, False),  # a carrier's address leads nowhere
        ("10.0.0.7", "192.168.1.2", None, False),
        ("2001:db8::2", "2001:db8::2", None, True),  # a pinhole
        ("2001:db8::2", "2001:db8::2", "2001:db8::2", True),
    ],
)
def test_only_what_leads_here_is_announced(external: str, host: str, reflexive: str | None, announced: bool) -> None:
    assert leads_here(ip_address(external), attachment(host, reflexive)) == announced


def test_a_mapped_port_takes_the_place_of_the_one_that_stun_saw() -> None:
    external = Endpoint(ip_address("203.0.113.1"), 5000)
    made = with_mapping(attachment(), Transport.UDP, external)
    assert made.udp == Listening(5000, 5000, LearntBy.PORT_MAP)
    assert made.reflexive_endpoint(Transport.UDP) == external
    assert made.tcp == Listening(5000)


LEASES = (
    Remembered("pcp", "192.168.1.1", Transport.TCP, Endpoint(ip_address("192.168.1.2"), 5000), 5001, b"n" * 12),
    Remembered("pcp", "fe80::1%eth0", Transport.UDP, Endpoint(ip_address("2001:db8::2"), 5000), 5000, b"m" * 12),
    Remembered("upnp", "192.168.1.1", Transport.UDP, Endpoint(ip_address("192.168.1.2"), 5000), 5000),
)


def test_leases_come_back_from_disk_and_an_empty_store_is_no_file(tmp_path: Path) -> None:
    store = lease_store(tmp_path / "leases" / "node.json")
    assert store.load() == ()
    store.save(LEASES)
    assert store.load() == LEASES
    assert [path.name for path in (tmp_path / "leases").iterdir()] == ["node.json"]
    store.save(())
    assert list((tmp_path / "leases").iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\xff\xfe",
        b'[{"protocol":"pcp"}]',
        b'[{"protocol":"pcp","gateway":"nobody","transport":"tcp","internal":"1.2.3.4:5","external_port":5}]',
        b'[{"protocol":"pcp","gateway":"1.2.3.4","transport":"ip","internal":"1.2.3.4:5","external_port":5}]',
        b'[{"protocol":"pcp","gateway":"1.2.3.4","transport":"tcp","internal":"1.2.3.4","external_port":5}]',
        b'[{"protocol":"pcp","gateway":"1.2.3.4","transport":"tcp","internal":"1.2.3.4:5","external_port":99999}]',
    ],
)
def test_a_damaged_file_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "node.json"
    path.write_bytes(content)
    assert lease_store(path).load() == ()


def test_a_disk_that_refuses_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    lease_store(tmp_path / "file" / "node.json").save(LEASES)


class OneMapping:
    """In place of a PortMapper: TCP is mapped at one external address, or nothing behind another NAT."""

    def __init__(self, external: str) -> None:
        self.external = Endpoint.parse(external)
        self.outside: IPAddress | None = None

    def behind(self, ip: object) -> IPAddress | None:
        return self.outside

    def mapped(self, ip: object, transport: Transport) -> Mapped | None:
        internal = Endpoint.parse("192.168.1.2:5000")
        if transport is Transport.UDP or self.outside is not None:
            return None
        return Mapped(transport, internal, self.external, "PCP", "192.168.1.1", 1200.0)


def mapping(external: str, events: list[object], **settings: object) -> PortMapping:
    context = SimpleNamespace(config=Config(**settings), emit=events.append)  # type: ignore[arg-type]
    made = PortMapping(context, lambda: None, random.Random(1))  # type: ignore[arg-type]
    made._mapper = OneMapping(external)  # type: ignore[assignment]
    return made


def test_a_double_nat_is_said_once_and_not_announced() -> None:
    events: list[object] = []
    behind = mapping("100.64.0.9:5000", events)
    plain = attachment()
    assert behind.announce(plain) == plain
    assert behind.announce(plain) == plain
    assert events == [DoubleNatFound("192.168.1.2", "100.64.0.9", "203.0.113.1")]


def test_a_gateway_that_maps_nothing_since_it_is_behind_a_nat_is_told_the_same_way() -> None:
    events: list[object] = []
    made = mapping("203.0.113.1:1", events)
    made._mapper.outside = ip_address("100.64.0.9")  # type: ignore[union-attr]
    assert made.announce(attachment()) == attachment()
    assert events == [DoubleNatFound("192.168.1.2", "100.64.0.9", "203.0.113.1")]


def test_a_mapping_that_leads_here_is_announced() -> None:
    events: list[object] = []
    made = mapping("203.0.113.1:6000", events).announce(attachment())
    assert made.tcp == Listening(5000, 6000, LearntBy.PORT_MAP)
    assert made.udp == STUN
    assert events == []


def test_a_node_on_loopback_asks_for_no_gateways() -> None:
    class Network:
        def gateways(self) -> None:
            raise AssertionError("nobody is to be asked")

    for settings, name, ip in (({}, "lo", "127.0.0.1"), ({"port_map": False}, "eth0", "192.168.1.2")):
        context = SimpleNamespace(config=Config(**settings), network=Network())  # type: ignore[arg-type]
        made = PortMapping(context, lambda: None, random.Random(1))  # type: ignore[arg-type]
        made.follow((Interface(name, ip_address(ip), 24),), 5000)
        assert made.status == PortMapStatus()
