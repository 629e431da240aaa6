from __future__ import annotations

import asyncio
import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from namespaces import command, in_namespace

from warpgate.net.interfaces import (
    Gateway,
    InterfaceWatcher,
    default_gateways,
    enumerate_interfaces,
    usable,
)
from warpgate.net.network import Interface
from warpgate.platform import INTERFACES, linux
from warpgate.platform.interfaces import AssignedAddress, Interfaces

LOOPBACK = 2  # 127.0.0.1 and ::1


def address(text: str, name: str = "eth0", prefix: int = 64, **flags: bool) -> AssignedAddress:
    return AssignedAddress(name, ip_address(text), prefix, **flags)


def chosen(*addresses: AssignedAddress) -> list[str]:
    return [str(interface.ip) for interface in usable(addresses) if not interface.spare]


def spare(*addresses: AssignedAddress) -> list[str]:
    return [str(interface.ip) for interface in usable(addresses) if interface.spare]


def test_addresses_nobody_can_use_are_left_out() -> None:
    assert chosen(
        address("127.0.0.1", "lo"),
        address("::1", "lo"),
        address("192.0.2.1"),
        address("169.254.3.4"),
        address("fe80::1"),
        address("0.0.0.0"),
        address("224.0.0.1"),
        address("2001:db8::1", tentative=True),
        address("192.0.2.9", "eth1", running=False),
    ) == ["127.0.0.1", "::1", "192.0.2.1"]


def test_at_most_two_v6_per_interface_current_and_stable_ones_first() -> None:
    stable, temporary = address("2001:db8::1"), address("2001:db8::2", temporary=True)
    old, local = address("2001:db8::3", deprecated=True), address("fd00::1")
    assert chosen(old, temporary, stable) == ["2001:db8::1", "2001:db8::2"]
    assert chosen(temporary, local, stable) == ["2001:db8::1", "fd00::1"]
    assert chosen(old) == ["2001:db8::3"]
    assert spare(old, temporary, stable) == ["2001:db8::3"]  # what is open there goes on
    assert spare(temporary, local, stable) == ["2001:db8::2"]
    assert chosen(address("2001:db8::9", "eth1"), stable, temporary) == [
        "2001:db8::9",
        "2001:db8::1",
        "2001:db8::2",
    ]


def test_one_global_and_one_local_v6_where_both_exist() -> None:
    first_global, second_global = address("2001:db8::1"), address("2001:db8::2")
    local, other_local = address("fd00::1"), address("fd00::2")
    assert chosen(local, other_local, first_global, second_global) == ["2001:db8::1", "fd00::1"]
    assert chosen(address("2001:db8::3", temporary=True), local, other_local) == ["2001:db8::3", "fd00::1"]
    assert chosen(address("2001:db8::4", deprecated=True), local) == ["fd00::1", "2001:db8::4"]


def test_a_deprecated_v6_is_offered_only_where_it_is_the_last_of_its_kind() -> None:
    old, new = address("2001:db8:1::1", deprecated=True), address("2001:db8:2::1")
    assert (chosen(old, new), spare(old, new)) == (["2001:db8:2::1"], ["2001:db8:1::1"])
    assert chosen(old, address("fd00::1"), new) == ["2001:db8:2::1", "fd00::1"]


def test_loopback_is_among_the_real_ones() -> None:
    assert Interface("lo", ip_address("127.0.0.1"), 8) in enumerate_interfaces()


