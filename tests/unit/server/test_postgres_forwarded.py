"""psql and its PostgreSQL, with `warpgate listen --forward` and `connect --listen` between them, all of them real."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from names_kit import free_port
from postgres_kit import PATIENCE, Cluster, program

WARPGATE = (sys.executable, "-m", "warpgate")
ROWS = 100_000


@contextlib.contextmanager
def running(folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """One that asks no server, and shows each event."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WARPGATE_")}
    quiet = {
        "WARPGATE_BROKER": "",
        "WARPGATE_STUN": "",
        "WARPGATE_INTERFACE": "lo",
        "WARPGATE_PORT_MAP": "no",
    }
    places = {"WARPGATE_DATA": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = (*WARPGATE, *words, "--json")
    with subprocess.Popen(
        command, env=environment | quiet | places, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def event(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def psql(port: int, database: str, sql: str) -> subprocess.CompletedProcess[bytes]:
    where = f"postgresql://warpgate@127.0.0.1:{port}/{database}"
    return subprocess.run(
        (program("psql"), "--no-psqlrc", "-At", "-v", "ON_ERROR_STOP=1", where),
        input=sql.encode(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("how", [("--transport", "tcp", "--no-durable"), ("--durable",)], ids=" ".join)
def test_psql_through_a_forward(cluster: Cluster, tmp_path: Path, how: tuple[str, ...]) -> None:
    database = cluster.new_database().partition("@/")[2].partition("?")[0]
    port = free_port()
    service = f"pg={cluster.folder}/.s.PGSQL.5432"
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(running(tmp_path / "there", "listen", "--forward", service))
        address = event(listener)["address"]
        entrance = ("connect", address, "-L", f"{port}:pg", *how)
        connector = stack.enter_context(running(tmp_path / "here", *entrance))
        assert event(connector)["event"] == "listening"
        filled = psql(port, database, f"create table t as select n, md5(n::text) h from generate_series(1, {ROWS}) n;")
        assert (filled.returncode, filled.stderr) == (0, b"")
        whole = psql(port, database, "copy (select n, h from t order by n) to stdout;")
        expected = "".join(f"{n}\t{hashlib.md5(b'%d' % n).hexdigest()}\n" for n in range(1, ROWS + 1))
        assert whole.stdout == expected.encode()
        with ThreadPoolExecutor(8) as threads:  # a pool's worth at once
            counted = list(threads.map(lambda _: psql(port, database, "select count(*) from t;").stdout, range(8)))
        assert counted == [b"%d\n" % ROWS] * 8
        wrong = psql(port, database, "select nothing;")
        assert (wrong.returncode, b'column "nothing" does not exist' in wrong.stderr) == (3, True)
        if "--durable" not in how:  # which goes on looking for a peer that may have moved
            listener.kill()
            listener.wait()
            gone = psql(port, database, "select 1;")
            told = b"server closed the connection", b"reset by peer"  # as what it said first was read or not
            assert (gone.returncode, any(words in gone.stderr for words in told)) == (2, True), gone.stderr
