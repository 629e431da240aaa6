"""The real program behind a gateway that attacks its client: what it costs, and who is talked to."""

from __future__ import annotations

import asyncio
import gzip
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import chain, repeat
from pathlib import Path

import pytest
from mapping_router import MappingRouter, mapping_router
from needs import need_programs

from warpgate.lab.host import Host
from warpgate.model.endpoint import Endpoint
from warpgate.net.network import TcpStream
from warpgate.net.system import SystemNetwork
from warpgate.proto.device_xml import LARGEST_DOCUMENT
from warpgate.proto.igd import IP_CONNECTION_1
from warpgate_testing.upnp_router import DESCRIBED_AT, UpnpRouter, http_response

pytestmark = pytest.mark.lab
PATIENCE = 40.0
LARGEST_RSS = 100 * 2**20
# What the two kernels' buffers take beyond what the program reads: net.ipv4.tcp_wmem's and tcp_rmem's last values.
KERNEL_BUFFERS = 12 * 2**20
PORT = 20_000
PLAIN = b"HTTP/1.1 200 OK\r\n\r\n"
VICTIM, OTHER_VICTIM = "127.0.0.1:8080", "45.0.0.8:8080"


class Victim:
    """A program of another host, or of our own, that must not be talked to."""

    def __init__(self, host: Host, local: str) -> None:
        self.visits = 0
        with host.entered():
            self._listener = SystemNetwork().listen_tcp(Endpoint.parse(local), self._accepted)

    def _accepted(self, stream: TcpStream) -> None:
        self.visits += 1
        stream.abort()

    def close(self) -> None:
        self._listener.close()


@dataclass
class Scene:
    gateway: UpnpRouter
    victims: list[Victim]
    program: asyncio.subprocess.Process
    said: bytes = b""

    async def until_given_up(self) -> None:
        """The program has had the attack, and says that UPnP is of no use here."""
        assert self.program.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while b"192.168.1.1 (UPnP)" not in self.said:
                line = await self.program.stdout.readline()
                assert line, self.said
                self.said += line

    def rss(self) -> int:
        """The most memory that the program had, in bytes."""
        status = Path(f"/proc/{self.program.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


@pytest.fixture
async def router(privileges: None) -> AsyncIterator[MappingRouter]:
    need_programs("nft", "ip")
    async with mapping_router() as made:
        yield made


@asynccontextmanager
async def attacked(router: MappingRouter, data: Path, attack: Callable[[UpnpRouter], None]) -> AsyncIterator[Scene]:
    with router.router.entered():
        gateway = UpnpRouter(SystemNetwork(), ip_address("192.168.1.1"))
    gateway.external = "45.0.0.1"
    attack(gateway)
    victims = [Victim(router.inside, VICTIM), Victim(router.outside, OTHER_VICTIM)]
    environment = {
        "WARPGATE_DATA": str(data),
        "WARPGATE_BROKER": "",
        "WARPGATE_STUN": "",
        "XDG_CONFIG_HOME": str(data),
    }
    command = [sys.executable, "-m", "warpgate", "listen", "--echo", "--json", "-v", "--port", str(PORT)]
    program = await router.inside.popen(
        command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        yield Scene(gateway, victims, program)
    finally:
        await router.inside.stop(program)
        for victim in victims:
            victim.close()
        await gateway.close()


def away(method: str, status: int, victim: str) -> Callable[[UpnpRouter], None]:
    response = http_response(status, "", f"Location: http://{victim}/")

    def attack(gateway: UpnpRouter) -> None:
        gateway.override = lambda asked, path: [response] if asked == method else None

    return attack


def endless(head: bytes, piece: bytes, pause: float = 0.0) -> Callable[[UpnpRouter], None]:
    def attack(gateway: UpnpRouter) -> None:
        gateway.override = lambda method, path: chain([head], repeat(piece))
        gateway.pause = pause

    return attack


def elsewhere(victim: str) -> Callable[[UpnpRouter], None]:
    def attack(gateway: UpnpRouter) -> None:
        gateway.controls = [(IP_CONNECTION_1, f"http://{victim}/ctl/IPConn")]

    return attack


def base(victim: str) -> Callable[[UpnpRouter], None]:
    def attack(gateway: UpnpRouter) -> None:
        gateway.base = f"http://{victim}/"
        gateway.conditions["AddPortMapping"] = lambda _: 606

    return attack


def location(victim: str) -> Callable[[UpnpRouter], None]:
    def attack(gateway: UpnpRouter) -> None:
        gateway.location = f"http://{victim}{DESCRIBED_AT}"

    return attack


BOMB = gzip.compress(b"<a/>" * (4 * 2**20))
ATTACKS = {
    **{
        f"{status} {method} to {victim}": away(method, status, victim)
        for status, method, victim in ((302, "GET", VICTIM), (307, "POST", VICTIM))
    },
    "control at our loopback": elsewhere(VICTIM),
    "base at another host": base(OTHER_VICTIM),
    "description at our loopback": location(VICTIM),
    "endless body": endless(PLAIN, b"x" * 65_536),
    "two million tags": endless(PLAIN + b"<root>", b"<a/>" * 16_384),
    "chunks of a byte": endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 8192),
    "gzip bomb": endless(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", BOMB),
    "slow drip": endless(PLAIN, b"<", pause=1.0),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_nobody_is_hurt(router: MappingRouter, tmp_path: Path, name: str) -> None:
    async with attacked(router, tmp_path, ATTACKS[name]) as scene:
        await scene.until_given_up()
        assert [victim.visits for victim in scene.victims] == [0, 0]
        assert scene.gateway.searches
        if "description" not in name:
            assert scene.gateway.requests
        assert scene.rss() < LARGEST_RSS
        assert scene.gateway.sent < LARGEST_DOCUMENT + KERNEL_BUFFERS
        assert b"\x1b" not in scene.said


async def test_control_characters_do_not_reach_the_terminal(router: MappingRouter, tmp_path: Path) -> None:
    def attack(gateway: UpnpRouter) -> None:
        gateway.reason = "no&#x9b;2J&#x202e;&#133;\u009b31m" + "x" * 800
        gateway.conditions["AddPortMapping"] = lambda _: 606

    async with attacked(router, tmp_path, attack) as scene:
        await scene.until_given_up()
        text = scene.said.decode()
        assert "error 606" in text
        assert not [character for character in text if not (character.isprintable() or character == "\n")]


async def test_a_router_that_only_maps_for_ever_is_cleaned_up(router: MappingRouter, tmp_path: Path) -> None:
    """Error 725 from a router that is no enemy: mapped without a lease, and deleted when the program ends."""

    def attack(gateway: UpnpRouter) -> None:
        gateway.conditions["AddPortMapping"] = lambda arguments: 725 * (arguments["NewLeaseDuration"] != "0")

    async with attacked(router, tmp_path, attack) as scene:
        async with asyncio.timeout(PATIENCE):
            while len(scene.gateway.table) < 2:  # noqa: ASYNC110 - another process's doing
                await asyncio.sleep(0.05)
        assert {entry.lease for entry in scene.gateway.table.values()} == {0}
        await router.inside.stop(scene.program)
        assert scene.gateway.table == {}
