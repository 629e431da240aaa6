"""Routing tables of macOS and FreeBSD, made by the structures of their headers."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, ip_address

import pytest

from warpgate.platform.bsd_wire import DARWIN, FREEBSD, RTF_GATEWAY, RTF_UP, Layout, default_routes
from warpgate.platform.interfaces import DefaultRoute

STATIC = 0x800
NAMES = {4: "en0", 7: "utun3"}


def name_of(index: int) -> str:
    try:
        return NAMES[index]
    except KeyError:
        raise OSError("no such interface") from None


def v4(text: str) -> bytes:
    return struct.pack("=BBH4s8x", 16, 2, 0, ip_address(text).packed)


def v6(layout: Layout, text: str, scope: int = 0) -> bytes:
    raw = bytearray(ip_address(text).packed)
    if scope:
        raw[2:4] = scope.to_bytes(2, "big")  # as the kernels embed it
    return struct.pack("=BBHI16sI", 28, layout.af_inet6, 0, 0, bytes(raw), 0)


def message(layout: Layout, *addresses: bytes, index: int = 4, flags: int = RTF_UP | RTF_GATEWAY | STATIC) -> bytes:
    """`addresses`: destination, gateway, netmask; one without a length is four or eight zeros."""
    body = b"".join(each + bytes(-len(each) % layout.align) if each else bytes(layout.align) for each in addresses)
    present = (1 << len(addresses)) - 1
    head = struct.pack("=HBBHHii", layout.head + len(body), 5, 4, index, 0, flags, present)
    return head.ljust(layout.head, b"\0") + body


@pytest.mark.parametrize("layout", [DARWIN, FREEBSD], ids=["darwin", "freebsd"])
def test_default_routes_of_both_families(layout: Layout) -> None:
    table = (
        message(layout, v6(layout, "::"), v6(layout, "fe80::1", scope=4), b"")
        + message(layout, v4("0.0.0.0"), v4("192.168.1.1"), b"")
        + message(layout, v4("10.0.0.0"), v4("192.168.1.9"), b"\x05\x02\x00\x00\xff")  # another destination
        + message(layout, v4("0.0.0.0"), v4("10.8.0.1"), b"\x05\x02\x00\x00\x80")  # half of all: 0.0.0.0/1
        + message(layout, v4("0.0.0.0"), struct.pack("=BBHBBBB12x", 20, 18, 4, 6, 0, 0, 0), b"")  # to a link
        + message(layout, v4("0.0.0.0"), v4("172.16.0.1"), b"", flags=RTF_GATEWAY)  # down
        + message(layout, v4("0.0.0.0"), v4("172.16.0.2"), b"", index=99)  # its interface is gone
        + message(layout, v4("0.0.0.0"), v4("192.168.1.1"), b"")  # once more
    )
    assert default_routes(table, layout, name_of) == (
        DefaultRoute("en0", ip_address("192.168.1.1")),
        DefaultRoute("en0", IPv6Address("fe80::1%en0")),
    )


def test_routes_of_an_interface_alone_come_last() -> None:
    scoped = RTF_UP | RTF_GATEWAY | DARWIN.scoped
    table = message(DARWIN, v4("0.0.0.0"), v4("10.8.0.1"), b"", index=7, flags=scoped) + message(
        DARWIN, v4("0.0.0.0"), v4("192.168.1.1"), b""
    )
    assert [str(route.router) for route in default_routes(table, DARWIN, name_of)] == [
        "192.168.1.1",
        "10.8.0.1",
    ]


@pytest.mark.parametrize("layout", [DARWIN, FREEBSD], ids=["darwin", "freebsd"])
def test_what_is_cut_short_ends_it(layout: Layout) -> None:
    table = message(layout, v4("0.0.0.0"), v4("192.168.1.1"), b"")
    for size in range(len(table)):
        assert len(default_routes(table[:size], layout, name_of)) <= 1
    assert default_routes(bytes(1000), layout, name_of) == ()
