"""`warpgate serve --stun --broker` on loopback: what it prints, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from warpgate.cli.main import main
from warpgate.cli.options import UsageError
from warpgate.cli.rendezvous import relay_limits
from warpgate.errors import ConfigError, ServiceError
from warpgate.lab.certificate import write_certificate
from warpgate.lab.servers import SEARCH
from warpgate.model.endpoint import Family
from warpgate.model.identity import Identity
from warpgate.model.rendezvous import Rendezvous
from warpgate.model.servers import NameServerUrl
from warpgate.model.turn_server import TurnServer
from warpgate.net.network import Interface
from warpgate.net.system import SystemNetwork
from warpgate.net.tls import Trust
from warpgate.proto.relay_limits import RelayLimits
from warpgate.proto.stun import Attribute, Method, StunClass, StunMessage, decode, encode
from warpgate.server.addresses import announced_address, is_public
from warpgate.server.coturn import find_coturn
from warpgate.server.relay_setup import group_secret, relay_addresses
from warpgate.services.relay import Relays
from warpgate.services.relay_allocation import Allocation
from warpgate.services.turn_accounts import Desk, TurnAccount, TurnAccounts

HOST = "127.0.0.1"
PATIENCE = 20.0


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def stun_port() -> int:
    """One whose neighbour is free."""
    for port in range(21000, 29000, 2):
        try:
            with socket.create_server((HOST, port)), socket.create_server((HOST, port + 1)):
                return port
        except OSError:
            continue
    raise OSError("no free port")


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[dict[str, dict]]:
    """Its events by name, up to "ready"; it ends with status 0 when it is told to."""
    command = [sys.executable, "-m", "warpgate", "serve", "--json", "--host", HOST, *words]
    environment = {"WARPGATE_DATA": str(folder), "HOME": str(folder), "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    try:
        events = {}
        for line in process.stdout:
            event = json.loads(line)
            events[event["event"]] = event
            if event["event"] in ("ready", "failed"):
                break
        yield events
    finally:
        if "failed" not in events:
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == (0 if "ready" in events else 1)
        process.stdout.close()
        process.stderr.close()  # type: ignore[union-attr]


def test_the_line_names_what_is_served(tmp_path: Path) -> None:
    if not (shutil.which("mosquitto") or shutil.which("mosquitto", path=SEARCH)):
        pytest.skip("needs mosquitto")
    names, broker = free_ports(2)
    stun = stun_port()
    ports = ("--port", str(names), "--stun-port", str(stun), "--broker-port", str(broker))
    with serving(tmp_path, "--stun", "--broker", "--public-host", "Gate.example.org", *ports) as events:
        line = Rendezvous.parse(events["rendezvous"]["rendezvous"])
        assert line == Rendezvous("gate.example.org", names, broker, (stun, stun + 1))
        assert events["rendezvous"]["broker"] == "mosquitto"
        assert events["rendezvous"]["stun"] == [f"{HOST}:{stun}", f"{HOST}:{stun + 1}"]
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.sendto(encode(StunMessage(1, StunClass.REQUEST, bytes(12))), (HOST, stun + 1))
            assert decode(client.recv(1000)).cls is StunClass.SUCCESS
        socket.create_connection((HOST, broker), 5).close()
        with urlopen(f"http://{HOST}:{names}/health", timeout=5) as answer:
            assert json.load(answer)["status"] == "ok"
        with urlopen(f"http://{HOST}:{names}/metrics", timeout=5) as answer:
            shown = answer.read().decode().splitlines()
        assert {"warpgate_stun_answered_total 1", "warpgate_broker_up 1"} <= set(shown)
    with pytest.raises(OSError):  # noqa: PT011 - whatever the kernel says to a port that nobody has
        socket.create_connection((HOST, broker), 1)


def test_with_a_certificate_names_are_served_over_tls(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, [ip_address(HOST)])
    (names,) = free_ports(1)
    words = (
        "--public-host",
        HOST,
        "--tls-cert",
        str(certificate),
        "--tls-key",
        str(key),
        "--port",
        str(names),
    )
    with serving(tmp_path, *words) as events:
        line = events["rendezvous"]["rendezvous"]
        assert line == f"warpgates://{HOST}/names={names}"
        url = Rendezvous.parse(line).names[0]
        assert events["ready"]["url"] == url
        trust = ssl.create_default_context(cafile=str(certificate))
        with urlopen(f"{url}/health", context=trust, timeout=5) as answer:
            assert answer.status == 200


def test_the_relay_and_its_secret(tmp_path: Path) -> None:
    """The secret is the same after a restart, and the relay shows what it does."""
    lines = []
    for _ in range(2):
        names, relay = free_ports(2)
        ports = ("--port", str(names), "--relay-port", str(relay))
        with serving(tmp_path, "--embedded-relay", "--public-host", HOST, *ports) as events:
            line = Rendezvous.parse(events["rendezvous"]["rendezvous"])
            assert (line.relay_port, events["rendezvous"]["relay"]) == (relay, "embedded")
            lines.append(line)
            with socket.socket(type=socket.SOCK_DGRAM) as client:
                client.settimeout(5)
                asked = ((Attribute.REQUESTED_TRANSPORT, 17),)
                client.sendto(encode(StunMessage(Method.ALLOCATE, StunClass.REQUEST, bytes(12), asked)), (HOST, relay))
                assert decode(client.recv(1000)).error.code == 401
            with urlopen(f"http://{HOST}:{names}/metrics", timeout=5) as answer:
                shown = answer.read().decode().splitlines()
            assert {"warpgate_relay_challenged_total 1", "warpgate_relay_allocations 0"} <= set(shown)
    assert lines[0].secret == lines[1].secret
    assert (tmp_path / "relay-secret").stat().st_mode & 0o777 == 0o600


async def test_a_relay_for_node_ids_alone(tmp_path: Path) -> None:
    """The line holds no secret; who is let in gets a log-in that only its key opens. And a user's share is as told."""
    names, relay = free_ports(2)
    member, stranger, network = Identity.generate(), Identity.generate(), SystemNetwork()
    words = ("--relay", "--relay-for", member.node_id, "--relay-limit", "user-allocations=1")
    ports = ("--port", str(names), "--relay-port", str(relay), "--public-host", HOST, "--embedded-relay")

    async def allocated(identity: Identity, line: Rendezvous) -> Allocation:
        servers = [TurnServer.parse(text) for text in line.turn]
        desk = Desk(network, NameServerUrl.parse(line.names[0]), servers, identity, Trust())
        accounts = TurnAccounts([TurnAccount("desk", desk.ask, lambda _: None, time.time, random.Random(1))])
        relays = Relays(network, line.turn, lambda _: None, accounts=accounts)
        await accounts._accounts[0].renew()
        return await relays.open_udp([Family.V4])

    with serving(tmp_path, *words, *ports) as events:
        text = events["rendezvous"]["rendezvous"]
        line = Rendezvous.parse(text)
        assert (line.secret, line.relay_port) == ("", relay)
        assert "secret" not in text
        allocation = await allocated(member, line)
        assert str(allocation.relayed[0].ip) == HOST
        with pytest.raises(ServiceError, match="number of allocations"):
            await allocated(member, line)
        allocation.drop()
        with pytest.raises(ServiceError, match="id is not among those"):
            await allocated(stranger, line)
        with pytest.raises(HTTPError) as answered:
            await asyncio.to_thread(urlopen, f"http://{HOST}:{names}/v1/relay/{'ff' * 33}", timeout=5)
        assert answered.value.code == 400
    assert group_secret(tmp_path / "relay-ids-secret")


