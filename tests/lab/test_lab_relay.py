"""One `warpgate serve --stun --broker --relay` and its one line: each pair that needs a relay gets it, at once."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from needs import need_programs
from relay_talk import HostNetwork, Talk
from rendezvous_kit import Site, served, serving

from warpgate.core.disk.identity_store import load_or_create
from warpgate.errors import ServiceError
from warpgate.events import Event, RelayAllocated
from warpgate.lab.certificate import write_certificate
from warpgate.lab.host import Host
from warpgate.lab.steered import Connected, SteeredNode
from warpgate.lab.topology import Lab
from warpgate.model.endpoint import Endpoint, Family
from warpgate.model.rendezvous import Rendezvous
from warpgate.model.turn_server import TurnServer
from warpgate.proto.stun import Attribute, Method, StunClass, StunMessage, decode
from warpgate.proto.turn_auth import LongTermAuth
from warpgate.services.relay import Relays

pytestmark = pytest.mark.lab

DOOR = ("--door-port", "443")
SERVER_NAME = "gate.lab"
# Without a reserve, which the connect before has used, and with 40 ms to everybody. A slow machine may take three times
# what an idle one does; tests/cascade has the exact times.
LIMIT = 0.8
# Both reach their relay by TLS, and QUIC goes through it: 0.43 s on an idle machine, most of them round trips.
LIMIT_BY_DOORS = 1.0


@dataclass(frozen=True, slots=True)
class Group:
    """Two nodes that know the line and nothing else."""

    server: Host
    a: SteeredNode
    b: SteeredNode
    line: Rendezvous
    certificate: Path
    process: Process

    async def start(self, **more: str) -> None:
        for node in (self.a, self.b):
            await node.start(
                **more,
                brokers=list(self.line.brokers),
                stun=list(self.line.stun),
                turn=list(self.line.turn),
                ca_file=str(self.certificate),
            )

    async def connected(self, mode: str, *, keep: bool = False) -> Connected:
        done = await self.a.connect(self.b.address, mode=mode, keep=keep)
        assert done.ok, (done.error, done.report)
        return done


@asynccontextmanager
async def group(
    folder: Path,
    kind_a: str,
    kind_b: str,
    *words: str,
    secret: str | None = None,
    bare: bool = False,
    **more: str,
) -> AsyncIterator[Group]:
    """A kind that ends in `/6` is a host's with IPv6 alone, else it has IPv4 alone. `secret`: what the nodes take for
    the group's. `bare`: see `serving`. `more`: the nodes' settings. Each has a directory of its name.
    """
    async with Lab(seed=5) as lab:
        server = lab.add_host("server", ipv4=1, ipv6=1)
        lab.add_name(SERVER_NAME, *server.addresses)
        certificate, key = write_certificate(folder, server.addresses, SERVER_NAME)
        files = ("--tls-cert", str(certificate), "--tls-key", str(key), "--public-host", SERVER_NAME)
        behind = []
        for name, kind in (("a", kind_a), ("b", kind_b)):
            router, _, family = kind.partition("/")
            behind.append(lab.add_host(name, router, ipv4=family != "6", ipv6=family == "6"))
        env = {"SSL_CERT_FILE": str(certificate)}
        command = (*files, "--relay", *DOOR, *words)
        async with serving(server, folder / "server", *command, bare=bare) as (line, process):
            a, b = [
                await SteeredNode.launch(host, env=env | {"WARPGATE_DATA": str(folder / host.name)}) for host in behind
            ]
            async with a, b:
                parsed = Rendezvous.parse(line.split('"')[1])
                known = parsed if secret is None else replace(parsed, secret=secret)
                found = Group(server, a, b, known, certificate, process)
                await found.start(**more)
                yield found


@pytest.mark.parametrize("bare", [False, True], ids=["installed", "bare"])
@pytest.mark.parametrize(
    ("kind_a", "kind_b", "relays"),
    [
        ("edm", "edm", True),
        ("udp-blocked", "edm", False),
        ("edm", "udp-blocked", False),
        ("udp-blocked", "udp-blocked", False),
        ("only-443", "edm", True),
        ("edm", "only-443", True),
        ("only-443", "only-443", True),
    ],
)
async def test_nothing_but_the_line(
    privileges: None, tmp_path: Path, kind_a: str, kind_b: str, relays: bool, bare: bool
) -> None:
    """`bare`: the machine has neither mosquitto nor coturn."""
    pytest.importorskip("amqtt") if bare else need_programs("mosquitto", "turnserver")
    async with group(tmp_path, kind_a, kind_b, bare=bare) as two:
        done = await two.connected("datagram")
        assert done.relayed
        done = await two.connected("stream")
        assert done.relayed or not relays  # TCP may be punched where only UDP is blocked


@pytest.mark.alone
@pytest.mark.parametrize("bare", [False, True], ids=["installed", "bare"])
@pytest.mark.parametrize(
    "kinds",
    [
        ("edm", "edm"),
        ("udp-blocked", "edm"),
        ("udp-blocked", "udp-blocked"),
        ("only-443", "only-443"),
        ("edm", "edm/6"),
    ],
    ids="-".join,
)
async def test_at_once(privileges: None, tmp_path: Path, kinds: tuple[str, str], bare: bool) -> None:
    """The best of three, datagrams and streams alike: others use this machine."""
    pytest.importorskip("amqtt") if bare else need_programs("mosquitto", "turnserver")
    async with group(tmp_path, *kinds, bare=bare) as two:
        for mode in ("datagram", "stream"):
            took = min([(await two.connected(mode)).seconds for _ in range(3)])
            assert took < (LIMIT_BY_DOORS if kinds == ("only-443", "only-443") else LIMIT)


async def test_a_stranger_without_the_secret_relays_nothing(privileges: None, tmp_path: Path) -> None:
    need_programs("mosquitto")
    async with group(tmp_path, "edm", "edm", secret="not-the-secret-of-it") as two:
        done = await two.a.connect(two.b.address, mode="datagram", timeout=4.0)
        assert not done.ok
        assert "does not accept the user name or password" in json.dumps(done.report)


async def test_where_only_port_443_is_open_node_ids_log_in_there(privileges: None, tmp_path: Path) -> None:
    """The line holds no secret, and nobody reaches the HTTP port but through the door."""
    need_programs("mosquitto")
    ids = [load_or_create("member", tmp_path / name).node_id for name in "ab"]
    words = [word for node_id in ids for word in ("--relay-for", node_id)]
    async with group(tmp_path, "only-443", "only-443", *words, identity="member") as two:
        assert two.line.secret == ""
        done = await two.a.connect(two.b.address, mode="datagram")
        assert (done.ok, done.relayed) == (True, True), done.report


@pytest.mark.parametrize("words", [("--relay",), ("--embedded-relay",)], ids=["installed", "embedded"])
async def test_ipv4_and_ipv6_meet(lab: Lab, tmp_path: Path, words: tuple[str, ...]) -> None:
    """A node that has only the one behind a router, and one that has only the other: each reaches its side of it."""
    need_programs("mosquitto")
    server = lab.add_host("server", ipv4=1, ipv6=1)
    four, six = lab.add_host("four", ipv4=1), lab.add_host("six", ipv4=0, ipv6=1)
    (server_six,) = [ip for ip in server.addresses if ip.version == 6]
    async with served(server, tmp_path / "server", *words, "--public-host", str(server.ipv4)) as line:
        parsed = Rendezvous.parse(line.split('"')[1])
        for client, peer in ((six, four), (four, six)):
            host = str(server.ipv4) if client is four else str(server_six)
            talk = Talk(client, peer, replace(parsed, host=host).turn[0] + "?transport=udp")
            family = Family.V4 if peer is four else Family.V6
            assert (await talk.open(family)).family is family
            await talk.there()
            await talk.back()
            await talk.close()


@pytest.mark.parametrize("bare", [False, True], ids=["installed", "bare"])
async def test_nodes_without_a_common_family_are_relayed(lab: Lab, tmp_path: Path, bare: bool) -> None:
    """The command on both sides; the line names a host, which each reaches in its own family."""
    pytest.importorskip("amqtt") if bare else need_programs("mosquitto", "turnserver")
    server = lab.add_host("server", ipv4=1, ipv6=1)
    lab.add_name("gate.lab", *server.addresses)
    hosts = [lab.add_host(f"v{family}", "edm", ipv4=family == 4, ipv6=family == 6) for family in (4, 6)]
    words = ("--relay", "--public-host", "gate.lab")
    async with serving(server, tmp_path / "server", *words, bare=bare) as (line, _):
        four, six = (Site(host, tmp_path / host.name, line) for host in hosts)
        for here, there in ((four, six), (six, four)):
            async with there.listening() as address:
                for mode in ("--datagram", "--transport=udp"):
                    done = await here.run("connect", address, "--ping", "1", mode)
                    assert [event["event"] for event in done] == ["pipe", "pong"], done
                    assert done[0]["relayed"]


@pytest.mark.parametrize("mode", ["datagram", "stream"])
async def test_a_relay_that_is_killed_ends_the_pipe(privileges: None, tmp_path: Path, mode: str) -> None:
    """Nobody talks. One end is with it over TLS, which breaks. The other asks at once, as its broker has gone with it,
    and is told that nobody listens at that port.
    """
    need_programs("mosquitto")
    async with group(tmp_path, "edm", "only-443") as two:
        await two.connected(mode, keep=True)
        other = await two.b.connect(two.a.address, mode=mode, keep=True)
        assert (other.ok, other.relayed) == (True, True), other.report
        two.process.kill()
        began = time.monotonic()
        assert await two.b.ended(0, within=5.0)
        assert await two.a.ended(0, within=10.0)
        assert time.monotonic() - began < 10.0


async def test_a_member_reaches_neither_the_servers_services_nor_its_site(lab: Lab, tmp_path: Path) -> None:
    """Our own addresses, the names' port among them, a private neighbour, loopback, and ourselves as a peer."""
    need_programs("mosquitto")
    server, client, peer = lab.add_host("server", ipv4=2), lab.add_host("client"), lab.add_host("peer")
    async with served(server, tmp_path / "server", "--relay", "--public-host", str(server.ipv4)) as line:
        url = Rendezvous.parse(line.split('"')[1]).turn[0]
        relays = Relays(HostNetwork(client), [url], lambda _: None)
        relay = await relays.open_tcp(Family.V4, lambda stream: stream.abort())
        for target in (
            *(Endpoint(ip, port) for ip in server.addresses for port in (8421, 1883, 3478, 3480)),
            Endpoint.of("127.0.0.1", 8421),
            Endpoint.of("10.0.0.1", 22),
        ):
            with pytest.raises(ServiceError, match="forbids that peer"):
                await relay.connect(target)
        listener = HostNetwork(peer).listen_tcp(Endpoint(peer.ipv4, 9000), lambda stream: stream.abort())
        (await relay.connect(listener.local)).abort()
        listener.close()
        relay.close()
        await relays.close()


