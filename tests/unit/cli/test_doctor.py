"""What doctor makes of a node's state."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from warpgate.cli.doctor import _contacts, diagnose
from warpgate.cli.fingerprints import fingerprinted
from warpgate.cli.nat_words import assignment_words
from warpgate.cli.server_words import NO_ROUTE, Checks, list_findings
from warpgate.config import Config
from warpgate.core.assembly import NodeStatus
from warpgate.core.disk.claim import Holder
from warpgate.core.port_mapping import PortMapStatus
from warpgate.core.search.probe import SWALLOWED, BrokerCheck, OtherProcess
from warpgate.core.server_lists import ListStatus, PlaceCheck
from warpgate.events import DoubleNatFound, MappingLearnt, ServerFailed
from warpgate.model.address import Attachment, BrokerRef, LearntBy, Listening, NodeAddress
from warpgate.model.contact import Contact
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.model.identity import Identity
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment
from warpgate.model.server_list import ServerList
from warpgate.net.network import Interface
from warpgate.platform import linux
from warpgate.services.names import NameServerCheck
from warpgate.services.portmap_board import Mapped
from warpgate.services.relay import RelayCheck

EIM = NatProfile(Mapping.EIM, Filtering.APDF)
BROKER = BrokerRef("mqtt://broker.example:1883", 0.0402)


def attached(nat: NatProfile, reflexive: str | None = "203.0.113.9") -> Attachment:
    seen = None if reflexive is None else ip_address(reflexive)
    udp = Listening(4242) if seen is None else Listening(4242, 5151, LearntBy.STUN)
    return Attachment(ip_address("10.0.0.2"), seen, udp, Listening(4242), nat)


NOW = 1_800_000_000.0


def status(*attachments: Attachment, brokers=(BROKER,), failures=(), **more) -> NodeStatus:
    interfaces = tuple(Interface("eth0", attachment.host, 24) for attachment in attachments)
    return NodeStatus(interfaces, attachments, brokers, failures, (), **more)


def checked(snapshot: NodeStatus, **more) -> Checks:
    """Its brokers are well."""
    brokers = tuple(BrokerCheck(broker.url, broker.rtt, 0.05) for broker in snapshot.brokers)
    return Checks(**{"now": NOW, "brokers": brokers, **more})


def said(snapshot: NodeStatus, mappings=(), config: Config | None = None, **checks) -> dict[str, list[str]]:
    """State and message by section."""
    found: dict[str, list[str]] = {}
    done = checked(snapshot, **checks)
    for finding in diagnose(snapshot, "a" * 26, 4242, mappings, config or Config(), done):
        found.setdefault(finding.section, []).append(f"{finding.state}: {finding.message}")
    return found


def test_a_usual_home():
    mappings = [
        MappingLearnt("udp", "10.0.0.2:4242", "203.0.113.9:5151", "stun.example:3478", seconds)
        for seconds in (0.05, 0.04)
    ]
    sections = said(status(attached(EIM)), mappings)
    assert sections["interfaces"] == ["ok: eth0: 10.0.0.2/24 (IPv4)"]
    assert sections["NAT"][0] == "ok: UDP 10.0.0.2:4242 is 203.0.113.9:5151 from outside (seen by STUN)"
    assert "endpoint-independent mapping" in sections["NAT"][1]
    assert "address-and-port-dependent filtering" in sections["NAT"][2]
    assert sections["brokers"] == ["ok: mqtt://broker.example:1883, round trip 40.2 ms; a probe was back in 50.0 ms"]
    assert sections["STUN"] == ["ok: stun.example:3478 over UDP, round trip 40.0 ms"]
    assert sections["names"] == ["missing: no name server is configured: peers are reached by their addresses"]
    assert sections["port mapping"] == ["info: no router to ask: this machine has no default gateway"]
    assert sections["in short"] == ["ok: most peers can connect to this node, by hole punching where need be"]


@pytest.mark.parametrize(
    ("nat", "brokers", "verdict"),
    [
        (NatProfile(Mapping.NONE, Filtering.EIF), (), "ok: anybody can"),
        (
            NatProfile(Mapping.NONE, Filtering.APDF),
            (),
            "warning: only peers who can reach this machine directly",
        ),
        (NatProfile(Mapping.NONE, Filtering.APDF), (BROKER,), "ok: most peers"),
        (NatProfile(Mapping.APDM, Filtering.APDF), (BROKER,), "warning: peers behind easy NATs"),
        (NatProfile(), (BROKER,), "warning: peers can be heard from"),
    ],
)
def test_the_verdict(nat, brokers, verdict):
    assert said(status(attached(nat), brokers=brokers))["in short"][0].startswith(verdict)


def test_a_symmetric_nat_is_explained_with_its_ports():
    nat = NatProfile(Mapping.APDM, Filtering.APDF, PortAssignment(Assignment.SEQUENTIAL, step=2), udp_blocked=True)
    text = "\n".join(said(status(attached(nat)))["NAT"])
    assert "UDP does not get out" in text
    assert "symmetric" in text
    assert "steps of 2" in text


@pytest.mark.parametrize("kind", Assignment)
def test_every_port_assignment_has_its_words(kind):
    words = {assignment_words(PortAssignment(other, 1, 2, 3)) for other in Assignment}
    assert assignment_words(PortAssignment(kind, 1, 2, 3)) in words
    assert len(words) == len(Assignment)


DEAD = BrokerCheck("mqtt://dead.example:1883", error="connection refused")


def test_the_list_of_public_servers():
    def told(days: float = 100, places=(), **more) -> list[str]:
        used = ServerList(7, NOW + days * 86400, (), ())
        status = ListStatus(used, more.get("fetched", False), more.get("off", ""), NOW + more.get("next", 0))
        return [f"{each.state}: {each.message}" for each in list_findings(status, places, NOW)]

    assert told(off="this package has no key to verify one with") == [
        "ok: number 7, of this package, good until 2027-04-25",
        "info: no newer one is fetched: this package has no key to verify one with",
    ]
    assert told(fetched=True, next=2 * 86400) == [
        "ok: number 7, fetched, good until 2027-04-25",
        "info: a newer one is looked for in 2 d 0 h",
    ]
    assert told()[1] == "info: a newer one is looked for by the next node that runs for 15 minutes"
    assert told(-3)[0].startswith("warning: number 7, of this package, was good until 2027-01-12: update warpgate")
    places = (PlaceCheck("https://a", 8), PlaceCheck("https://b", error="it answers 500"))
    assert told(places=places)[1:] == ["ok: https://a: it has number 8", "missing: https://b: it answers 500"]
    listed = {"list": ListStatus(ServerList(7, NOW + 1, (), ()), False, "", NOW)}
    assert "list of public servers" in said(status(attached(EIM)), **listed)
    own = Config(brokers=("mqtt://a",), stun=())
    assert "list of public servers" not in said(status(attached(EIM)), config=own, **listed)


def test_without_servers_it_says_what_is_missing():
    failures = (ServerFailed("stun", "stun.example:3478", "no answer"),)
    offline = status(attached(NatProfile(), reflexive=None), brokers=(), failures=failures)
    sections = said(offline, brokers=(DEAD,))
    assert sections["brokers"][0] == "missing: mqtt://dead.example:1883: connection refused"
    assert "no signals" in sections["brokers"][1]
    assert sections["STUN"][0] == "missing: stun.example:3478: no answer"
    assert "how it looks from outside" in sections["STUN"][1]
    assert sections["NAT"] == ["warning: 10.0.0.2: no STUN server answered, so nothing is known"]
    none = said(status(brokers=()), config=Config(brokers=(), stun=()))
    assert none["brokers"] == ["missing: none is configured"]
    assert none["STUN"] == ["missing: none is configured"]
    assert none["interfaces"] == ["missing: none is up"]


def test_a_broker_that_swallows_what_is_published_is_no_broker():
    """However well it lets itself be connected to: the node's own status has it for a good one."""
    sections = said(status(attached(EIM)), brokers=(BrokerCheck(BROKER.url, error=SWALLOWED),))
    assert sections["brokers"][0] == f"missing: {BROKER.url}: {SWALLOWED}"
    assert sections["in short"][0].startswith("warning: only peers who can reach this machine directly")


