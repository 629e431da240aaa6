"""The models beside the original: the same questions to Linux's masquerade (nftables) and to our kinds.

The Linux router is a namespace of its own between an inside and an outside namespace, joined by veth pairs. Each
scenario returns what it saw, and must have seen the same in both worlds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from needs import need_programs
from wires import QUIET, Tcp, Udp, closing

from warpgate.core.search.links import give_up
from warpgate.lab.line import Quality
from warpgate.lab.namespace import Namespace
from warpgate.lab.topology import Lab
from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.net.tcp import SystemTcpStream

pytestmark = pytest.mark.lab
EXTERNAL = ip_address("203.0.113.1")


@dataclass(frozen=True)
class Place:
    """What the socket helpers need of a host."""

    namespace: Namespace
    addresses: tuple[IPAddress, ...]

    def entered(self) -> contextlib.AbstractContextManager[None]:
        return self.namespace.entered()


@dataclass(frozen=True)
class World:
    """A router with two hosts inside and two outside."""

    inside: tuple[Place, Place]
    outside: tuple[Place, Place]


Scenario = Callable[[World], Awaitable[object]]

SETUP = """
ip link add in0 type veth peer name eth0 netns {inside}
ip link add out0 type veth peer name eth0 netns {outside}
ip addr add 192.168.1.1/24 dev in0
ip addr add 203.0.113.1/24 dev out0
ip link set in0 up
ip link set out0 up
nft -f -
"""
RULES = """
table ip lab {{
  chain post {{ type nat hook postrouting priority srcnat; oifname "out0" masquerade; }}
  chain input {{ type filter hook input priority filter; policy {policy}; {extra} }}
  chain forward {{ type filter hook forward priority filter; policy drop;
    iifname "in0" accept; ct state established,related accept; }}
}}
"""
POLICIES = {
    "masquerade": ("drop", ""),
    "masquerade+rst": (
        "drop",
        'iifname "out0" meta l4proto tcp reject with tcp reset; iifname "out0" reject;',
    ),
    "masquerade+accept": ("accept", ""),
}


def shell(namespace: Namespace, script: str, given: str = "") -> None:
    with namespace.entered():
        subprocess.run(["sh", "-ec", script], input=given, text=True, check=True, capture_output=True)


@contextlib.contextmanager
def linux(kind: str) -> Iterator[World]:
    router, inside, outside = Namespace(), Namespace(), Namespace()
    try:
        # `ip ... netns` takes a process id or a name; a path to our descriptor serves as the latter.
        here = f"/proc/{os.getpid()}/fd"
        policy, extra = POLICIES[kind]
        setup = SETUP.format(inside=f"{here}/{inside.fd}", outside=f"{here}/{outside.fd}")
        shell(router, setup, RULES.format(policy=policy, extra=extra))
        with router.entered(), open("/proc/sys/net/ipv4/ip_forward", "w") as forward:
            forward.write("1")
        for namespace, first, second in (
            (inside, "192.168.1.2", "192.168.1.3"),
            (outside, "203.0.113.8", "203.0.113.9"),
        ):
            shell(
                namespace,
                f"ip addr add {first}/24 dev eth0; ip addr add {second}/24 dev eth0; ip link set eth0 up",
            )
        shell(inside, "ip route add default via 192.168.1.1")
        places = [
            Place(namespace, (ip_address(ip),))
            for namespace, ip in (
                (inside, "192.168.1.2"),
                (inside, "192.168.1.3"),
                (outside, "203.0.113.8"),
                (outside, "203.0.113.9"),
            )
        ]
        yield World((places[0], places[1]), (places[2], places[3]))
    finally:
        for namespace in (router, inside, outside):
            namespace.close()


@contextlib.asynccontextmanager
async def ours(kind: str) -> AsyncIterator[World]:
    async with Lab(link=Quality(delay=0.001, hops=0)) as lab:
        home = lab.add_site("home", kind)
        assert home.routers[0].outside[0] == EXTERNAL
        inside = [lab.add_host(name, home) for name in ("a", "b")]
        outside = [lab.add_host(name) for name in ("x", "y")]
        places = [Place(host.namespace, host.addresses) for host in (*inside, *outside)]
        yield World((places[0], places[1]), (places[2], places[3]))


async def arrives(sender: Udp, to: Endpoint, receiver: Udp) -> Endpoint | None:
    """Send and see from where it came, None when it did not."""
    sender.send(to)
    with contextlib.suppress(TimeoutError):
        return (await receiver.receive(QUIET))[1]
    return None


async def joined(world: World) -> None:
    """The kernel brings veth pairs into service when it gets round to it, up to a second later."""
    inside, outside = Udp(world.inside[0]), Udp(world.outside[0])
    with closing(inside, outside):
        async with asyncio.timeout(10):
            while (seen := await arrives(inside, outside.local, outside)) is None:
                pass
            while await arrives(outside, seen, inside) is None:
                pass


async def ports_are_kept_for_every_destination(world: World) -> object:
    inside, outside = Udp(world.inside[0], 5000), [Udp(place, 7) for place in world.outside]
    with closing(inside, *outside):
        return [await arrives(inside, wire.local, wire) for wire in outside]


async def two_hosts_share_a_port_only_towards_different_remotes(world: World) -> object:
    insides, outside = (
        [Udp(place, 5000) for place in world.inside],
        [Udp(place, 7) for place in world.outside],
    )
    with closing(*insides, *outside):
        first = await arrives(insides[0], outside[0].local, outside[0])
        elsewhere = await arrives(insides[1], outside[1].local, outside[1])
        clashing = await arrives(insides[1], outside[0].local, outside[0])
        assert clashing is not None
        return first, elsewhere, clashing.port != 5000, clashing.port >= 1024


async def strangers_are_filtered_by_address_and_port(world: World) -> object:
    inside, outside = Udp(world.inside[0], 5000), Udp(world.outside[0], 7)
    port, address = Udp(world.outside[0], 8), Udp(world.outside[1], 7)
    with closing(inside, outside, port, address):
        mapped = await arrives(inside, outside.local, outside)
        assert mapped is not None
        return [await arrives(wire, mapped, inside) for wire in (outside, port, address)]


async def an_early_packet_from_outside(world: World) -> object:
    """First-packet poisoning, on the routers that accept."""
    inside, outside, other = Udp(world.inside[0], 5000), Udp(world.outside[0], 7), Udp(world.outside[1], 7)
    with closing(inside, outside, other):
        outside.send(Endpoint(EXTERNAL, 5000))
        await asyncio.sleep(0.05)
        seen = await arrives(inside, outside.local, outside)
        assert seen is not None
        unrelated = await arrives(inside, other.local, other)
        back = await arrives(outside, Endpoint(EXTERNAL, 5000), inside)
        moved = await arrives(outside, seen, inside)
        assert unrelated is not None
        return seen.port == 5000, unrelated.port == seen.port, back, moved


async def an_unsolicited_datagram_and_its_answer(world: World) -> object:
    outside = Udp(world.outside[0], 7)
    with closing(outside):
        outside.socket.connect((str(EXTERNAL), 5000))
        outside.socket.send(b"?")
        return await outcome(outside.receive(QUIET))


async def an_unsolicited_syn(world: World) -> object:
    outside = Tcp(world.outside[0])
    with closing(outside):
        return await outcome(outside.connect(Endpoint(EXTERNAL, 5000), QUIET))


async def a_closed_port_outside(world: World) -> object:
    udp, tcp = Udp(world.inside[0]), Tcp(world.inside[0])
    target = Endpoint(world.outside[0].addresses[0], 9)
    with closing(udp, tcp):
        udp.socket.connect(target.sockaddr)
        udp.socket.send(b"?")
        return await outcome(udp.receive(QUIET)), await outcome(tcp.connect(target, QUIET))


async def a_reset_closes_the_way_back(world: World) -> object:
    """After an outside port refused our SYN, its own SYN is a stranger's again."""
    inside = Tcp(world.inside[0], 5000)
    with closing(inside):
        refused = await outcome(inside.connect(Endpoint(world.outside[0].addresses[0], 6000)))
    outside = Tcp(world.outside[0], 6000)
    with closing(outside):
        return refused, await outcome(outside.connect(Endpoint(EXTERNAL, 5000), QUIET))


