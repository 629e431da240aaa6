"""How long until `recv` ends when the peer is gone: killed (SIGKILL), cut off, both, or closed in good order?

Idle streams over TCP and over UDP between two port-restricted NATs in the lab. Of a process that is killed the
kernel closes the TCP connections, but says nothing over UDP until it is sent something.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from bench.rig import rig
from bench.rows import Row, show
from warpgate.lab.line import Quality

KIND = "eim-apdf"
LIMIT = 35.0
AT_ONCE = 0.5  # a round trip of 40 ms, and what two busy processes need


@dataclass(frozen=True, slots=True)
class Case:
    """What happens to the peer, and in how many seconds the pipe must have ended."""

    what: str
    limit: float
    cut: bool = False
    kill: bool = False


CASES = (
    Case("closed", AT_ONCE),
    Case("killed", LIMIT, kill=True),
    Case("cut off", LIMIT, cut=True),
    Case("cut off and killed", LIMIT, cut=True, kill=True),
)


async def one(case: Case, transport: str) -> Row:
    async with rig(KIND, KIND) as lab:
        await lab.fresh()
        pipe = await lab.a.connect(lab.b.address, transport=transport, keep=True)
        if not pipe.ok:
            raise SystemExit(f"no pipe to begin with: {pipe.error}")
        waiting = asyncio.ensure_future(lab.a.ended(0, LIMIT + 10.0))
        began = time.monotonic()
        if case.cut:
            line = lab.b.host.access
            line.up.quality = line.down.quality = Quality(loss=1.0)
        if case.kill:
            await lab.b.kill()
        if not (case.cut or case.kill):
            await lab.b.stop()
        reason = await waiting
        seconds = time.monotonic() - began if reason else float("inf")
        return Row(f"peer {case.what}, stream over {transport.upper()}", seconds, case.limit, "s", note=reason)


async def run() -> list[Row]:
    """All at once: they wait for half a minute, and do nothing meanwhile."""
    return await asyncio.gather(*(one(case, transport) for case in CASES for transport in ("tcp", "udp")))


def main() -> bool:
    return show(asyncio.run(run()))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