def test_in_a_namespace_flags_and_gateways_are_seen() -> None:
    def test() -> None:
        assert {interface.name for interface in enumerate_interfaces()} == {"lo"}
        assert default_gateways() == ()
        command("ip", "link", "add", "one", "type", "veth", "peer", "name", "two")
        command("ip", "addr", "add", "10.9.0.2/16", "dev", "one")
        command("ip", "addr", "add", "2001:db8::5/64", "dev", "one", "nodad", "preferred_lft", "0")
        command("ip", "addr", "add", "2001:db8::6/64", "dev", "one", "nodad")
        command("ip", "addr", "add", "2001:db8::7/64", "dev", "one", "nodad")
        assert {interface.name for interface in enumerate_interfaces()} == {"lo"}  # it is down
        command("ip", "link", "set", "one", "up")
        assert {interface.name for interface in enumerate_interfaces()} == {"lo"}  # it has no carrier
        command("ip", "link", "set", "two", "up")
        deadline = time.monotonic() + 5  # the kernel announces a carrier after up to a second
        while len(enumerate_interfaces()) == LOOPBACK and time.monotonic() < deadline:
            time.sleep(0.01)
        own = [interface for interface in enumerate_interfaces() if interface.name == "one"]
        assert Interface("one", ip_address("10.9.0.2"), 16) in own
        assert {str(interface.ip): interface.spare for interface in own if interface.ip.version == 6} == {
            "2001:db8::5": True,
            "2001:db8::6": False,
            "2001:db8::7": False,
        }
        command("ip", "route", "add", "default", "via", "10.9.0.1", "metric", "20")
        command("ip", "route", "add", "default", "via", "10.9.9.9", "metric", "10")
        command("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "one")
        assert default_gateways() == (
            Gateway("one", ip_address("10.9.9.9")),
            Gateway("one", ip_address("10.9.0.1")),
            Gateway("one", ip_address("fe80::1%one")),
        )

    in_namespace(test)


def test_the_kernel_s_own_list_is_the_c_library_s_with_flags() -> None:
    def test() -> None:
        command("ip", "link", "add", "one", "type", "veth", "peer", "name", "two")
        command("ip", "addr", "add", "10.9.0.2/16", "dev", "one", "label", "one:alias")
        command("ip", "addr", "add", "10.9.0.3/16", "dev", "one")  # a second one, which is no temporary one
        command("ip", "addr", "add", "10.9.1.1", "peer", "10.9.1.2/31", "dev", "two")
        command("ip", "addr", "add", "2001:db8::5/64", "dev", "two", "preferred_lft", "0")
        many = "".join(f"addr add fd00::{number:x}/64 dev two nodad\n" for number in range(1, 1500))
        subprocess.run(["ip", "-batch", "-"], input=many.encode(), check=True)
        told = INTERFACES.assigned()
        plain = [replace(each, running=True, temporary=False, deprecated=False, tentative=False) for each in told]
        assert plain == list(Interfaces().assigned())
        assert len(told) > 1500
        flagged = {str(each.ip) for each in told if each.temporary or each.deprecated}
        assert flagged == {"2001:db8::5"}

    in_namespace(test)


def test_where_netlink_is_denied_the_c_library_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied() -> Iterator[bytes]:
        raise PermissionError

    monkeypatch.setattr(linux, "_address_messages", denied)
    assert INTERFACES.assigned() == Interfaces().assigned() != ()


def test_without_proc_there_are_no_gateways_and_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert INTERFACES.blind_spots() == ()
    monkeypatch.setattr(linux, "PROC_NET", tmp_path)
    assert default_gateways() == ()
    assert "port mappings" in "".join(INTERFACES.blind_spots())
    assert enumerate_interfaces()


def test_netlink_announces_a_burst_of_changes_once() -> None:
    async def main() -> None:
        changes: list[float] = []
        changed = asyncio.Event()

        def note() -> None:
            changes.append(time.monotonic())
            changed.set()

        watcher = InterfaceWatcher(note, quiet=0.05, debounce=5)
        for number in range(5):
            command("ip", "addr", "add", f"127.9.9.{number}/32", "dev", "lo")
        last = time.monotonic()
        await changed.wait()
        assert changes[0] - last >= 0.04
        command("ip", "addr", "add", "127.8.8.8/32", "dev", "lo")
        command("ip", "addr", "del", "127.8.8.8/32", "dev", "lo")
        await asyncio.sleep(0.1)
        assert len(changes) == 1  # in the end nothing had changed
        watcher.close()
        watcher.close()
        command("ip", "addr", "add", "127.7.7.7/32", "dev", "lo")
        await asyncio.sleep(0.1)
        assert len(changes) == 1

    def test() -> None:
        asyncio.run(asyncio.wait_for(main(), 10))

    in_namespace(test)


def test_changes_without_an_end_are_announced_all_the_same() -> None:
    async def main() -> None:
        changed = asyncio.Event()
        watcher = InterfaceWatcher(changed.set, quiet=5, debounce=0.05)
        for number in itertools.count(1):  # each one is a change, whenever it is looked at
            command("ip", "addr", "add", f"127.8.8.{number}/32", "dev", "lo")
            await asyncio.sleep(0.01)
            if changed.is_set():
                break
        watcher.close()

    def test() -> None:
        asyncio.run(asyncio.wait_for(main(), 4))

    in_namespace(test)


async def test_without_netlink_it_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "_change_socket", lambda: None)
    state, changes = ["before"], asyncio.Event()
    current: Callable[[], object] = lambda: state[0]  # noqa: E731
    watcher = InterfaceWatcher(changes.set, poll=0.005, current=current)
    await asyncio.sleep(0.02)
    assert not changes.is_set()
    state[0] = "after"
    await asyncio.wait_for(changes.wait(), 5)
    watcher.close()
    changes.clear()
    state[0] = "later"
    await asyncio.sleep(0.02)
    assert not changes.is_set()