@pytest.mark.parametrize("words", [("--relay",), ("--embedded-relay",)], ids=["installed", "embedded"])
async def test_datagrams_of_a_member_reach_nothing_inside(lab: Lab, tmp_path: Path, words: tuple[str, ...]) -> None:
    """coturn judges ranges, the embedded relay what an address holds: nobody inside may be a peer of either."""
    need_programs("turnserver", "mosquitto")
    server, client = lab.add_host("server", ipv4=2, ipv6=1), lab.add_host("client")
    (own_six,) = [ip for ip in server.addresses if ip.version == 6]
    async with served(server, tmp_path / "server", *words, "--public-host", str(server.ipv4)) as line:
        url = Rendezvous.parse(line.split('"')[1]).turn[0] + "?transport=udp"
        refused: list[str] = []
        for family, targets in (
            (Family.V4, ["127.0.0.1", "10.0.0.1", "169.254.169.254", str(server.addresses[1])]),
            (Family.V6, ["::1", "fd00::1", "fe80::1", "64:ff9b::a00:1", "2002:a00:1::1", str(own_six)]),
        ):
            for target in targets:
                answered = await asked(client, url, family, Endpoint.of(target, 22))
                if answered.error is None or answered.error.code != 403:
                    refused.append(target)
        own_announced = {str(server.ipv4), str(own_six)} if words == ("--embedded-relay",) else set()
        assert set(refused) <= own_announced  # there the port decides, with each datagram


