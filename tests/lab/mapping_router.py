"""A Linux router that maps ports on request: masquerade by nftables, and the real miniupnpd.

Three namespaces joined by veth pairs: inside (192.168.1.2, 2001:db8:1::2), the router, outside (45.0.0.8,
2001:db8:2::8). The outside is no documentation network, since miniupnpd maps nothing on an address that it knows to be
unreachable; nothing leaves the namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from warpgate.lab.host import Host
from warpgate.lab.servers import SEARCH

EXTERNAL = "45.0.0.1"
INSIDE6 = "2001:db8:1::2"
UP_LIMIT = 10.0
LOG_POLL = 0.02

SETUP = """
ip link add in0 type veth peer name eth0 netns {inside}
ip link add out0 type veth peer name eth0 netns {outside}
ip addr add 192.168.1.1/24 dev in0
ip addr add {external}/24 dev out0
ip addr add 2001:db8:1::1/64 dev in0 nodad
ip addr add 2001:db8:2::1/64 dev out0 nodad
ip link set in0 up
ip link set out0 up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
"""
HOST = """
echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
ip addr add {v4}/24 dev eth0
ip addr add {v6}/64 dev eth0 nodad
ip link set eth0 up
"""
ROUTES = """
ip route add default via 192.168.1.1
ip -6 route add default via 2001:db8:1::1
"""
RULES = """
flush ruleset
table inet filter {
  chain forward { type filter hook forward priority 0; policy drop;
    iifname "in0" accept; ct state established,related accept; jump miniupnpd; }
  chain miniupnpd { }
  chain input { type filter hook input priority 0; policy accept; iifname "out0" ct state new drop; }
  chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
  chain postrouting { type nat hook postrouting priority 100; jump postrouting_miniupnpd;
    meta nfproto ipv4 oifname "out0" masquerade; }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
}
"""
CONFIG = """
ext_ifname=out0
listening_ip=in0
enable_upnp={upnp}
enable_natpmp={pcp}
force_igd_desc_v1={version1}
min_lifetime=2
max_lifetime=86400
secure_mode=yes
system_uptime=no
uuid=5ad6dd6c-9a5c-4d5b-a5d2-6f6b2b8d7f10
allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


@dataclass
class MappingRouter:
    """The router, and the hosts on both its sides."""

    router: Host
    inside: Host
    outside: Host
    directory: Path
    process: asyncio.subprocess.Process | None = None

    def configure(self, *, upnp: bool = True, pcp: bool = True, version: int = 2) -> None:
        """What miniupnpd offers when it is started next."""
        said = {True: "yes", False: "no"}
        text = CONFIG.format(upnp=said[upnp], pcp=said[pcp], version1=said[version == 1])
        (self.directory / "miniupnpd.conf").write_text(text)

    async def start(self, extra: str = "") -> None:
        """With no memory of anything: fresh tables, with `extra` beside them."""
        shell(self.router, "nft -f -", RULES + extra)
        program = shutil.which("miniupnpd", path=SEARCH)
        assert program is not None
        command = [
            program,
            "-d",
            "-f",
            str(self.directory / "miniupnpd.conf"),
            "-P",
            str(self.directory / "pid"),
        ]
        with (self.directory / "log").open("wb") as log:
            self.process = await self.router.popen(command, stdout=log.fileno(), stderr=log.fileno())
        deadline = time.monotonic() + UP_LIMIT
        while "istening" not in self.log and time.monotonic() < deadline:
            assert self.process.returncode is None, self.log
            await asyncio.sleep(LOG_POLL)

    async def stop(self, *, kill: bool = False) -> None:
        assert self.process is not None
        await self.router.stop(self.process, kill=kill)

    async def restart(self) -> None:
        """A power cut: what it had mapped is forgotten."""
        await self.stop(kill=True)
        await self.start()

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def rules(self) -> str:
        """What miniupnpd has put into the tables."""
        listing = shell(self.router, "nft list chain inet filter prerouting_miniupnpd")
        return listing + shell(self.router, "nft list chain inet filter miniupnpd")

    def forwards(self, port: int) -> set[str]:
        """Which transports are translated to the inside host on this internal port."""
        lines = [line for line in self.rules().splitlines() if f"dnat ip to 192.168.1.2:{port}" in line]
        # nft shows miniupnpd's comparison of the protocol field (byte 9 of the IP header) as it is.
        return {name for name, number in (("tcp", "0x6"), ("udp", "0x11")) for line in lines if f" {number} " in line}


def shell(host: Host, script: str, given: str = "") -> str:
    with host.entered():
        done = subprocess.run(["sh", "-ec", script], input=given, text=True, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def carrier(host: Host, name: str) -> None:
    """The kernel brings veth pairs into service when it gets round to it, up to a second later."""
    deadline = time.monotonic() + UP_LIMIT
    while "state UP" not in shell(host, f"ip -o link show {name}"):
        assert time.monotonic() < deadline, f"{name} does not come up"
        await asyncio.sleep(LOG_POLL)


@contextlib.asynccontextmanager
async def mapping_router() -> AsyncIterator[MappingRouter]:
    """All of it but miniupnpd itself, which is configured and started by the test."""
    router, inside, outside = hosts = [Host(name) for name in ("router", "inside", "outside")]
    try:
        with tempfile.TemporaryDirectory(prefix="warpgate-lab-") as directory:
            # `ip ... netns` takes a process id or a name; a path to our descriptor serves as the latter.
            here = f"/proc/{os.getpid()}/fd"
            names = {"inside": f"{here}/{inside.namespace.fd}", "outside": f"{here}/{outside.namespace.fd}"}
            shell(router, SETUP.format(external=EXTERNAL, **names))
            shell(inside, HOST.format(v4="192.168.1.2", v6=INSIDE6) + ROUTES)
            shell(
                outside,
                HOST.format(v4="45.0.0.8", v6="2001:db8:2::8") + "ip -6 route add default via 2001:db8:2::1",
            )
            for host, name in ((router, "in0"), (router, "out0"), (inside, "eth0"), (outside, "eth0")):
                await carrier(host, name)
            try:
                yield MappingRouter(router, inside, outside, Path(directory))
            finally:
                for host in hosts:
                    await host.close()
                hosts = []
    finally:
        for host in hosts:
            await host.close()