def test_what_was_good_here_before_says_when():
    failures = (ServerFailed("stun", "stun.example:3478", "no answer"),)
    known = ((DEAD.url, NOW - 90_000), ("stun.example", NOW - 60))
    sections = said(status(attached(EIM), failures=failures, known=known), brokers=(DEAD,))
    assert sections["brokers"][0].endswith("connection refused (it was good here 1 d 1 h ago)")
    assert sections["STUN"][0].endswith("no answer (it was good here 1 min 0 s ago)")


def test_what_is_the_matter_with_all_servers_is_told_once():
    urls = [f"mqtt://{name}.example:1883" for name in "abcde"]
    failures = tuple(ServerFailed("stun", f"{name}.example:3478", f"resolve '{name}': no") for name in "abc")
    brokers = tuple(BrokerCheck(url, error="resolve 'x': no") for url in urls)
    offline = said(status(attached(EIM), failures=failures, routed=False), brokers=brokers)
    assert offline["interfaces"][1] == f"missing: {NO_ROUTE}"
    assert offline["brokers"][0] == "missing: 5 not reached: no default route"
    assert offline["STUN"][0] == "missing: 3 not reached: no default route"
    nameless = said(status(attached(EIM), failures=failures), brokers=brokers)
    assert nameless["brokers"][0] == f"missing: 5 not found: DNS does not know {', '.join(urls)}"
    assert [len(sections["brokers"]) for sections in (offline, nameless)] == [2, 2]


