"""Which servers were good where, in memory and on disk; and files that nobody of ours wrote."""

from __future__ import annotations

import json
import os
import stat
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpgate.config import Config
from warpgate.core.disk.server_store import LARGEST_FILE, server_store
from warpgate.core.server_memory import (
    BAD_FOR,
    GOOD_FOR,
    MOST_HOSTS,
    MOST_NETWORKS,
    KnownHost,
    KnownNetwork,
    ServerMemory,
    host_of,
    servers_of,
)
from warpgate.events import BrokerConnected, MappingLearnt, NameFound, RelayAllocated, ServerFailed
from warpgate.net.network import Gateway, Interface

CONFIG = Config(
    brokers=(
        "mqtts://one.example",
        "mqtts://two.example",
        "mqtts://three.example",
        "mqtts://u:p@four.example",
    ),
    stun=("stun.example", "192.0.2.9"),
    turn=("turn:u:p@relay.example?transport=tls",),
    names=("https://names.example",),
)
ONE, TWO, THREE, FOUR = (f"mqtts://{name}.example:8883" for name in ("one", "two", "three", "four"))
IP = ip_address("203.0.113.1")
LAN_IP = ip_address("192.168.1.5")
HOME = ([Interface("eth0", ip_address("192.168.1.20"), 24)], [Gateway("eth0", ip_address("192.168.1.1"))])
TRAIN = ([Interface("wlan0", ip_address("172.18.0.7"), 16)], [Gateway("wlan0", ip_address("172.18.0.1"))])


class Machine:
    """One user's data directory, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.now = 1_800_000_000.0
        self.path = folder / "servers.json"

    def process(self, where: Any = HOME) -> ServerMemory:
        memory = ServerMemory(server_store(self.path), lambda: self.now, servers_of(CONFIG))
        memory.moved(*where)
        return memory


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_peers_name_and_what_is_on_our_link_is_never_written_down(machine: Machine) -> None:
    """A peer's broker may have the address of a STUN server of ours, and a name of ours may lead to this machine."""
    memory = machine.process()
    memory.heard("evil.example", (IP,))
    memory.observe(MappingLearnt("udp", "192.168.1.20:1", "198.51.100.1:1", f"{IP}:3478", 0.1))
    memory.heard("one.example", (ip_address("127.0.0.1"), ip_address("169.254.1.1"), ip_address("fe80::1"), IP))
    memory.observe(BrokerConnected(ONE, 0.03))
    assert memory.recall("one.example") == (IP,)
    memory.save()
    assert "evil" not in machine.path.read_text()


def test_addresses_are_remembered_when_the_server_has_done_its_part(machine: Machine) -> None:
    first = machine.process()
    for host in ("one.example", "two.example", "stun.example", "relay.example", "names.example"):
        first.heard(host, (IP,))
    first.heard("stun.example", (ip_address("203.0.113.3"),))
    assert first.recall("one.example") == ()
    first.observe(BrokerConnected(ONE, 0.03))
    first.observe(RelayAllocated("turn:relay.example?transport=tls", "tls", (), 0.1))
    first.observe(NameFound("bob", "x", 1, "https://names.example", 0.1))
    first.observe(MappingLearnt("udp", "192.168.1.20:1", "198.51.100.1:1", "203.0.113.3:3478", 0.02))
    first.save()
    later = machine.process()
    assert later.recall("one.example") == later.recall("relay.example") == later.recall("names.example") == (IP,)
    assert later.recall("stun.example") == (ip_address("203.0.113.3"),)
    assert later.recall("two.example") == ()


def test_another_network_gets_the_public_addresses_and_its_own_order(machine: Machine) -> None:
    home = machine.process()
    home.heard("one.example", (LAN_IP, IP))
    home.observe(BrokerConnected(ONE, 0.03))
    home.observe(ServerFailed("broker", TWO, "no answer"))
    home.save()
    assert machine.process().recall("one.example") == (LAN_IP, IP)
    train = machine.process(TRAIN)
    assert train.recall("one.example") == (IP,)
    assert train.ranked([TWO, ONE]) == (TWO, ONE)


