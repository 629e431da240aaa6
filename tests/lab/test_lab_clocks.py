"""A machine whose clock is wrong, through the real program: every kind of pipe reaches it, and both ends say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from needs import need_programs
from programs import Seat, seats

from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

WAYS = ((), ("--no-durable", "--transport", "udp"), ("--transport", "tcp", "--tls"))


def by_another_clock(seat: Seat, date: str) -> Seat:
    """The same seat with another date for all programs, the libraries beneath them included."""
    need_programs("faketime")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    faked = {"LD_PRELOAD": str(library), "FAKETIME": date, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    # Python waits for its locks by the monotonic clock, and the library's mending of such waits makes each a late one.
    return Seat(seat.host, {**seat.env, **faked, "FAKETIME_FORCE_MONOTONIC_FIX": "0"})


@pytest.mark.parametrize(("date", "says"), [("+10m", b"600 s"), ("@1970-01-02 00:00:00", b" s")])
async def test_every_kind_of_pipe_comes_about(lab: Lab, tmp_path: Path, date: str, says: bytes) -> None:
    a, b = await seats(lab, tmp_path)
    wrong = by_another_clock(b, date)
    async with wrong.running("warpgate", "listen", "--exec", "echo here", says=b"wg1") as (listener, line):
        for way in WAYS:
            done = await a.run("warpgate", "connect", line.decode().strip(), *way)
            assert (done.returncode, done.stdout) == (0, b"here\n"), done.stderr
            side = b"ahead of" if date.startswith("+") else b"behind"
            (told,) = [text for text in done.stderr.splitlines() if b"clock" in text]
            assert says + b" " + side + b" ours: one of the two is wrong" in told
            assert b"answered none" not in done.stderr
        listener.terminate()
        assert listener.stdout is not None
        assert (await listener.stdout.read()).count(b"the clock of") == 1