async def outcome(waiting: Awaitable[object]) -> str:
    try:
        await waiting
    except TimeoutError:
        return "silence"
    except OSError as error:
        return type(error).__name__
    return "done"


SCENARIOS: tuple[Scenario, ...] = (
    ports_are_kept_for_every_destination,
    two_hosts_share_a_port_only_towards_different_remotes,
    strangers_are_filtered_by_address_and_port,
    an_early_packet_from_outside,
    an_unsolicited_datagram_and_its_answer,
    an_unsolicited_syn,
    a_closed_port_outside,
    a_reset_closes_the_way_back,
)


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_like_linux(privileges: None, scenario: Scenario, kind: str) -> None:
    need_programs("nft", "ip")
    with linux(kind) as world:
        await joined(world)
        wanted = await scenario(world)
    async with ours(kind) as world:
        seen = await scenario(world)
    assert normal(seen) == normal(wanted)


def normal(value: object) -> str:
    """The two worlds' outside hosts have different addresses: compare ports and which host it was."""
    text = str(value)
    for number, names in enumerate((("203.0.113.8", "198.51.100.1"), ("203.0.113.9", "198.51.100.2"))):
        for name in names:
            text = text.replace(name, f"outside-{number}").replace(repr(ip_address(name)), f"outside-{number}")
    return text


