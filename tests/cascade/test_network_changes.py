"""What a node does when its networks change under it, and when it has IPv6 alone: in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from cascade_world import OVER_TCP, OVER_UDP, World, connected, identity, virtual

from warpgate.config import Config
from warpgate.core.node import Node
from warpgate.errors import ConnectFailed, NetworkError, PipeClosed
from warpgate.events import Event, LinkVerified, Nat64Found, PluginEnded, ServerFailed
from warpgate.model.endpoint import Endpoint, Mode, Transport
from warpgate.model.translation import WELL_KNOWN_NAME
from warpgate.net.network import Interface
from warpgate.proto.stun import StunMessage
from warpgate_testing.internet import MemoryInternet, MemoryNetwork, PathSpec
from warpgate_testing.servers import MemoryStun

QUIC = {"mode": Mode.STREAM, "transport": Transport.UDP}
MADE_UP = ("192.0.0.170", "192.0.0.171", "64:ff9b::192.0.0.170", "64:ff9b::192.0.0.171")
REAL = ("192.0.0.170", "192.0.0.171")
OWN = "192.0.0.1"


@pytest.mark.parametrize("options", [OVER_UDP, QUIC], ids=["datagram", "quic"])
def test_the_interface_goes_between_nomination_and_pipe(options: dict[str, Any]) -> None:
    """On the initiator's side: the connect fails, and the checks do not stay behind."""

    async def main() -> None:
        async with World("public", "public") as world:
            udp = world.a.run.udp
            [port] = udp.ports

            def unplug(event: Event) -> None:
                if isinstance(event, PluginEnded) and event.outcome == "won":
                    udp.close_port(port.base)

            world.a.run.context.observers.append(unplug)
            with pytest.raises(ConnectFailed, match="is closed"):
                await connected(world, **options)
            assert udp.sessions == {}
            await world.quiet()

    virtual(main)


def test_the_responders_interface_goes_in_that_moment() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            udp = world.b.run.udp
            [port] = udp.ports

            def unplug(event: Event) -> None:
                chosen = [checks for checks in udp.sessions.values() if checks.agent.selected is not None]
                if isinstance(event, LinkVerified) and chosen:
                    udp.close_port(port.base)

            world.b.run.context.observers.append(unplug)
            pipe = await world.a.node.connect(world.b.node.address, **OVER_UDP)
            with pytest.raises(PipeClosed):  # consent
                await pipe.recv(timeout=60.0)
            await world.quiet()

    virtual(main)


