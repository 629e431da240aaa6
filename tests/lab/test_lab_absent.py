"""A peer that has gone, through the real program: whatever was asked for, it is said that it does not answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from needs import need_programs
from programs import seats

from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab


async def test_it_is_named_whatever_was_asked_for(lab: Lab, tmp_path: Path) -> None:
    """That nothing waits for the default patience, 20 s, shows in the words; `test_absent_peers` has the times."""
    need_programs("curl")
    a, b = await seats(lab, tmp_path, kind_b="public")
    async with b.running("warpgate", "listen", "--echo", "--json", says=b"ready") as (_, line):
        address = json.loads(line)["address"]
    peer = json.loads(line)["node_id"]
    file = tmp_path / "file"
    file.write_bytes(b"a file")
    gone = f"warpgate: node {peer} answered none of ".encode()
    asked = (
        ("connect", address),
        ("connect", address, "--no-durable"),
        ("connect", address, "--ping", "1"),
        ("send", str(file), address),
    )
    async with a.running("warpgate", "connect", address, "-L", "8000", says=b":8000") as (entrance, _):
        page, *all_done = await asyncio.gather(
            a.run("curl", "--silent", "--max-time", "40", "http://127.0.0.1:8000/"),
            *(a.run("warpgate", *words) for words in asked),
        )
        entrance.terminate()
        assert entrance.stdout is not None
        heard = await entrance.stdout.read()
    for words, done in zip(asked, all_done, strict=True):
        news, reason = done.stderr.splitlines()
        assert done.returncode == 1, words
        assert news.startswith(gone)
        assert reason.startswith(gone)
        assert b"it is not running, or not at these brokers (" in reason
        assert b"connection refused" in reason
    assert page.returncode not in (0, 28), page  # not for curl's own patience
    assert b"was not served: node " + peer.encode() + b" answered none of " in heard


async def test_a_short_patience_hides_no_refused_connection(lab: Lab, tmp_path: Path) -> None:
    a, b = await seats(lab, tmp_path, kind_b="public")
    async with b.running("warpgate", "listen", "--echo", "--json", says=b"ready") as (_, line):
        address = json.loads(line)["address"]
    connect = ("warpgate", "connect", address, "--timeout", "3")
    for done in await asyncio.gather(a.run(*connect), a.run(*connect, "--no-durable")):
        assert done.returncode == 1
        (said,) = done.stderr.splitlines()
        assert b" within 3 s, and it has answered none of " in said
        assert 0 < said.index(b"connection refused") < said.index(b"still at work when the attempt ended")
