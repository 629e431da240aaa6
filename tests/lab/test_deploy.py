"""deploy/: the compose file holds together, and its configurations do what they say in the real servers."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tomllib
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from needs import need_programs

from warpgate.lab.certificate import write_certificate
from warpgate.lab.host import Host
from warpgate.lab.servers import find_program
from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
SECRET = "north"
WARPGATE = (sys.executable, "-m", "warpgate")
PATIENCE = 20.0


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


class TestCompose:
    def test_what_it_mounts_and_builds_is_there(self) -> None:
        services = compose()["services"]
        assert set(services) == {"postgres", "names", "mosquitto", "coturn"}
        mounts = [mount.partition(":")[0] for each in services.values() for mount in each.get("volumes", ())]
        local = [mount for mount in mounts if mount.startswith("./")]
        assert len(local) == 3
        assert all((DEPLOY / mount).is_file() for mount in local)
        build = services["names"]["build"]
        assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
        named = {mount for mount in mounts if re.fullmatch(r"\w+", mount)}
        assert named == set(compose()["volumes"])

    def test_images_are_of_a_version(self) -> None:
        images = [each["image"] for each in compose()["services"].values() if "image" in each]
        assert all(re.fullmatch(r"[a-z/-]+:\d[\w.-]*", image) for image in images), images

    def test_everything_that_is_the_users_is_in_the_example(self) -> None:
        wanted = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
        given = set(re.findall(r"^(\w+)=", (DEPLOY / "env.example").read_text(), re.MULTILINE))
        assert wanted == given

    def test_what_listens_is_published(self) -> None:
        services = compose()["services"]
        published = {port.partition(":")[0] for port in services["mosquitto"]["ports"]}
        assert published == set(re.findall(r"^listener (\d+)", setting("mosquitto.conf"), re.MULTILINE))
        assert services["names"]["ports"] == ["8421:8421"]
        assert services["coturn"]["network_mode"] == "host"

    def test_its_command_is_one_that_serve_takes(self) -> None:
        from warpgate.cli.parser import build_parser  # noqa: PLC0415

        parsed = build_parser().parse_args(compose()["services"]["names"]["command"])
        assert parsed.tls_key == "/certs/privkey.pem"


@pytest.mark.parametrize(("name", "wanted"), [("Dockerfile", {"serve", "postgres"}), ("client.Dockerfile", {"cli"})])
class TestImages:
    """Read, as no registry is at hand to build them from. That what they install runs is `make package`'s part."""

    def test_it_installs_what_the_command_needs(self, name: str, wanted: set[str]) -> None:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        [named] = re.findall(r"'\.\[([\w,]+)\]'", setting(name))
        assert set(named.split(",")) == wanted
        assert wanted <= set(extras)

    def test_what_it_copies_is_there_and_not_ignored(self, name: str, wanted: set[str]) -> None:
        copied = [words.split()[:-1] for word, words in instructions(name) if word == "COPY"]
        sources = [source for line in copied for source in line if not line[0].startswith("--from")]
        assert set(sources) == {"pyproject.toml", "README.md", "LICENSE", "src"}
        ignored = setting(f"{name}.dockerignore").split()
        assert "*" in ignored
        assert all((ROOT / source).exists() and f"!{source}" in ignored for source in sources)

    def test_it_is_built_as_images_should_be(self, name: str, wanted: set[str]) -> None:
        """What hadolint would say first: versions, no root, commands without a shell, no cache of pip's."""
        lines = instructions(name)
        known = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "EXPOSE", "VOLUME", "ENTRYPOINT", "CMD"}
        assert {word for word, _ in lines} <= known
        bases = [words.split()[0] for word, words in lines if word == "FROM"]
        assert all(re.fullmatch(r"[a-z/-]+:\d[\w.-]*", base) for base in bases)
        order = [word for word, _ in lines]
        assert order.index("USER") < order.index("ENTRYPOINT")
        assert [words for word, words in lines if word == "USER"] == ["warpgate"]
        assert all("--no-cache-dir" in words for word, words in lines if "pip install" in words)
        assert all(words.startswith("/") for word, words in lines if word in ("WORKDIR", "VOLUME"))

    def test_its_command_is_one(self, name: str, wanted: set[str]) -> None:
        from warpgate.cli.parser import build_parser  # noqa: PLC0415

        told = dict(instructions(name))
        assert json.loads(told["ENTRYPOINT"]) == ["warpgate"]
        assert build_parser().parse_args(json.loads(told["CMD"])).command in ("serve", "listen")


