"""What do attacks cost the real command: the most memory that it had, and its share of a core, under each of them?

The command runs in the lab with a real mosquitto, alone with one attacker for a few seconds, and must still serve an
honest peer at the end. What is printed beside is what the attack would be for: bytes to a bystander, files planted.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.rows import Row, show
from warpgate.errors import ServiceError
from warpgate.lab.host import Host
from warpgate.lab.line import Quality
from warpgate.lab.servers import Server, start_mosquitto
from warpgate.lab.topology import Lab

MOST_MEMORY = 100.0  # MB
SECONDS = 5.0
PATIENCE = 20.0
# Of a core, in percent. What a flood may cost is what docs/threats.md says of its rate; the rest of a flood is
# datagrams and connections that are taken from the kernel and dropped.
CORE = 60.0
INTRODUCTIONS = 35.0
PORT = 20_000
NOBODY = "2lbgtqdcwyvmrkmmdx3bqadjgm"
BROKER_PORT, STUN_PORT, TURN_PORT, NAMES_PORT = 1884, 3478, 3479, 8421
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Scene:
    """`bystander` has asked for nothing."""

    victim: Host
    attacker: Host
    bystander: Host
    honest: Host
    broker: Server


@dataclass(frozen=True, slots=True)
class Attack:
    """`others`: arguments of the attacker's; `known`: what the victim is told of servers."""

    what: str
    attacker: str
    others: Callable[[Scene], list[str]] = lambda _: []
    command: tuple[str, ...] = ("listen", "--echo")
    known: Callable[[Scene], dict[str, str]] = lambda _: {}
    first: bool = False  # a server, which is to be there before its victim
    core: float = CORE
    serves: bool = True  # whether an honest peer must get through while it lasts
    seconds: float = SECONDS


def _offers(what: str, age: int, *allow: str) -> Attack:
    return Attack(
        what,
        "offer_flood",
        lambda scene: [scene.broker.mqtt_url, str(age)],
        command=("listen", "--echo", *allow),
        serves=not allow,
    )


def _broker(quality: int, size: int) -> Attack:
    return Attack(
        f"hostile broker: PUBLISH of QoS {quality}, {size} bytes",
        "hostile_broker",
        lambda scene: [f"{scene.attacker.ipv4}:{BROKER_PORT}", str(quality), str(size)],
        known=lambda scene: {"WARPGATE_BROKER": f"mqtt://{scene.attacker.ipv4}:{BROKER_PORT}"},
        first=True,
    )


def _relay(transport: str) -> Attack:
    return Attack(
        f"TURN server over {transport.upper()}: a thousand answers, and data without end",
        "hostile_turn",
        lambda scene: [f"{scene.attacker.ipv4}:{TURN_PORT}"],
        known=lambda scene: {
            "WARPGATE_TURN": f"turn:user:password@{scene.attacker.ipv4}:{TURN_PORT}?transport={transport}"
        },
        first=True,
    )


def _lists(transport: str) -> Attack:
    return Attack(
        f"receive: 8 lists of 100,000 names over {transport.upper()}",
        "long_lists",
        lambda _: [transport],
        command=("receive", "--yes", "DIR"),
        core=100.0,
        serves=False,
        seconds=30.0,  # what is said is 100 MB
    )


ATTACKS = (
    Attack("flood of the topic, 4096 bytes each", "topic_flood", lambda scene: [scene.broker.mqtt_url]),
    _offers("offers of 100 keys, 300 a second", 0),
    _offers("offers of 100 keys with a wrong clock", 3600),
    _offers("offers of 100 keys that are not allowed", 0, "--allow", NOBODY),
    Attack("forged introductions, 1000 a second", "forged_introductions", core=INTRODUCTIONS),
    Attack("proved introductions, 1000 a second", "proved_introductions", core=100.0),
    Attack("forged HELLOs, as fast as answers come", "hello_flood"),
    Attack("400 connections of a byte a second", "silent_connections"),
    Attack("400 proved links, none nominated", "unchosen_links"),
    Attack("nominations in a bystander's name", "reflector", lambda scene: [f"{scene.bystander.ipv4}:7777"]),
    Attack("QUIC handshakes begun, 300 a second", "quic_first_packets", core=100.0),
    _broker(2, 1000),
    _broker(0, 1),
    Attack(
        "STUN server: 1000 answers to each request",
        "hostile_stun",
        lambda scene: [f"{scene.attacker.ipv4}:{STUN_PORT}"],
        known=lambda scene: {"WARPGATE_STUN": f"{scene.attacker.ipv4}:{STUN_PORT}"},
        first=True,
    ),
    _relay("udp"),
    _relay("tcp"),
    Attack(
        "name server: endless answers",
        "hostile_names",
        lambda scene: [f"{scene.attacker.ipv4}:{NAMES_PORT}"],
        command=("listen", "--echo", "--name", "alice"),
        known=lambda scene: {"WARPGATE_NAMES": f"http://{scene.attacker.ipv4}:{NAMES_PORT}"},
        first=True,
    ),
    Attack("a stream over UDP full of holes", "stream_holes", core=100.0),
    Attack("400 durable pipes, filled and not read", "hoarder", core=100.0, serves=False, seconds=60.0),
    Attack(
        "receive: transfers and pipes that only wait",
        "held_receiver",
        command=("receive", "--yes", "DIR"),
        serves=False,
    ),
    Attack(
        "receive: deceptive names, broken frames",
        "deceptive_names",
        command=("receive", "--yes", "DIR"),
        serves=False,
    ),
    _lists("tcp"),
    _lists("udp"),
)


