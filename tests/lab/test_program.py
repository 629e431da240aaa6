"""The command line in two hosts behind two NATs: its JSON events, and its stdin and stdout."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from needs import need_programs

from warpgate.lab.host import Completed, Host
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

WARPGATE = (sys.executable, "-m", "warpgate")
ADDRESS = re.compile(rb"wg1[A-Za-z0-9_-]+")
PATIENCE = 20.0  # start-up, connect and echo take half a second on an idle machine


@dataclass(frozen=True, slots=True)
class Site:
    """A host, and a user's environment in it: the lab's servers and a key of its own."""

    host: Host
    env: dict[str, str]

    async def run(self, *words: str, given: bytes = b"") -> Completed:
        return await self.host.run([*WARPGATE, *words], env=self.env, given=given, timeout=PATIENCE)

    async def start(self, *words: str, stdout: int = PIPE) -> Process:
        command = [*WARPGATE, *words]
        return await self.host.popen(command, env=self.env, stdin=PIPE, stdout=stdout, stderr=PIPE)


@dataclass(frozen=True, slots=True)
class Sites:
    a: Site
    b: Site
    target: Path  # where tests put b's address


@pytest.fixture
async def sites(lab: Lab, tmp_path: Path) -> Sites:
    need_programs("mosquitto", "turnserver")
    server = lab.add_host("server", ipv4=2)
    broker, stun = await asyncio.gather(start_mosquitto(server), start_coturn(server))
    known = {"WARPGATE_BROKER": broker.mqtt_url, "WARPGATE_STUN": str(stun.endpoint)}
    a, b = (Site(lab.add_host(name, "eim-apdf"), {**known, "WARPGATE_DATA": str(tmp_path / name)}) for name in "ab")
    return Sites(a, b, tmp_path / "b.addr")


class TestJson:
    @pytest.mark.parametrize(
        ("options", "mode", "transport", "plugin"),
        [
            (("--transport", "tcp"), "stream", "tcp", "tcp_punch"),
            (("--datagram",), "datagram", "udp", "udp_punch"),
        ],
    )
    async def test_pings(self, sites: Sites, options: tuple[str, ...], mode: str, transport: str, plugin: str) -> None:
        async with listening(sites, "--echo") as (listener, ready):
            assert set(ready) == {"event", "node_id", "address"}
            assert re.fullmatch("[a-z2-7]{26}", ready["node_id"])
            done = await sites.a.run("connect", f"@{sites.target}", "--ping", "3", "--json", *options)
            accepted = await event(listener)
        assert (done.returncode, done.stderr) == (0, b"")
        pipe, *pongs = (json.loads(line) for line in done.stdout.splitlines())
        seconds, local, remote = pipe.pop("seconds"), pipe.pop("local"), pipe.pop("remote")
        told = {"event": "pipe", "plugin": plugin, "mode": mode, "transport": transport, "relayed": False}
        told["secure"] = told["durable"] = False
        assert pipe == {**told, "peer": ready["node_id"]}
        assert 0 < seconds < 3
        assert local.startswith("192.168.")
        assert remote.startswith("203.0.113.")
        assert [pong.pop("event") for pong in pongs] == ["pong"] * 3
        assert all(0.03 < pong.pop("seconds") < 3 and not pong for pong in pongs)
        own = json.loads((await sites.a.run("id", "--json")).stdout)["node_id"]
        assert accepted["seconds"] >= 0
        assert accepted["remote"].startswith("203.0.113.")
        assert {name: accepted[name] for name in told} == told
        assert accepted["peer"] == own
        assert set(accepted) == {*told, "peer", "seconds", "local", "remote"}

    async def test_a_connect_that_fails(self, sites: Sites) -> None:
        async with listening(sites, "--echo"):
            pass
        done = await sites.a.run("connect", f"@{sites.target}", "--ping", "1", "--timeout", "1", "--json")
        assert (done.returncode, done.stderr) == (1, b"")
        failed = json.loads(done.stdout)
        assert set(failed) == {"event", "error", "report"}
        assert failed["event"] == "failed"
        reasons = {row["plugin"]: row["reason"] for row in failed["report"]}
        assert all(reasons[name] for name in ("direct", "reverse", "tcp_punch", "udp_punch"))


class TestStdinAndStdout:
    async def test_they_are_joined(self, sites: Sites) -> None:
        listener = await sites.b.start("listen")
        try:
            sites.target.write_bytes(await printed_address(listener))
            assert listener.stdin is not None
            listener.stdin.write(b"ho\n")
            listener.stdin.write_eof()
            done = await sites.a.run("connect", f"@{sites.target}", given=b"hi\n")
            async with asyncio.timeout(PATIENCE):
                heard, said = await listener.communicate()
        finally:
            await sites.b.host.stop(listener)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"ho\n", b"")
        assert (listener.returncode, heard) == (0, b"hi\n"), said

    async def test_a_file_arrives_as_it_was(self, sites: Sites, tmp_path: Path) -> None:
        """A megabyte over the punched stream: all of it, in order, and the end of it is the end."""
        sent = random.Random(1).randbytes(1 << 20)
        with (tmp_path / "received").open("wb") as received:
            listener = await sites.b.start("listen", stdout=received.fileno())
        try:
            sites.target.write_bytes(await printed_address(listener))
            assert listener.stdin is not None
            listener.stdin.close()
            done = await sites.a.run("connect", f"@{sites.target}", given=sent)
            async with asyncio.timeout(PATIENCE):
                assert await listener.wait() == 0
        finally:
            await sites.b.host.stop(listener)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        digest = hashlib.sha256((tmp_path / "received").read_bytes()).hexdigest()
        assert digest == hashlib.sha256(sent).hexdigest()


@asynccontextmanager
async def listening(sites: Sites, *options: str) -> AsyncIterator[tuple[Process, dict[str, Any]]]:
    """`warpgate listen --json` in host b, its address in `sites.target`; and its "ready"."""
    listener = await sites.b.start("listen", "--json", *options)
    try:
        ready = await event(listener)
        assert ready["event"] == "ready"
        sites.target.write_text(ready["address"])
        yield listener, ready
    finally:
        await sites.b.host.stop(listener)


async def event(process: Process) -> dict[str, Any]:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return dict(json.loads(await process.stdout.readline()))


async def printed_address(process: Process) -> bytes:
    """What `listen` tells people, on stderr, since its stdout belongs to the pipe."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        while line := await process.stderr.readline():
            if found := ADDRESS.search(line):
                return found[0]
    raise AssertionError("listen has printed no address")