async def test_with_coturn_each_node_has_a_share_of_its_own(tmp_path: Path) -> None:
    """Three nodes at one address, which know the same line: fifteen allocations, and none gets more than its five."""
    if find_coturn() is None:
        pytest.skip("needs turnserver")
    names, relay = free_ports(2)
    words = (
        "--relay",
        "--relay-limit",
        "user-allocations=5",
        "--port",
        str(names),
        "--relay-port",
        str(relay),
    )
    with serving(tmp_path, *words, "--public-host", HOST) as events:
        assert events["rendezvous"]["relay"] == "coturn"
        (server,) = Rendezvous.parse(events["rendezvous"]["rendezvous"]).turn
        nodes = [Relays(SystemNetwork(), [f"{server}?transport=udp"], lambda _: None) for _ in range(3)]
        for node in nodes:
            for _ in range(5):
                assert (await node.open_udp([Family.V4])).alive
            with pytest.raises(ServiceError, match="number of allocations"):
                await node.open_udp([Family.V4])
        await asyncio.gather(*(node.close() for node in nodes))


@pytest.mark.parametrize(
    ("said", "limits"),
    [
        ([], RelayLimits()),
        (["allocations=9", "user-allocations=3"], RelayLimits(allocations_per_user=3, allocations=9)),
        (["mbits=80", "user-mbits=0.8"], RelayLimits(bytes_per_second=1e7, bytes_per_second_per_user=1e5)),
        (["daily-gb=5", "user-daily-gb=0.5"], RelayLimits(bytes_per_day=5e9, bytes_per_day_per_user=5e8)),
    ],
)
def test_limits_of_the_relay_are_options(said: list[str], limits: RelayLimits) -> None:
    assert relay_limits(said) == limits


