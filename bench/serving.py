"""What do the relay of `warpgate serve` and the whole of it carry: 1,000 allocations, 10,000 waiting nodes?

The real program on loopback, with mosquitto and the embedded relay. Per core: of the CPU time of its own
process, so that a busy machine and slow clients do not count. The p99 of a signal is what a client sees with 10,000
others connected, while the relay carries something; of this machine, whatever else it does.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from bench.rendezvous import HOST, _cpu_seconds, _free_port, _message, _resident_kib, _waiting
from bench.rows import Row, show
from warpgate.model.endpoint import Endpoint, Family, Transport
from warpgate.model.rendezvous import Rendezvous
from warpgate.model.turn_server import TurnServer, TurnTransport
from warpgate.net.system import SystemNetwork
from warpgate.proto.turn_wire import RelayRequest
from warpgate.server.child import raise_descriptor_limit
from warpgate.services.relay_allocation import Allocation
from warpgate.services.relay_carrier import Route, UdpCarrier

ALLOCATIONS = 1000
# A user, that is one address, has 64; a source is answered 50 times a second.
PER_SOURCE = 50
WAITING = 10_000
DATAGRAM = bytes(1200)
DATAGRAMS = 20_000
WINDOW = 32
SIGNALS = 2000
SIGNALS_A_SECOND = 500
UNLIMITED = "100000"


@dataclass(frozen=True, slots=True)
class Served:
    """`pid` of the program, whose child the broker is."""

    pid: int
    line: Rendezvous


@asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    names, broker, relay = _free_port(), _free_port(), _free_port()
    words = ["--host", HOST, "--public-host", HOST, "--port", names, "--broker", "--broker-port", broker]
    words += ["--embedded-relay", "--relay-port", relay, "--relay-allow", "127.0.0.0/8"]
    words += ["--relay-limit", f"mbits={UNLIMITED}", "--relay-limit", f"user-mbits={UNLIMITED}"]
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "warpgate", "serve", "--json", *map(str, words)),
            env={**os.environ, "WARPGATE_DATA": folder, "WARPGATE_CONFIG": os.devnull},
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            line = ""
            while (event := json.loads(await process.stdout.readline()))["event"] != "ready":
                line = event.get("rendezvous", line)
            yield Served(process.pid, Rendezvous.parse(line))
        finally:
            process.terminate()
            await process.wait()


async def allocation(line: Rendezvous, number: int) -> Allocation:
    """From one of so many addresses that no user has too much."""
    server = TurnServer.parse(line.turn[0])
    source = ip_address(f"127.2.0.{1 + number // PER_SOURCE}")
    route = Route(server, Endpoint.of(HOST, server.port), TurnTransport.UDP, HOST, source)
    network = SystemNetwork()
    made = Allocation(
        route,
        server.credentials(time.time(), f"node-{number}"),
        RelayRequest(Transport.UDP, frozenset({Family.V4})),
        lambda on_frame, _: UdpCarrier(network, route, on_frame),
        lambda *_: None,
    )
    await made.ready()
    return made


async def relay(one: Allocation, count: int) -> None:
    """So many datagrams to a peer, WINDOW at a time; each is counted where it arrives."""
    arrived, news = 0, asyncio.Event()

    def received(*_: object) -> None:
        nonlocal arrived
        arrived += 1
        news.set()

    network = SystemNetwork()
    peer = network.open_udp(Endpoint.of("127.0.0.9", 0), received)
    sock = one.socket(one.relayed[0], lambda *_: None)
    try:
        sent = 0
        while arrived < count:
            while sent < count and sent - arrived < WINDOW:
                sock.send(DATAGRAM, peer.local.sockaddr)
                sent += 1
            news.clear()
            try:
                async with asyncio.timeout(0.5):
                    await news.wait()
            except TimeoutError:
                sent = arrived  # lost, as datagrams are
    finally:
        sock.close()
        peer.close()


async def _allocations(served: Served) -> tuple[list[Allocation], list[Row]]:
    cpu, memory = _cpu_seconds(served.pid), _resident_kib(served.pid)
    made: list[Allocation] = []
    for start in range(0, ALLOCATIONS, PER_SOURCE // 2):
        numbers = range(start, start + PER_SOURCE // 2)
        made += await asyncio.gather(*(allocation(served.line, number) for number in numbers))
    used = _cpu_seconds(served.pid) - cpu
    held = (_resident_kib(served.pid) - memory) / ALLOCATIONS
    return made, [
        Row("allocations made a second of one core", ALLOCATIONS / used, 300, "/s", at_most=False),
        Row("memory an allocation", held, 64, "KiB"),
    ]


async def _carried(served: Served, one: Allocation) -> list[Row]:
    await relay(one, WINDOW)
    cpu = _cpu_seconds(served.pid)
    await relay(one, DATAGRAMS)
    used = _cpu_seconds(served.pid) - cpu
    mbits = DATAGRAMS * len(DATAGRAM) * 8 / 1e6 / used
    note = f"({DATAGRAMS / used:.0f} datagrams of {len(DATAGRAM)} bytes)"
    return [Row("relayed by one core, one way", mbits, 50, "Mbit/s", at_most=False, note=note)]


async def _signals(served: Served, busy: Allocation) -> list[Row]:
    """Latency from the write to the arrival, while all wait and the relay is busy."""
    assert served.line.broker_port is not None
    waiting = await _waiting(served.line.broker_port, WAITING)
    rng, size = random.Random(1), len(_message(0))
    targets = rng.sample(range(WAITING), SIGNALS)  # nobody has two to wait for
    taken: list[float] = []

    async def one(target: int) -> None:
        source = rng.randrange(WAITING)
        began = time.perf_counter()
        waiting[source][1].write(_message(target))
        await waiting[target][0].readexactly(size)
        taken.append(time.perf_counter() - began)

    async def steady() -> None:
        while True:
            await relay(busy, WINDOW)
            await asyncio.sleep(0.01)  # some 25 Mbit/s

    relaying = asyncio.ensure_future(steady())
    loop, began = asyncio.get_running_loop(), time.perf_counter()
    tasks = []
    for number, target in enumerate(targets):
        await asyncio.sleep(max(0.0, began + number / SIGNALS_A_SECOND - time.perf_counter()))
        tasks.append(loop.create_task(one(target)))
    await asyncio.gather(*tasks)
    relaying.cancel()
    await asyncio.gather(relaying, return_exceptions=True)
    for _, writer in waiting:
        writer.transport.abort()
    p99 = statistics.quantiles(taken, n=100)[98] * 1000
    note = f"median {statistics.median(taken) * 1000:.1f} ms, of {SIGNALS} at {SIGNALS_A_SECOND}/s"
    return [Row(f"p99 of a signal, {WAITING} nodes wait, the relay works", p99, 100, note=note)]


async def _measure() -> list[Row]:
    async with serving() as served:
        made, rows = await _allocations(served)
        rows += await _carried(served, made[0])
        rows += await _signals(served, made[0])
        alive = sum(one.alive for one in made)
        rows.append(Row("allocations that are still there", alive, ALLOCATIONS, "", at_most=False))
        for one in made:
            one.drop()
    return rows


def main() -> bool:
    raise_descriptor_limit()
    return show(asyncio.run(_measure()))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