def instructions(name: str) -> list[tuple[str, str]]:
    """Word and rest of each, in order."""
    lines = [line for line in setting(name).splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def setting(name: str) -> str:
    return (DEPLOY / name).read_text()


def placed(name: str, folder: Path, more: str = "") -> Path:
    """A copy whose files are where this test has put them."""
    text = setting(name)
    for inside, here in (
        ("/mosquitto/config/acl", DEPLOY / "mosquitto.acl"),
        ("/certs/fullchain.pem", folder / "certificate.pem"),
        ("/certs/privkey.pem", folder / "key.pem"),
    ):
        text = text.replace(inside, str(here))
    assert "/certs/" not in text
    copy = folder / name
    copy.write_text(text + more)
    return copy


@asynccontextmanager
async def rendezvous(lab: Lab, folder: Path) -> AsyncIterator[Host]:
    """What compose starts, PostgreSQL aside, on one public host."""
    need_programs("mosquitto", "turnserver")
    server = lab.add_host("server", ipv4=2)
    write_certificate(folder, server.addresses)
    broker = placed("mosquitto.conf", folder, "user root\n")
    relay = placed("turnserver.conf", folder)
    ours = [
        f"--pidfile={folder / 'pid'}",
        f"--userdb={folder / 'users'}",
        f"--log-file={folder / 'turn.log'}",
    ]
    commands: list[list[str]] = [
        [find_program("mosquitto"), "-c", str(broker)],
        [
            find_program("turnserver"),
            "-c",
            str(relay),
            f"--static-auth-secret={SECRET}",
            "--realm=lab",
            *ours,
        ],
        [
            *WARPGATE,
            "serve",
            f"--tls-cert={folder / 'certificate.pem'}",
            f"--tls-key={folder / 'key.pem'}",
        ],
    ]
    async with AsyncExitStack() as stack:
        for command in commands:
            process = await server.popen(command, env={"WARPGATE_DATA": str(folder)}, stdout=DEVNULL, stderr=PIPE)
            stack.push_async_callback(server.stop, process)
        for port in (1883, 8883, 3478, 5349, 8421):
            await listening(server, port)
        yield server


async def listening(host: Host, port: int) -> None:
    probe = f"import socket; socket.create_connection(('{host.ipv4}', {port}), 1)"
    async with asyncio.timeout(PATIENCE):
        while (await host.run([sys.executable, "-c", probe])).returncode != 0:
            pass


def config(server: Host) -> dict[str, str]:
    """README.md's two lines."""
    return {
        "WARPGATE_RENDEZVOUS": f"warpgates://{server.ipv4}/names=8421,broker=8883,stun=3478+3479",
        "WARPGATE_TURN": f"turn-secret:{SECRET}@{server.ipv4}:3478",
    }


async def test_two_strict_nats_meet_at_the_relay(lab: Lab, tmp_path: Path) -> None:
    """Signals over TLS, credentials from the secret, data over the relay: all with the files as they are."""
    a, b = (lab.add_host(name, "edm") for name in "ab")
    async with rendezvous(lab, tmp_path) as server:
        trusted = {"SSL_CERT_FILE": str(tmp_path / "certificate.pem"), **config(server)}
        homes = [{**trusted, "WARPGATE_DATA": str(tmp_path / name)} for name in "ab"]
        listener = await b.popen([*WARPGATE, "listen", "--echo", "--json"], env=homes[1], stdout=PIPE)
        try:
            address = json.loads(await line_of(listener))["address"]
            command = [*WARPGATE, "connect", address, "--ping", "1", "--datagram", "--via", "turn", "--json"]
            done = await a.run(command, env=homes[0], timeout=PATIENCE)
        finally:
            await b.stop(listener)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in found] == ["pipe", "pong"], found
    assert found[0]["relayed"]


async def test_the_relay_leads_into_no_private_network(lab: Lab, tmp_path: Path) -> None:
    """A permission for an address inside is refused, by the file's list; for one outside it is given."""
    outside = lab.add_host("a")
    async with rendezvous(lab, tmp_path) as server:
        done = await outside.run([sys.executable, "-c", PERMISSIONS, str(server.ipv4)], timeout=PATIENCE)
    assert done.returncode == 0, done.stderr.decode()
    answers = dict(json.loads(done.stdout))
    assert answers.pop("203.0.113.77") == "given"
    assert set(answers.values()) == {"403"}, answers


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return (await process.stdout.readline()).decode()


# Run in a host: allocates with aioice (not our client: it would ask for no private peer) and asks for permissions.
PERMISSIONS = f"""
import asyncio, base64, hashlib, hmac, json, sys, time
from aioice import stun, turn

PEERS = ("203.0.113.77", "10.1.2.3", "127.0.0.1", "169.254.169.254", "192.168.1.1", "172.16.0.1", "100.64.0.9")

async def main(server):
    user = f"{{int(time.time()) + 600}}:test"
    password = base64.b64encode(hmac.digest(b"{SECRET}", user.encode(), hashlib.sha1)).decode()
    transport, protocol = await turn.create_turn_endpoint(
        asyncio.DatagramProtocol, (server, 3478), user, password
    )
    client = transport._TurnTransport__inner_protocol
    found = []
    for peer in PEERS:
        request = stun.Message(message_method=stun.Method.CREATE_PERMISSION, message_class=stun.Class.REQUEST)
        request.attributes["XOR-PEER-ADDRESS"] = (peer, 9999)
        try:
            await client.request_with_retry(request)
            found.append((peer, "given"))
        except stun.TransactionFailed as error:
            found.append((peer, str(error.response.attributes["ERROR-CODE"][0])))
    print(json.dumps(found))

asyncio.run(main(sys.argv[1]))
"""