@pytest.mark.parametrize(
    ("ip", "warned"), [("192.168.1.9", "private"), ("127.0.0.1", "a loopback address"), ("203.0.113.5", "")]
)
def test_a_relay_that_relays_at_a_private_address(ip, warned):
    relay = RelayCheck("turn:relay.example:3478", (Endpoint.parse(f"{ip}:50000"),), 0.02)
    lines = said(status(attached(EIM)), relays=(relay,))["relays"]
    assert lines[0].startswith(f"ok: turn:relay.example:3478 relays at {ip}")
    assert [line.startswith("warning:") and f"that is {warned}: of no use" in line for line in lines[1:]] == (
        [True] if warned else []
    )


@pytest.mark.parametrize(
    ("now", "ahead", "says"),
    [
        (NOW, 0.4, "ok: it agrees with that of https://names.example"),
        (NOW, 360.0, "warning: it is 360 s ahead of that of https://names.example: one of the two is wrong"),
        (NOW, -7200.0, "warning: it is 7200 s behind that of"),
        (NOW, None, "info: it says 2027-01-15, and no name server is there"),
        (86_400.0 * 3, None, "warning: it says 1970-01-04, which cannot be: set it"),
    ],
)
def test_the_clock(now, ahead, says):
    names = (NameServerCheck("https://names.example", 0.03, ahead=ahead),)
    [line] = said(status(attached(EIM)), now=now, names=names)["clock"]
    assert line.startswith(says)


def test_what_else_runs_with_this_identity():
    """A process of this machine is known by the instance in its address; another machine's is a twin."""
    key = Identity.generate().public_key
    told = {
        "pid": 77,
        "command": "listen",
        "accepts": True,
        "since": NOW - 3700,
        "address": NodeAddress(key, (), (), b"\1\2\3\4").to_text(),
    }
    here = OtherProcess("01020304", "at 203.0.113.9", beside=False)
    beside = OtherProcess("05050505", "at 203.0.113.9", beside=True)
    alone = said(status(attached(EIM)), processes=(told,), others=(here, beside))["identity"]
    assert alone == [
        "ok: process 77 (listen) accepts peers, for 1 h 1 min",
        "ok: no other node answers to it",
    ]
    twin = OtherProcess("0a0b0c0d", "at 198.51.100.3", beside=False)
    [_, line] = said(status(attached(EIM)), processes=(told,), others=(here, twin))["identity"]
    assert line.startswith("warning: another node runs with this identity, at 198.51.100.3 (instance 0a0b0c0d)")
    assert "identity" not in said(status(attached(EIM)), brokers=(DEAD,))
    program = said(status(attached(EIM)), holder=Holder("78", bytes.fromhex(here.instance)), others=(here,))
    assert program["identity"] == [
        "ok: process 78 (no warpgate command) accepts peers",
        "ok: no other node answers to it",
    ]


