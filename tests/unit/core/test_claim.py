"""The lock on an identity: who has it, who had it before, and what a damaged file does to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from warpgate.core.disk.claim import REMEMBERED, Holder, claim, holder
from warpgate.core.disk.identity_store import load_or_create
from warpgate.errors import IdentityInUse

FIRST, SECOND, THIRD = b"1111", b"2222", b"3333"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    load_or_create("default", tmp_path)
    return tmp_path


def lock_file(folder: Path) -> Path:
    return folder / "identities" / "default.lock"


def test_one_at_a_time_and_the_next_one_knows_those_before(folder: Path) -> None:
    held = claim("default", FIRST, folder)
    with pytest.raises(IdentityInUse, match=f"'default' is in use by process {os.getpid()}: .*--identity"):
        claim("default", SECOND, folder)
    held.release()
    held.release()
    held = claim("default", SECOND, folder)
    assert held.earlier == (FIRST,)
    held.release()
    assert claim("default", THIRD, folder).earlier == (SECOND, FIRST)


def test_identities_do_not_share_it(folder: Path) -> None:
    load_or_create("other", folder)
    held = [claim(name, FIRST, folder) for name in ("default", "other")]
    assert all(one.earlier == () for one in held)
    for one in held:
        one.release()


def test_it_goes_with_a_process_that_is_killed(folder: Path) -> None:
    program = (
        "import sys, pathlib; from warpgate.core.disk.claim import claim\n"
        f"held = claim('default', b'1111', pathlib.Path({str(folder)!r})); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(IdentityInUse, match=f"process {other.pid}:"):
            claim("default", SECOND, folder)
        other.kill()
    claim("default", SECOND, folder).release()


def test_who_has_it_is_told_and_takes_nothing(folder: Path) -> None:
    assert holder("default", folder) is None
    assert not lock_file(folder).exists()
    held = claim("default", FIRST, folder)
    assert holder("default", folder) == Holder(str(os.getpid()), FIRST)
    lock_file(folder).write_bytes(b"\xff\n")
    assert holder("default", folder) == Holder("unknown", b"")
    held.release()
    assert holder("default", folder) is None
    claim("default", SECOND, folder).release()


def test_its_memory_is_bounded(folder: Path) -> None:
    for number in range(REMEMBERED + 5):
        held = claim("default", number.to_bytes(4, "big"), folder)
        held.release()
    assert len(held.earlier) == REMEMBERED - 1
    assert lock_file(folder).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\n\0", b"12\nnot hexadecimal\n31313131\n00\n", b"x" * 100_000])
def test_whatever_is_in_the_file_it_can_be_had(folder: Path, damage: bytes) -> None:
    lock_file(folder).write_bytes(damage)
    held = claim("default", SECOND, folder)
    assert held.earlier == ((FIRST,) if b"31313131" in damage else ())
    held.release()


def test_where_no_file_can_be_made_nobody_is_kept_out(folder: Path) -> None:
    lock_file(folder).mkdir()
    first, second = claim("default", FIRST, folder), claim("default", SECOND, folder)
    assert first.earlier == second.earlier == ()
    first.release()
    second.release()