@pytest.mark.parametrize("options", [OVER_UDP, OVER_TCP, QUIC], ids=["datagram", "tcp", "quic"])
def test_pipes_on_a_vanished_address_end_at_once(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            one, other, _ = await connected(world, **options)
            reading = asyncio.ensure_future(one.recv())
            await asyncio.sleep(0)
            world.a.node._run.pipes.vanished(frozenset({ip_address("192.0.2.1")}))
            assert not one.closed
            world.a.node._run.pipes.vanished(frozenset({one.local.ip}))
            with pytest.raises(PipeClosed, match=f"the network interface with {one.local.ip} went away"):
                await reading
            await other.close()
            await world.quiet()

    virtual(main)


class Replugged:
    """A host's network whose interfaces are made anew, addresses and all, with each step of `generation`."""

    def __init__(self, host: MemoryNetwork) -> None:
        self.generation = 1
        self._host = host

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def interfaces(self) -> tuple[Interface, ...]:
        return tuple(replace(each, index=self.generation) for each in self._host.interfaces())


def test_an_interface_that_was_made_anew_is_another_one() -> None:
    """A VPN that was restarted: the address is the same, but what was open there hangs on the old device."""

    async def main() -> None:
        host = Replugged(MemoryInternet().host("host", "198.51.100.1"))
        config = Config(brokers=(), stun=(), port_map=False)
        async with Node(config, identity=identity("a"), network=host) as node:  # type: ignore[arg-type]
            running = node._run
            [before] = running.udp.ports
            running._interfaces_changed()
            assert running.udp.ports == (before,)
            host.generation += 1
            running._interfaces_changed()
            [after] = running.udp.ports
            assert after is not before
            assert after.base == before.base
            assert len(host.open_sockets()) == 2  # UDP and TCP

    virtual(main)


# -- NAT64 ----------------------------------------------------------------------------------------------------------


class Resolver:
    """A host's network whose resolver does as it is told; `asked` counts."""

    def __init__(self, host: MemoryNetwork) -> None:
        self.asked = 0
        self.obey(failing)
        self._host = host

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def obey(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    async def resolve(self, host: str, port: int) -> tuple[Endpoint, ...]:
        assert host == WELL_KNOWN_NAME
        self.asked += 1
        return tuple(Endpoint.of(text, port) for text in await self._answer())


def lone(*addresses: str) -> tuple[Resolver, Node, list[Event]]:
    """A node of its own, without servers."""
    host = Resolver(MemoryInternet().host("host", *addresses))
    events: list[Event] = []
    config = Config(brokers=(), stun=(), port_map=False)
    return host, Node(config, identity=identity("a"), network=host, observer=events.append), events


def hosts(node: Node) -> set[str]:
    return {str(at.host) for at in node.address.attachments}


def after(seconds: float, *answer: str) -> Callable[[], Any]:
    async def resolved() -> tuple[str, ...]:
        await asyncio.sleep(seconds)
        return answer

    return resolved


def failing() -> Any:
    raise NetworkError("resolve: temporary failure")


def test_a_resolver_that_never_answers_costs_half_a_second_at_most() -> None:
    async def main() -> None:
        host, node, _ = lone("2001:db8::2")
        host.obey(after(10_000.0))
        began = asyncio.get_running_loop().time()
        await node.start()
        assert asyncio.get_running_loop().time() - began == pytest.approx(0.5, abs=0.01)
        assert hosts(node) == {"2001:db8::2"}
        await node.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual(main)


@pytest.mark.parametrize("seconds", [0.1, 2.0])
def test_the_address_has_ipv4_as_soon_as_the_resolver_tells(seconds: float) -> None:
    async def main() -> None:
        host, node, events = lone("2001:db8::2")
        host.obey(after(seconds, *MADE_UP))
        async with node:
            assert (OWN in hosts(node)) == (seconds < 0.5)
            await asyncio.sleep(seconds)
            assert hosts(node) == {"2001:db8::2", OWN}
            assert [event for event in events if isinstance(event, Nat64Found)] == [Nat64Found("64:ff9b::/96")]
            # The two listen on one address of the machine's: the ports differ.
            assert len({at.udp.local for at in node.address.attachments}) == 2
            await asyncio.sleep(1000)
            assert host.asked == 1

    virtual(main, limit=2000)


@pytest.mark.parametrize("addresses", [("198.51.100.1",), ("198.51.100.1", "2001:db8::2")], ids=["v4", "dual"])
def test_who_has_ipv4_does_not_ask(addresses: tuple[str, ...]) -> None:
    async def main() -> None:
        host, node, _ = lone(*addresses)
        host.obey(failing)
        async with node:
            assert hosts(node) == set(addresses)
            assert host.asked == 0

    virtual(main)


def test_a_resolver_that_fails_is_asked_again_and_one_that_says_no_is_believed() -> None:
    async def main() -> None:
        host, node, _ = lone("2001:db8::2")
        host.obey(failing)
        async with node:
            await asyncio.sleep(6)
            assert host.asked == 2
            host.obey(after(0.0, *MADE_UP))
            await asyncio.sleep(30)
            assert OWN in hosts(node)
            # The network changes, and its resolver is not up yet: what is known is kept until somebody says otherwise.
            host.obey(failing)
            node._run._interfaces_changed()
            await asyncio.sleep(1)
            assert OWN in hosts(node)
            host.obey(after(0.0, *REAL))
            await asyncio.sleep(10)
            assert hosts(node) == {"2001:db8::2"}

    virtual(main)


class WithoutTheName(Resolver):
    """A DNS64 that knows nothing of ipv4only.arpa: it says so after `seconds`. One server's name has no address."""

    def __init__(self, host: MemoryNetwork, prefix: str, seconds: float) -> None:
        super().__init__(host)
        self._prefix, self._seconds = prefix, seconds

    async def resolve(self, host: str, port: int) -> tuple[Endpoint, ...]:
        if host in IPV4_ALONE:
            return tuple(Endpoint.of(text, port) for text in (IPV4_ALONE[host], self._prefix + IPV4_ALONE[host]))
        await asyncio.sleep(self._seconds if host == WELL_KNOWN_NAME else 100)
        raise NetworkError(f"resolve {host!r}: no such name")


IPV4_ALONE = {"broker.example": "203.0.113.8", "stun.example": "203.0.113.1", "broker.stun.example": "203.0.113.2"}
SERVERS = {"brokers": ("mqtt://broker.example", "mqtt://gone.example"), "stun": ("stun.example",)}


@pytest.mark.parametrize("seconds", [0.0, 10.0])
@pytest.mark.parametrize(
    ("prefix", "servers", "found"),
    [
        ("2001:db8:64::", SERVERS, True),
        ("64:ff9b::", SERVERS, True),
        ("64:ff9b::", {**SERVERS, "brokers": ()}, True),
        ("2001:db8:64::", {**SERVERS, "brokers": ()}, False),  # one name may have such an address by itself
        # Whoever owns two servers would be sent what is meant for IPv4.
        ("2001:db8:64::", {**SERVERS, "brokers": ("mqtt://broker.stun.example",)}, False),
    ],
)
def test_where_nobody_answers_for_the_well_known_name_those_of_our_servers_tell(
    prefix: str, servers: dict[str, Any], found: bool, seconds: float
) -> None:
    async def main() -> None:
        host = WithoutTheName(MemoryInternet().host("host", "2001:db8::2"), prefix, seconds)
        async with Node(Config(**servers, port_map=False), identity=identity("a"), network=host) as node:
            assert (OWN in hosts(node)) is found

    virtual(main)


class Slow(Resolver):
    """A DNS64 with an answer for each name, after so many seconds for that of ipv4only.arpa."""

    def __init__(self, host: MemoryNetwork, prefix: str, seconds: float, well_known: str) -> None:
        super().__init__(host)
        self._prefix, self._seconds, self._well_known = prefix, seconds, well_known

    async def resolve(self, host: str, port: int) -> tuple[Endpoint, ...]:
        if host == WELL_KNOWN_NAME:
            await asyncio.sleep(self._seconds)
            made_up = [self._well_known + text for text in REAL]
            return tuple(Endpoint.of(text, port) for text in (*REAL, *made_up))
        if host in IPV4_ALONE:
            return tuple(Endpoint.of(text, port) for text in (self._prefix + IPV4_ALONE[host], IPV4_ALONE[host]))
        raise NetworkError(f"resolve {host!r}: no such name")


def test_a_late_answer_for_the_well_known_name_counts_for_more_than_what_our_servers_names_told() -> None:
    async def main() -> None:
        host = Slow(MemoryInternet().host("host", "2001:db8::2"), "2001:db8:64::", 3.0, "64:ff9b::")
        events: list[Event] = []
        node = Node(Config(**SERVERS, port_map=False), identity=identity("a"), network=host, observer=events.append)
        async with node:
            await asyncio.sleep(10.0)
        assert [event.prefix for event in events if isinstance(event, Nat64Found)] == [
            "2001:db8:64::/96",
            "64:ff9b::/96",
        ]

    virtual(main)


class Translated(MemoryStun):
    """Behind a NAT64: it sees IPv4."""

    def _answer(self, request: StunMessage, at: Endpoint, source: Endpoint) -> bytes:
        return super()._answer(request, at, Endpoint.of("198.51.100.64", source.port))


@pytest.mark.parametrize("seconds", [0.0, 0.2, 2.0, 10.0])
def test_an_address_that_a_dns64_made_up_is_no_failure_of_its_server(seconds: float) -> None:
    """The server may answer before the resolver has told of the NAT64."""

    async def main() -> None:
        internet = MemoryInternet(path=PathSpec(delay=0.02))
        stun_host = internet.host("stun", "64:ff9b::203.0.113.1")
        stun = Translated(stun_host, Endpoint.of("64:ff9b::203.0.113.1", 3478))
        host = Slow(internet.host("host", "2001:db8::2"), "64:ff9b::", seconds, "64:ff9b::")
        events: list[Event] = []
        config = Config(brokers=(), stun=("stun.example",), port_map=False)
        node = Node(config, identity=identity("a"), network=host, observer=events.append)
        async with node:
            await asyncio.sleep(seconds + 30.0)
            reflexive = {str(at.host): str(at.reflexive) for at in node.address.attachments}
        await stun.close()
        assert reflexive[OWN] == "198.51.100.64"
        assert [event for event in events if isinstance(event, ServerFailed)] == []

    virtual(main)


class Mute(Resolver):
    async def resolve(self, host: str, port: int) -> tuple[Endpoint, ...]:
        await asyncio.sleep(100)
        raise NetworkError(f"resolve {host!r}: temporary failure")


def test_a_silent_resolver_holds_a_start_up_no_longer_than_all_else() -> None:
    async def main() -> None:
        host = Mute(MemoryInternet().host("host", "2001:db8::2"))
        config = Config(brokers=("mqtt://broker.example",), stun=("stun.example",), port_map=False)
        async with Node(config, identity=identity("a"), network=host):
            assert asyncio.get_running_loop().time() == pytest.approx(config.timing.start_patience)

    virtual(main)


@pytest.mark.parametrize("prefix", ["::", "::ffff:", "fe80::", "ff02::"])
def test_a_resolver_cannot_make_this_host_or_its_link_the_way_to_ipv4(prefix: str) -> None:
    async def main() -> None:
        host, node, events = lone("2001:db8::2")
        host.obey(after(0.0, *REAL, f"{prefix}192.0.0.170", f"{prefix}192.0.0.171"))
        async with node:
            await asyncio.sleep(6)
            assert hosts(node) == {"2001:db8::2"}
            told = [event for event in events if isinstance(event, ServerFailed)]
            assert [event.service for event in told] == ([] if prefix == "::ffff:" else ["nat64", "nat64"])

    virtual(main)


def test_pauses_grow_where_nobody_translates() -> None:
    async def main() -> None:
        host, node, _ = lone("2001:db8::2")
        host.obey(after(0.0, *REAL))
        async with node:
            counts = []
            for _ in range(4):
                await asyncio.sleep(900)
                counts.append(host.asked)
            growth = [late - early for early, late in itertools.pairwise(counts)]
            assert max(growth) <= 4, counts

    virtual(main, limit=5000)