def test_a_fingerprint_is_complete_when_both_behaviours_are_known():
    assert fingerprinted(status(attached(EIM)))
    assert not fingerprinted(status(attached(EIM), attached(NatProfile(Mapping.EIM))))


def mapped(protocol: str, lifetime: float, external: str = "203.0.113.9:4242") -> Mapped:
    internal = Endpoint.parse("10.0.0.2:4242")
    return Mapped(Transport.TCP, internal, Endpoint.parse(external), protocol, "10.0.0.1", lifetime)


def ports(config: Config | None = None, failures=(), **port_map) -> list[str]:
    state = PortMapStatus(**port_map)
    snapshot = NodeStatus((), (), (BROKER,), failures, (), state)
    return said(snapshot, config=config)["port mapping"]


def test_what_the_router_maps():
    assert ports(gateways=("10.0.0.1",), mappings=(mapped("PCP", 1200.0), mapped("UPnP IGD 1", 0.0))) == [
        "ok: 10.0.0.1 passes TCP 203.0.113.9:4242 on to 10.0.0.2:4242 (PCP, for 1200 s at a time): "
        "peers connect there directly",
        "ok: 10.0.0.1 passes TCP 203.0.113.9:4242 on to 10.0.0.2:4242 (UPnP IGD 1, until it is deleted): "
        "peers connect there directly",
    ]
    assert ports(config=Config(port_map=False)) == ["missing: switched off (--no-port-map, port_map)"]


def test_name_servers_are_told_with_their_round_trip_or_reason():
    checks = (
        NameServerCheck("https://names.example", 0.0312),
        NameServerCheck("http://127.0.0.1:1", error="connection refused"),
    )
    findings = diagnose(status(), "a" * 26, 4242, (), Config(), checked(status(), names=checks))
    assert [finding.text() for finding in findings if finding.section == "names"] == [
        "  + https://names.example, round trip 31.2 ms",
        "  - http://127.0.0.1:1: connection refused",
    ]


def test_a_double_nat_is_named():
    double = DoubleNatFound("10.0.0.2", "100.64.0.5", "198.51.100.7")
    lines = ports(gateways=("10.0.0.1",), mappings=(mapped("PCP", 60.0, "100.64.0.5:4242"),), double_nats=(double,))
    unmapped = ports(gateways=("10.0.0.1",), double_nats=(double,))
    assert lines == unmapped  # no advice to switch on what would not help
    assert len(lines) == 1
    assert lines[0].startswith(
        "warning: double NAT: the router maps ports at 100.64.0.5, but the world sees 198.51.100.7"
    )


def test_a_router_that_maps_nothing_says_why():
    refused = ServerFailed("port mapping", "10.0.0.1 (UPnP)", "no UPnP gateway answers at 10.0.0.1")
    lines = ports(gateways=("10.0.0.1",), failures=(refused,))
    assert lines[0].startswith("missing: 10.0.0.1 maps no ports for this node.")
    assert lines[1] == "info: 10.0.0.1 (UPnP): no UPnP gateway answers at 10.0.0.1"


def test_a_mapped_port_is_the_verdict():
    listening = Listening(4242, 4242, LearntBy.PORT_MAP)
    attachment = Attachment(ip_address("10.0.0.2"), ip_address("203.0.113.9"), listening, listening, EIM)
    verdict = said(status(attachment, brokers=()))["in short"]
    assert verdict == ["ok: anybody can connect to this node, through the port that the router maps"]