async def test_a_member_who_takes_all_of_coturn_leaves_the_embedded_relay(lab: Lab, tmp_path: Path) -> None:
    """coturn counts names, of which a member may have many. Who is refused there goes to the port over TCP, where
    addresses are counted.
    """
    need_programs("turnserver", "mosquitto")
    server, member, other = lab.add_host("server"), lab.add_host("member"), lab.add_host("other")
    limits = ("--relay-limit", "user-allocations=2", "--relay-limit", "allocations=4")
    words = ("--relay", *limits, "--public-host", str(server.ipv4))
    async with served(server, tmp_path / "server", *words) as line:
        url = Rendezvous.parse(line.split('"')[1]).turn[0]
        with ExitStack() as stack:
            codes: dict[str, list[int]] = {"one": [], "two": [], "three": []}
            for name in ("one", "one", "one", "two", "two", "three"):
                client = stack.enter_context(closing(TurnTalk(member, url, name)))
                answer = await client.allocate(Family.V4)
                codes[name].append(answer.error.code if answer.error else 0)
            assert codes == {"one": [0, 0, 486], "two": [0, 0], "three": [486]}
            events: list[Event] = []
            relays = Relays(HostNetwork(other), [url], events.append)
            (await relays.open_udp({Family.V4})).drop()
            await relays.close()
        (by,) = [event.transport for event in events if isinstance(event, RelayAllocated)]
        assert by == "tcp"