def test_a_move_keeps_what_was_learnt_before_it(machine: Machine) -> None:
    memory = machine.process()
    memory.heard("one.example", (IP,))
    memory.observe(BrokerConnected(ONE, 0.03))
    memory.moved(*TRAIN)
    memory.observe(BrokerConnected(ONE, 0.3))  # of a name that was looked up elsewhere
    assert memory.recall("one.example") == (IP,)
    assert machine.process().recall("one.example") == (IP,)


def test_the_order_is_what_was_measured_here(machine: Machine) -> None:
    memory = machine.process()
    memory.observe(BrokerConnected(THREE, 0.09))
    memory.observe(BrokerConnected(FOUR, 0.02))
    memory.observe(ServerFailed("broker", ONE, "refused"))
    memory.save()
    assert machine.process().ranked([ONE, TWO, THREE, FOUR]) == (FOUR, THREE, TWO, ONE)
    machine.now += BAD_FOR + 1
    assert machine.process().ranked([ONE, TWO, THREE, FOUR]) == (FOUR, THREE, ONE, TWO)
    machine.now += GOOD_FOR
    assert machine.process().ranked([ONE, TWO, THREE, FOUR]) == (ONE, TWO, THREE, FOUR)


def test_a_network_that_is_down_says_nothing_about_brokers(machine: Machine) -> None:
    memory = machine.process()
    for url in (ONE, TWO):
        memory.observe(ServerFailed("broker", url, "network is unreachable"))
    memory.save()
    assert machine.process().ranked([TWO, ONE]) == (TWO, ONE)
    memory.observe(BrokerConnected(ONE, 0.02))
    memory.observe(ServerFailed("broker", ONE, "the connection broke"))  # and then the machine is shut down
    memory.save()
    assert machine.process().ranked([TWO, ONE]) == (ONE, TWO)


def test_what_peers_name_is_not_remembered(machine: Machine) -> None:
    memory = machine.process()
    memory.heard("peers.example", (IP,))
    memory.observe(BrokerConnected("mqtts://peers.example:8883", 0.01))
    memory.save()
    assert not machine.path.exists()


def test_no_password_is_written(machine: Machine) -> None:
    memory = machine.process()
    memory.heard("four.example", (IP,))
    memory.observe(BrokerConnected(FOUR, 0.02))
    memory.save()
    assert "four.example" in machine.path.read_text()
    assert "u:p" not in machine.path.read_text()
    assert stat.S_IMODE(machine.path.stat().st_mode) == 0o600


def test_two_processes_write_the_same_file(machine: Machine) -> None:
    one, two = machine.process(), machine.process()
    one.observe(BrokerConnected(ONE, 0.02))
    one.save()
    machine.now += 1
    two.observe(BrokerConnected(TWO, 0.01))
    two.save()
    assert machine.process().ranked([THREE, ONE, TWO]) == (TWO, ONE, THREE)


def test_only_so_many_networks_are_kept(machine: Machine) -> None:
    for number in range(MOST_NETWORKS + 5):
        machine.now += 1
        memory = machine.process(([Interface("eth0", ip_address(f"10.{number}.0.2"), 24)], []))
        memory.observe(BrokerConnected(ONE, 0.02))
        memory.save()
    stored = server_store(machine.path).load()
    assert len(stored) == len(json.loads(machine.path.read_text())) == MOST_NETWORKS == 16
    assert memory._key in stored


def test_of_a_file_with_more_networks_the_newest_are_read(machine: Machine) -> None:
    machine.path.write_text(json.dumps([{**GOOD, "key": f"{number:016x}"} for number in range(20)]))
    machine.path.chmod(0o600)
    assert [int.from_bytes(key) for key in server_store(machine.path).load()] == list(range(4, 20))


