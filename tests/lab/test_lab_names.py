"""Names between two sites: the real name server and program, what a look-up costs, and a name that moves."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from needs import need_programs

from sites import Pair, R, pair
from warpgate.lab.host import Completed, Host
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

WARPGATE = (sys.executable, "-m", "warpgate")
PORT = 8421
PATIENCE = 20.0
TRIES = 5


async def event(process: Process, *names: str) -> dict[str, Any]:
    """The next line of `--json`, or the next of these events."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while line := await process.stdout.readline():
            told = dict(json.loads(line))
            if not names or told["event"] in names:
                return told
    raise AssertionError(f"ended without {names}")


async def serve(host: Host, folder: Path) -> Process:
    """A name server: `url_of(host)`."""
    words = ("serve", "--host", str(host.ipv4), "--port", str(PORT), "--json")
    process = await host.popen([*WARPGATE, *words], env={"WARPGATE_DATA": str(folder)}, stdout=PIPE)
    await event(process, "ready")
    return process


def url_of(host: Host) -> str:
    return f"http://{host.ipv4}:{PORT}"


class TestTheProgram:
    @pytest.fixture
    async def server(self, lab: Lab, tmp_path: Path) -> AsyncIterator[Host]:
        host = lab.add_host("server", ipv4=2)
        process = await serve(host, tmp_path / "server")
        yield host
        await host.stop(process)

    async def test_a_name_is_all_one_needs_and_follows_its_node(self, lab: Lab, server: Host, tmp_path: Path) -> None:
        need_programs("mosquitto", "turnserver")
        broker, stun = await asyncio.gather(start_mosquitto(server), start_coturn(server))
        a, b = lab.add_host("a", "eim-apdf"), lab.add_host("b", "eim-apdf")
        known = {
            "WARPGATE_BROKER": broker.mqtt_url,
            "WARPGATE_STUN": str(stun.endpoint),
            "WARPGATE_NAMES": url_of(server),
            "WARPGATE_PORT_MAP": "no",
        }

        def env(who: str) -> dict[str, str]:
            return {**known, "WARPGATE_DATA": str(tmp_path / who)}

        async def call(host: Host, *words: str) -> Completed:
            return await host.run([*WARPGATE, *words], env=env(host.name), timeout=PATIENCE)

        for port in ("21001", "21002"):
            words = ("listen", "--name", "Alice", "--port", port, "--echo", "--json")
            listener = await b.popen([*WARPGATE, *words], env=env("b"), stdout=PIPE)
            try:
                ready, named = await event(listener), await event(listener)
                assert named == {
                    "event": "named",
                    "name": "alice",
                    "node_id": ready["node_id"],
                    "servers": [url_of(server)],
                }
                done = await call(a, "connect", "alice", "--ping", "3", "--json")
                assert done.returncode == 0, done
                pipe, *pongs = [json.loads(line) for line in done.stdout.splitlines()]
                assert (pipe["event"], pipe["peer"]) == ("pipe", ready["node_id"])
                assert len(pongs) == 3
            finally:
                await b.stop(listener)
        taken = await call(a, "listen", "--name", "alice", "--echo", "--json")
        assert taken.returncode == 1
        assert "registered by another key" in json.loads(taken.stdout.splitlines()[-1])["error"]
        shown = json.loads((await call(a, "name", "show", "alice", "--json")).stdout)
        assert (shown["node_id"], shown["pinned"]) == (ready["node_id"], True)
        assert (await call(b, "name", "release", "alice")).returncode == 0
        assert (await call(a, "name", "show", "alice")).returncode == 1


@asynccontextmanager
async def named_pair(
    lab: Lab, tmp_path: Path, servers: int = 1
) -> AsyncIterator[tuple[Pair, list[Host], list[Process]]]:
    """Two nodes behind port-restricted NATs that know these name servers."""
    hosts = [lab.add_host(f"names{number}") for number in range(servers)]
    processes = [await serve(host, tmp_path / host.name) for host in hosts]
    async with pair(lab, "eim-apdf", "eim-apdf") as nodes:
        nodes.settings["names"] = [url_of(host) for host in hosts]
        yield nodes, hosts, processes


async def lookups(nodes: Pair) -> list[float]:
    """What a's node says of its look-ups since it was asked last."""
    return [told["seconds"] for told in await nodes.a.trace() if told["event"] == "NameFound"]


async def test_a_name_costs_one_request_more_than_an_address(lab: Lab, tmp_path: Path) -> None:
    """Medians over fresh nodes, by turns: seconds, and packets that reached the name server meanwhile."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    packets: dict[bool, list[int]] = {False: [], True: []}
    signals: list[dict[str, int]] = []
    async with named_pair(lab, tmp_path) as (nodes, (host,), _):
        (uplink,) = host.counters
        found = []
        for number in range(TRIES):
            for by_name in (False, True):
                await nodes.fresh()
                name = f"bob-{number}{'n' * by_name}"  # each new node has a new key
                await nodes.b.nickname(name)
                before = uplink.packets_in
                done = await nodes.a.connect(name if by_name else nodes.b.address, mode="datagram")
                assert done.ok, (done.error, *done.report)
                seconds[by_name].append(done.seconds)
                packets[by_name].append(uplink.packets_in - before)
                signals.append(done.signals)
                found += await lookups(nodes)
    assert len(found) == TRIES
    more = statistics.median(seconds[True]) - statistics.median(seconds[False])
    told = f"{more * 1000:.1f} ms more, look-up {statistics.median(found) * 1000:.1f} ms, packets {packets}"
    assert 0.9 * R < statistics.median(found) < 2 * R, told
    assert 0.5 * R < more < 2 * R, told
    # The request, and the acknowledgement of its answer, where that does not ride on something else.
    assert 1 <= statistics.median(packets[True]) - statistics.median(packets[False]) <= 2, told
    assert signals == [{"SignalSent offer": 1}] * len(signals)


async def test_a_server_that_dies_costs_nothing_while_another_answers(lab: Lab, tmp_path: Path) -> None:
    """Its process is killed: asked first, it refuses the connection."""
    async with named_pair(lab, tmp_path, servers=2) as (nodes, hosts, processes):
        await nodes.fresh()
        assert len(await nodes.b.nickname("bob")) == 2
        assert (await nodes.a.connect("bob", mode="datagram")).ok
        (before,) = await lookups(nodes)
        await hosts[0].stop(processes[0], kill=True)
        done = await nodes.a.connect("bob", mode="datagram")
        assert done.ok, (done.error, *done.report)
        (after,) = await lookups(nodes)
    assert after < before + 2 * R


async def test_a_node_that_moves_to_another_network_takes_its_name_along(lab: Lab, tmp_path: Path) -> None:
    async with named_pair(lab, tmp_path) as (nodes, _, _):
        await nodes.fresh()
        await nodes.b.nickname("bob")
        await nodes.b.trace()
        lab.add_uplink(nodes.b.host, "eim-apdf", preferred=True)
        async with asyncio.timeout(PATIENCE):
            while True:
                told = [entry["event"] for entry in await nodes.b.trace()]
                if "NameRegistered" in told:
                    break
                await asyncio.sleep(0.1)
        await nodes.b.refresh()
        done = await nodes.a.connect("bob", mode="datagram")
        assert done.ok, (done.error, *done.report)
        (entry,) = [told for told in await nodes.a.trace() if told["event"] == "NameFound"]
    assert entry["node_id"] == nodes.b.node_id
