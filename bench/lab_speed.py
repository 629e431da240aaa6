"""How exact and how fast is the lab: what it adds to the delays asked for, and the packets it forwards."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from asyncio.subprocess import PIPE

from bench.rows import Row, show
from warpgate.lab.line import Quality
from warpgate.lab.topology import Lab

PINGS = 100
FLOOD_SECONDS = 2.0

# The echo is the server's kernel (ICMP), so that one program's waking is all that is not the lab's.
PING = """
import socket, struct, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
s.settimeout(2)
def checksum(data):
    return 0xFFFF - (int.from_bytes(data, "big") % 0xFFFF or 0xFFFF)
for number in range(int(sys.argv[2])):
    body = struct.pack(">HH", 99, number) + b"warpgate"
    packet = struct.pack(">BBH", 8, 0, checksum(b"\\x08\\0\\0\\0" + body)) + body
    start = time.monotonic()
    s.sendto(packet, (sys.argv[1], 0))
    while s.recv(2048)[20] != 0:
        pass
    print(time.monotonic() - start)
"""
FLOOD = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("flooding", flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    for _ in range(64):
        s.sendto(bytes(100), (sys.argv[1], 9))
"""


async def _added() -> Row:
    """Both directions cross two lines of 10 ms."""
    async with Lab() as lab:
        server, host = lab.add_host("server"), lab.add_host("a", behind="edm")
        done = await host.run([sys.executable, "-c", PING, str(server.ipv4), str(PINGS)], timeout=60)
    trips = [float(line) for line in done.stdout.split()]
    return Row("added to a one-way delay of 20 ms, median", (statistics.median(trips) - 0.040) / 2 * 1000, 0.5)


async def _forwarded() -> Row:
    async with Lab(link=Quality(delay=0.001)) as lab:
        server, host = lab.add_host("server"), lab.add_host("a", behind="eim-apdf+cgn")
        counters = server.counters[0]
        process = await host.popen([sys.executable, "-c", FLOOD, str(server.ipv4), str(FLOOD_SECONDS)], stdout=PIPE)
        assert process.stdout is not None
        await process.stdout.readline()
        start, before = time.monotonic(), counters.packets_in
        await asyncio.sleep(FLOOD_SECONDS / 2)
        rate = (counters.packets_in - before) / (time.monotonic() - start)
        await host.stop(process)
    return Row("UDP packets forwarded through two NATs", rate, 10_000, "1/s", at_most=False)


def main() -> bool:
    return show([asyncio.run(_added()), asyncio.run(_forwarded())])


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