def test_a_file_at_its_limits_can_be_read_again(tmp_path: Path) -> None:
    store = server_store(tmp_path / "servers.json")
    ips = tuple(ip_address(f"2001:db8:1111:2222:3333:4444:5555:{n}666") for n in range(4))
    hosts = {f"{n:0>4}{'a' * 55}.{'b' * 60}.example": KnownHost(ips, 1.8e9) for n in range(MOST_HOSTS)}
    full = {bytes([n] * 8): KnownNetwork(dict(hosts)) for n in range(MOST_NETWORKS)}
    store.save(full)
    assert len(store.load()) == MOST_NETWORKS


# -- a file that somebody else wrote -----------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "key": "00" * 8,
    "hosts": [{"name": "one.example", "ips": ["203.0.113.1"], "seen": 1_800_000_000}],
    "brokers": [{"url": ONE, "seen": 1_800_000_000, "rtt": 0.1}],
}


def changed(**changes: Any) -> list[Any]:
    return [{**GOOD, **changes}]


@pytest.mark.parametrize(
    "rows",
    [
        {},
        [7],
        changed(key="0"),
        changed(key="00" * 9),
        changed(hosts=[{"name": "one.example", "ips": ["127.0.0.1"], "seen": 1}]),
        changed(hosts=[{"name": "one.example", "ips": ["169.254.169.254"], "seen": 1}]),
        changed(hosts=[{"name": "one.example", "ips": ["224.0.0.1"], "seen": 1}]),
        changed(hosts=[{"name": "one.example", "ips": ["64:ff9b::7f00:1"], "seen": 1}]),
        changed(hosts=[{"name": "one.example", "ips": ["203.0.113.1"] * 5, "seen": 1}]),
        changed(hosts=[{"name": "../../etc", "ips": [], "seen": 1}]),
        changed(hosts=[{"name": "one.example", "ips": [], "seen": -1}]),
        changed(hosts=[{"name": "one.example", "ips": [], "seen": 10**400}]),
        changed(hosts=[{"name": f"h{n}.example", "ips": [], "seen": 1} for n in range(MOST_HOSTS + 1)]),
        changed(brokers=[{"url": "http://one.example", "seen": 1}]),
        changed(brokers=[{"url": ONE, "seen": 1, "rtt": -1}]),
        changed(brokers=[{"url": ONE, "seen": 1, "rtt": 1e300}]),
        changed(more=1),
    ],
)
def test_a_file_with_anything_wrong_counts_as_empty(machine: Machine, rows: Any) -> None:
    machine.path.write_text(json.dumps(changed()))
    assert server_store(machine.path).load()
    machine.path.write_text(json.dumps(rows))
    assert server_store(machine.path).load() == {}


def test_a_file_that_is_none(machine: Machine) -> None:
    machine.path.write_bytes(b"[" * 200_000)
    assert server_store(machine.path).load() == {}
    machine.path.write_text(json.dumps(changed()) + " " * LARGEST_FILE)
    assert server_store(machine.path).load() == {}
    machine.path.unlink()
    machine.path.mkdir()
    memory = machine.process()
    memory.observe(BrokerConnected(ONE, 0.02))
    memory.save()
    os.rmdir(machine.path)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.binary(max_size=300))
def test_garbage_counts_as_empty(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.json"
    path.write_bytes(data)
    assert server_store(path).load() == {}


def test_what_was_seen_in_the_future_is_not_good_for_ever(machine: Machine) -> None:
    memory = machine.process()
    key = memory._key.hex()
    hosts = [{"name": "one.example", "ips": ["203.0.113.1"], "seen": 1 << 40}]
    machine.path.write_text(json.dumps(changed(key=key, hosts=hosts, brokers=[])))
    assert machine.process().recall("one.example") == ()


@pytest.mark.parametrize(
    ("server", "host"),
    [
        (ONE, "one.example"),
        ("wss://web.example:443/mqtt", "web.example"),
        ("turn:relay.example:5349?transport=tls", "relay.example"),
        ("stun.example:3478?transport=udp", "stun.example"),
        ("https://names.example/prefix", "names.example"),
        ("mqtt://192.0.2.1:1883", None),
        ("[2001:db8::1]:3478", None),
        ("", None),
    ],
)
def test_the_host_of_a_server(server: str, host: str | None) -> None:
    assert host_of(server) == host