def lines(snapshot: NodeStatus) -> list[str]:
    return said(snapshot)["families"]


@pytest.mark.parametrize(
    ("addresses", "nat64", "begins"),
    [
        (("192.168.1.2",), "", "info: IPv4 alone"),
        (("2001:db8::2",), "", "info: IPv6 alone, and this network has no NAT64"),
        (("192.168.1.2", "2001:db8::2"), "", "ok: IPv4 and IPv6"),
        (
            ("2001:db8::2", "192.0.0.1"),
            "64:ff9b::/96",
            "ok: IPv6 alone, and IPv4 through this network's NAT64 (prefix 64:ff9b::/96)",
        ),
    ],
)
def test_families_in_words(addresses, nat64, begins):
    interfaces = (Interface("lo", ip_address("127.0.0.1"), 8),)
    interfaces += tuple(Interface("eth0", ip_address(text), 24) for text in addresses)
    snapshot = NodeStatus(interfaces, (), (), (), (), nat64=nat64)
    [line] = lines(snapshot)
    assert line.startswith(begins)
    assert ("ok: eth0: 192.0.0.1/24 (IPv4 by NAT64)" in said(snapshot)["interfaces"]) == bool(nat64)


def test_several_interfaces_in_words():
    interfaces = (
        Interface("wlan0", ip_address("192.168.1.2"), 24),
        Interface("wwan0", ip_address("2001:db8::2"), 64),
        Interface("wwan0", ip_address("192.0.0.1"), 32),
    )
    first, second, third = lines(NodeStatus(interfaces, (), (), (), (), nat64="64:ff9b::/96"))
    assert first.startswith("ok: IPv4 and IPv6")
    assert "an interface without IPv4" in second
    assert third == "ok: peers are offered 2 interfaces: wlan0, wwan0"


def test_offline_there_are_no_families_to_speak_of():
    assert "families" not in said(NodeStatus((Interface("lo", ip_address("127.0.0.1"), 8),), (), (), (), ()))


def test_where_routes_are_not_to_be_read_it_does_not_say_that_there_are_none(monkeypatch, tmp_path):
    """As on Android, which denies /proc/net."""
    monkeypatch.setattr(linux, "PROC_NET", tmp_path / "denied")
    assert said(status(attached(EIM)), ())["port mapping"] == [
        "warning: the default routes are not to be read here, so routers are not asked for port mappings"
    ]


def test_the_ages_of_contacts_and_not_who_they_are():
    day = 86_400

    def met(name: str, first_seen: float, record: float) -> Contact:
        return Contact(name, Identity.generate().public_key, int((NOW - record) * 1000), int(NOW - first_seen))

    contacts = (met("alice", 40 * day, 3600), met("bob", 400 * day, 35 * day), met("carol", 90, 60))
    lines = said(status(attached(EIM)), contacts=contacts)["names"]
    assert lines[1:] == [
        "ok: keys of 3 names in the contact book, met 1 min 30 s to 400 d 0 h ago; their newest records are of "
        "1 min 0 s to 35 d 0 h ago",
        "info: 1 of them have shown no new record for 30 days: such names are free for others, whose keys will be "
        "refused here",
    ]
    assert not any(name in line for line in lines for name in ("alice", "bob", "carol"))


def test_a_damaged_contact_book_is_told_of(tmp_path):
    book = tmp_path / "known_peers"
    book.write_text("alice is no contact\n")
    contacts, error = _contacts(Config(known_peers=str(book)))
    assert contacts == ()
    assert "line 1" in said(status(attached(EIM)), contacts=contacts, contacts_error=error)["names"][1]
    book.write_text(Contact("bob", Identity.generate().public_key, 1, int(NOW)).to_line() + "\n")
    contacts, error = _contacts(Config(known_peers=str(book)))
    assert [contact.name for contact in contacts] == ["bob"]
    assert not error
