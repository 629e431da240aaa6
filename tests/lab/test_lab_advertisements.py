"""Prefixes that a router announces and withdraws (RFC 4861, RFC 4862): real advertisements, and the kernel's answer."""

from __future__ import annotations

import asyncio
import struct
import time
from ipaddress import IPv6Address, IPv6Network, ip_address
from pathlib import Path

import pytest
from needs import need_programs

from sites import pair
from warpgate.lab.host import Host
from warpgate.lab.packet import parse
from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

ROUTER, ALL_NODES = IPv6Address("fe80::1"), IPv6Address("ff02::1")
ICMPV6, ROUTER_ADVERTISEMENT, PREFIX_INFORMATION, AUTONOMOUS = 58, 134, 3, 0x40
HOP_LIMIT = 255  # RFC 4861 section 6.1.2
LASTING, WITHDRAWN = (7200, 3600), (7200, 0)  # valid and preferred, seconds
BEFORE, AFTER = IPv6Network("2001:db8:77::/64"), IPv6Network("2001:db8:78::/64")
PATIENCE = 10.0
SETTLED = 1.0


def advertisement(prefix: IPv6Network, lifetimes: tuple[int, int]) -> bytearray:
    """An IPv6 packet."""
    body = struct.pack("!BBHBBHII", ROUTER_ADVERTISEMENT, 0, 0, 64, 0, 0, 0, 0)
    body += struct.pack("!BBBBIII", PREFIX_INFORMATION, 4, 64, AUTONOMOUS, *lifetimes, 0)
    body += prefix.network_address.packed
    pseudo = ROUTER.packed + ALL_NODES.packed + struct.pack("!II", len(body), ICMPV6)
    total = sum(struct.unpack(f"!{(len(pseudo) + len(body)) // 2}H", pseudo + body))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), ICMPV6, HOP_LIMIT)
    return bytearray(header + ROUTER.packed + ALL_NODES.packed + body)


class Announced:
    """A host that has the addresses which the kernel makes of its router's prefixes, and no others."""

    def __init__(self, lab: Lab, host: Host) -> None:
        self.lab, self.host = lab, host
        [self.attached] = host.attached
        with host.entered():
            settings = Path("/proc/sys/net/ipv6/conf/net0")
            (settings / "accept_ra").write_text("1")
            (settings / "addr_gen_mode").write_text("3")  # an address of its own making for each prefix

    async def announce(self, prefix: IPv6Network) -> IPv6Address:
        """A new one; the address that the host has made of it."""
        uplink, routers, access = self.attached.uplink, self.attached.routers, self.attached.access
        uplink.deliver(parse(advertisement(prefix, LASTING)))
        async with asyncio.timeout(PATIENCE):
            while (address := self.address(prefix)) is None:  # noqa: ASYNC110 - what the kernel does
                await asyncio.sleep(0.02)
        self.lab._announce(address, uplink.deliver, routers, access)
        return address

    def deprecate(self, prefix: IPv6Network) -> None:
        self.attached.uplink.deliver(parse(advertisement(prefix, WITHDRAWN)))

    def address(self, prefix: IPv6Network) -> IPv6Address | None:
        with self.host.entered():
            rows = Path("/proc/net/if_inet6").read_text().splitlines()
        addresses = [IPv6Address(bytes.fromhex(row.split()[0])) for row in rows]
        return next((address for address in addresses if address in prefix), None)

    async def remove(self, address: IPv6Address) -> None:
        """As when its time is over, which an advertisement alone cannot bring nearer than two hours."""
        done = await self.host.run(("ip", "address", "delete", f"{address}/64", "dev", "net0"))
        assert done.returncode == 0, done.stderr
        self.lab.internet.withdraw(address)


@pytest.mark.parametrize("routed", [True, False], ids=["with notice", "at once"])
async def test_a_durable_pipe_goes_to_the_prefix_that_comes(lab: Lab, routed: bool) -> None:
    """`routed`: whether the prefix before leads anywhere while it is deprecated (RFC 4192), or not (RFC 8978)."""
    need_programs("ip")
    async with pair(lab, "firewalled", "firewalled", families="6") as nodes:
        home = Announced(lab, nodes.a.host)
        old = await home.announce(BEFORE)
        static = home.attached.addresses[0]
        assert isinstance(static, IPv6Address)
        await home.remove(static)
        await nodes.fresh()
        done = await nodes.a.connect(nodes.b.address, keep=True, durable=True)
        assert done.ok, done.report
        assert ip_of((await nodes.a.path(0)).local) == old
        await nodes.a.count(0)
        await asyncio.sleep(SETTLED)
        since = time.monotonic()
        if not routed:
            lab.internet.withdraw(old)
        new = await home.announce(AFTER)
        home.deprecate(BEFORE)
        async with asyncio.timeout(PATIENCE):
            while ip_of((await nodes.a.path(0)).local) != new:  # noqa: ASYNC110 - what a process says
                await asyncio.sleep(0.1)
        await home.remove(old)
        await asyncio.sleep(SETTLED)
        counted = await nodes.a.counted(since, stop=True)
    assert counted.fault == ""
    assert counted.received == counted.sent > 100
    assert counted.worst < PATIENCE


def ip_of(endpoint: str) -> object:
    return ip_address(endpoint.rpartition(":")[0].strip("[]"))