FIRST_SYN_LOST = "table ip lost { chain input { type filter hook input priority filter; tcp flags syn drop; }; }"


async def punched(world: World) -> tuple[Tcp, Tcp]:
    """Both ends of a connection on the same ports each time, opened from both sides at once: the outside's SYN goes
    first, and is dropped; the inside's meets it.
    """
    inside, outside = Tcp(world.inside[0], 5000), Tcp(world.outside[0], 6000)
    opening = asyncio.ensure_future(outside.connect(Endpoint(EXTERNAL, 5000)))
    await asyncio.sleep(0.05)
    await inside.connect(outside.local)
    await opening
    return inside, outside


@pytest.mark.parametrize(
    ("end", "opens"), [(SystemTcpStream.abort, False), (give_up, True)], ids=["RST", "FIN and RST"]
)
async def test_the_ports_of_a_link_that_the_far_end_gave_up_can_be_punched_again(
    privileges: None, end: Callable[[SystemTcpStream], None], opens: bool
) -> None:
    """Our SYN opens the router again; it is lost further on, and the far end's comes in. After a bare RST this side's
    own SYN changes nothing in Linux's table for 10 s.
    """
    need_programs("nft", "ip")
    with linux("masquerade") as world:
        await joined(world)
        inside, outside = await punched(world)
        end(SystemTcpStream(outside.socket, outside.local, Endpoint(EXTERNAL, 5000)))
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_recv(inside.socket, 1)
        inside.socket.close()
        shell(world.outside[0].namespace, "nft -f -", FIRST_SYN_LOST)
        inside, outside = Tcp(world.inside[0], 5000), Tcp(world.outside[0], 6000)
        with closing(inside, outside):
            opening = asyncio.ensure_future(inside.connect(outside.local))
            await asyncio.sleep(0.05)
            shell(world.outside[0].namespace, "nft delete table ip lost")
            arrived = await outcome(outside.connect(Endpoint(EXTERNAL, 5000), QUIET))  # the SYN is repeated after 1 s
            opening.cancel()
        assert (arrived == "done") is opens
