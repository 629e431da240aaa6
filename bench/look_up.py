"""What a name costs more than an address: limits are one round trip (40 ms) to the name server, and one request.

Connects between fresh nodes behind port-restricted NATs, by address and by name in turns, with the real name server;
medians. 1.25 x the limit plus 10 ms are allowed, as for strategies.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack

from bench.rig import ROUND_TRIP, rig
from bench.rows import Row, median_ms, show, spread
from warpgate.lab.host import Host

COUNT = 9
PORT = 8421
IMPORT = """
import time, warpgate.core.launch
began = time.process_time()
import warpgate.services.http_connection
print(time.process_time() - began)
"""


async def serve(host: Host, folder: str) -> str:
    """The URL of a name server."""
    command = [sys.executable, "-m", "warpgate", "serve", "--host", str(host.ipv4), "--port", str(PORT)]
    process = await host.popen([*command, "--json"], env={"WARPGATE_DATA": folder}, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert b'"ready"' in await process.stdout.readline()
    return f"http://{host.ipv4}:{PORT}"


async def connects() -> list[Row]:
    seconds: dict[bool, list[float]] = {False: [], True: []}
    packets: dict[bool, list[int]] = {False: [], True: []}
    found = []
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        lab = await stack.enter_async_context(rig("eim-apdf", "eim-apdf"))
        host = lab.lab.add_host("names")
        settings = {
            "brokers": [server.mqtt_url for server in lab.brokers],
            "stun": [str(lab.stun.endpoint)],
            "names": [await serve(host, folder)],
        }
        (uplink,) = host.counters
        for number in range(COUNT):
            for by_name in (False, True):
                await asyncio.gather(lab.a.start(**settings), lab.b.start(**settings))
                name = f"bob-{number}{'n' * by_name}"
                await lab.b.nickname(name)
                before = uplink.packets_in
                done = await lab.a.connect(name if by_name else lab.b.address, mode="datagram")
                assert done.ok, done
                seconds[by_name].append(done.seconds)
                packets[by_name].append(uplink.packets_in - before)
                found += [told["seconds"] for told in await lab.a.trace() if told["event"] == "NameFound"]
    more = statistics.median(seconds[True]) - statistics.median(seconds[False])
    extra = statistics.median(packets[True]) - statistics.median(packets[False])
    limit = ROUND_TRIP * 1250 + 10
    return [
        Row("look-up", statistics.median(found) * 1000, limit, note=spread(found)),
        Row("connect NAME, beyond connect ADDRESS", more * 1000, limit),
        Row(
            "packets to the name server for it",
            extra,
            2,
            "",
            note="the request, and its answer's ACK",
        ),
    ]


def imports() -> Row:
    """Processor time, in processes that have the node already: it is spent in a thread beside the TCP handshake."""
    times = [
        float(subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True).stdout)
        for _ in range(COUNT)
    ]
    return Row("importing the HTTP client", median_ms(times), 20, note=spread(times))


def main() -> bool:
    return show([*asyncio.run(connects()), imports()])


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