@pytest.mark.parametrize("said", ["mbits", "mbits=", "mbits=0", "mbits=-1", "mbits=nan", "mbits=inf", "peers=3", "=3"])
def test_limits_that_make_no_sense(said: str) -> None:
    with pytest.raises(UsageError, match="write one of allocations, user-allocations, mbits"):
        relay_limits([said])


def test_a_private_address_is_warned_of(tmp_path: Path) -> None:
    words = ("--stun", "--stun-port", str(stun_port()), "--port", str(free_ports(1)[0]))
    with serving(tmp_path, *words) as events:
        assert "--public-host" in events["warning"]["message"]
        assert HOST in events["rendezvous"]["rendezvous"]


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    names, taken = free_ports(2)
    with socket.create_server((HOST, taken)):
        words = ("--stun", "--stun-port", str(taken), "--port", str(names))
        with serving(tmp_path, *words) as events:
            assert f"{HOST}:{taken}" in events["failed"]["error"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--tls-cert", "a.pem"), "--tls-cert and --tls-key belong together"),
        (("--tls-cert", "no.pem", "--tls-key", "no.key"), "TLS files no.pem, no.key: No such file"),
        (("--stun", "--host", "192.0.2.1"), "192.0.2.1"),
        (("--public-host", "not a host"), "neither a host name nor an IP address"),
        (("--stun-port", "0"), "no port number"),
        (("--relay", "--door-port", "443"), "--door-port needs --tls-cert"),
        (("--relay", "--relay-allow", "10.0.0.1/8"), "--relay-allow 10.0.0.1/8"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: tuple[str, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("WARPGATE_DATA", str(tmp_path))
    port = str(free_ports(1)[0])
    assert main(["serve", "--host", HOST, "--port", port, *words]) in (1, 2)
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(("content", "mode"), [("short", 0o600), ("k7_pW-x2Qn4vTz9L", 0o644)])
def test_a_secret_that_is_none_or_none_any_more(content: str, mode: int, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(ConfigError, match="relay secret") as caught:
        group_secret(file)
    assert content not in str(caught.value)


def test_a_relays_addresses() -> None:
    def found(*announced: str) -> dict[str, str]:
        ips = ("127.0.0.1", "10.0.0.5", "198.51.100.7", "fd00::5", "2001:db8::5")
        interfaces = [Interface("eth0", ip_address(ip), 24) for ip in ips]
        chosen = relay_addresses(interfaces, map(ip_address, announced))
        return {str(each.announced): str(each.local) for each in chosen.values()}

    assert found("10.0.0.5") == {"10.0.0.5": "10.0.0.5", "2001:db8::5": "2001:db8::5"}
    assert found() == {"198.51.100.7": "198.51.100.7", "2001:db8::5": "2001:db8::5"}
    # a provider's one-to-one NAT
    assert found("203.0.113.9") == {"203.0.113.9": "198.51.100.7", "2001:db8::5": "2001:db8::5"}
    assert relay_addresses([Interface("eth0", ip_address("10.0.0.5"), 24)], ()) == {}


class TestWhatIsAnnounced:
    def test_public_before_private_before_loopback(self) -> None:
        def announced(*ips: str) -> str:
            return str(announced_address([Interface("eth0", ip_address(ip), 24) for ip in ips]))

        assert announced("127.0.0.1", "10.0.0.5", "203.0.113.5", "2001:db8::5") == "203.0.113.5"
        assert announced("127.0.0.1", "10.0.0.5", "2001:db8::5") == "2001:db8::5"
        assert announced("127.0.0.1", "10.0.0.5") == "10.0.0.5"
        assert announced("127.0.0.1") == "127.0.0.1"
        assert announced_address([]) is None

    @pytest.mark.parametrize(
        ("ip", "public"),
        [
            ("203.0.113.5", True),
            ("8.8.8.8", True),
            ("2001:db8::5", True),
            ("10.0.0.5", False),
            ("100.64.0.9", False),
            ("169.254.1.1", False),
            ("fd00::1", False),
            ("::1", False),
            ("224.0.0.1", False),
        ],
    )
    def test_what_is_public(self, ip: str, public: bool) -> None:
        assert is_public(ip_address(ip)) is public