class TurnTalk:
    """One allocation by hand, over UDP from a port of its own. `name`: see `TurnServer.credentials`."""

    def __init__(self, client: Host, url: str, name: str = "") -> None:
        self._server = TurnServer.parse(url)
        self._auth = LongTermAuth(self._server.credentials(time.time(), name))
        self._heard: asyncio.Queue[bytes] = asyncio.Queue()
        network, local = HostNetwork(client), Endpoint(client.ipv4, 0)
        self._socket = network.open_udp(local, lambda data, _: self._heard.put_nowait(data))

    async def ask(self, method: Method, *attributes: tuple[int, Any]) -> StunMessage:
        request = StunMessage(method, StunClass.REQUEST, secrets.token_bytes(12), attributes)
        self._socket.send(self._auth.seal(request), (self._server.host, self._server.port))
        async with asyncio.timeout(5):
            return decode(await self._heard.get())

    async def allocate(self, family: Family) -> StunMessage:
        wanted = (Attribute.REQUESTED_TRANSPORT, 17), (Attribute.REQUESTED_ADDRESS_FAMILY, family)
        self._auth.challenged(await self.ask(Method.ALLOCATE, *wanted))
        return await self.ask(Method.ALLOCATE, *wanted)

    def close(self) -> None:
        self._socket.close()


async def asked(client: Host, url: str, family: Family, peer: Endpoint) -> StunMessage:
    """What a relay says to CreatePermission for this peer."""
    with closing(TurnTalk(client, url)) as talk:
        assert (await talk.allocate(family)).cls is StunClass.SUCCESS
        try:
            return await talk.ask(Method.CREATE_PERMISSION, (Attribute.XOR_PEER_ADDRESS, peer))
        finally:
            await talk.ask(Method.REFRESH, (Attribute.LIFETIME, 0))