@asynccontextmanager
async def attacking(scene: Scene, attack: Attack, address: str) -> AsyncIterator[Process]:
    command = [sys.executable, "-m", "bench.attackers", attack.attacker, address, *attack.others(scene)]
    process = await scene.attacker.popen(command, stdout=DEVNULL)
    try:
        yield process
        if process.returncode is not None:  # what it did not do is no measurement
            raise ServiceError(f"the attacker {attack.attacker} ended by itself: {process.returncode}")
    finally:
        await scene.attacker.stop(process, kill=True)


@asynccontextmanager
async def commanded(scene: Scene, attack: Attack, folder: Path) -> AsyncIterator[tuple[Process, str]]:
    """The command under attack, and its address."""
    known = {"WARPGATE_BROKER": scene.broker.mqtt_url, "WARPGATE_STUN": "", **attack.known(scene)}
    env = {**known, "WARPGATE_DATA": str(folder / "data"), "XDG_CONFIG_HOME": str(folder)}
    words = [str(folder / "incoming") if word == "DIR" else word for word in attack.command]
    command = [sys.executable, "-m", "warpgate", *words, "--json", "--no-port-map", "--port", str(PORT)]
    process = await scene.victim.popen(command, env=env, stdout=PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            address = ""
            while not address:
                address = json.loads(await process.stdout.readline()).get("address", "")
        drain = asyncio.ensure_future(swallow(process.stdout))
        yield process, address
        drain.cancel()
    finally:
        await scene.victim.stop(process, kill=True)


async def swallow(reader: asyncio.StreamReader) -> None:
    while await reader.read(65_536):
        pass


def memory(process: Process) -> float:
    """The most that it had, in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def processor(process: Process) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def _honest(scene: Scene, address: str, folder: Path) -> bool:
    """Whether a peer that plays by the rules gets its echo."""
    env = {"WARPGATE_BROKER": "", "WARPGATE_STUN": "", "WARPGATE_DATA": str(folder / "honest")}
    command = [sys.executable, "-m", "warpgate", "connect", "--no-port-map", address]
    try:
        done = await scene.honest.run(command, env=env, given=b"hello\n", timeout=PATIENCE)
    except TimeoutError:
        return False
    return done.stdout == b"hello\n"


async def _measure(scene: Scene, attack: Attack) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="warpgate-attacks-") as name:
        folder = Path(name)
        (folder / "incoming").mkdir()
        async with _both(scene, attack, folder) as (process, address):
            before = scene.bystander.counters[0].octets_in
            began, used = time.monotonic(), processor(process)
            await asyncio.sleep(attack.seconds)
            share = 100 * (processor(process) - used) / (time.monotonic() - began)
            notes = []
            if reflected := scene.bystander.counters[0].octets_in - before:
                notes.append(f"{reflected} bytes to the bystander")
            if planted := [path.name for path in (folder / "incoming").iterdir() if not path.name.endswith(".wgpart")]:
                notes.append(f"planted: {planted}")
            rows = [
                Row(f"{attack.what}: memory", memory(process), MOST_MEMORY, "MB", note="; ".join(notes)),
                Row(f"{attack.what}: processor", share, attack.core, "%"),
            ]
            if attack.serves:
                served = await _honest(scene, address, folder)
                rows.append(Row(f"{attack.what}: honest peer served", float(served), 1.0, "", at_most=False))
            if attack.command[0] == "receive":
                rows.append(Row(f"{attack.what}: files planted", len(planted), 0.0, ""))
            return rows


@asynccontextmanager
async def _both(scene: Scene, attack: Attack, folder: Path) -> AsyncIterator[tuple[Process, str]]:
    """A hostile server is there first; everybody else needs the victim's address."""
    if attack.first:
        async with attacking(scene, attack, ""):
            await asyncio.sleep(1.0)  # it has no way to tell that it listens
            async with commanded(scene, attack, folder) as running:
                yield running
    else:
        async with commanded(scene, attack, folder) as running, attacking(scene, attack, running[1]):
            yield running


async def run(chosen: list[str]) -> bool:
    async with Lab(seed=1, link=Quality(delay=0.0)) as lab:
        victim, attacker, bystander, honest = (
            lab.add_host(name) for name in ("victim", "attacker", "bystander", "honest")
        )
        scene = Scene(victim, attacker, bystander, honest, await start_mosquitto(lab.add_host("broker")))
        held = True
        for attack in ATTACKS:
            if not chosen or attack.attacker in chosen:
                held &= show(await _measure(scene, attack))
        return held


def main() -> bool:
    return asyncio.run(run(sys.argv[1:]))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
