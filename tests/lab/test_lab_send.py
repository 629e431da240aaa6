"""`warpgate send` to `warpgate receive` between two NATs, and a receiver that is killed in the middle of it."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from programs import seats, sent_although_the_receiver_is_killed

from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

SIZE = 16_000_000


async def test_a_receiver_that_is_killed_and_started_again(lab: Lab, tmp_path: Path) -> None:
    content = random.Random(4).randbytes(SIZE)
    (tmp_path / "blob").write_bytes(content)
    (incoming := tmp_path / "incoming").mkdir()
    a, b = await seats(lab, tmp_path)
    sent, received = await sent_although_the_receiver_is_killed(
        a, b, str(tmp_path / "blob"), str(incoming), SIZE
    )
    digest = hashlib.sha256(content).hexdigest()
    assert sent["sha256"] == received["sha256"] == digest
    assert sent["resumed"] == received["resumed"] >= 1_000_000
    assert [path.name for path in incoming.iterdir()] == ["blob"]
    assert hashlib.sha256((incoming / "blob").read_bytes()).hexdigest() == digest
