"""What a name server has acknowledged stays, whatever is killed; and what it cannot write it says."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

import aiohttp
import pytest
from names_kit import ALICE, Client, Owner, asking, free_port, serving
from postgres_kit import Cluster

from warpgate.proto.name_record import open_record

ROUNDS = 100
WRITERS = 8
UNLIMITED = [f"--{what}-per-{whom}=0" for what in ("names", "writes") for whom in ("key", "network")]
UNLIMITED.append("--lookups-per-network=0")


class Writer:
    """Registers names and updates them, one request after the other, and remembers what was acknowledged."""

    def __init__(self, number: int) -> None:
        self.owner = Owner()
        self.names = [f"writer-{number}-{letter}" for letter in "abc"]
        self.acknowledged: dict[str, int] = {}
        self.accepted, self.refused = asyncio.Event(), asyncio.Event()
        self._sequences = itertools.count(1)

    async def write(self, client: Client, acknowledged: asyncio.Semaphore) -> None:
        """Until the server is gone."""
        with contextlib.suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
            for name in itertools.cycle(self.names):
                sequence = next(self._sequences)
                record = self.owner.claim(name, sequence, issued=int(time.time()))
                answer = await client.put(self.owner.seal(record), name)
                if answer.status in (200, 201):
                    self.acknowledged[name] = sequence
                    acknowledged.release()
                    self.accepted.set()
                else:
                    assert answer.error == (503, "storage")
                    self.refused.set()

    async def check(self, client: Client) -> None:
        for name, sequence in self.acknowledged.items():
            answer = await client.get(name)
            assert answer.status == 200, f"{name} was acknowledged and is lost"
            assert open_record(answer.body).sequence >= sequence, f"an update of {name} was acknowledged and is lost"


@contextlib.asynccontextmanager
async def forker(database: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    script = Path(__file__).with_name("names_forker.py")
    pipe = asyncio.subprocess.PIPE
    words = (sys.executable, str(script), str(database), str(port))
    process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.wait_for(process.wait(), 20)


async def test_a_hundred_kills_in_mid_write_lose_nothing(tmp_path: Path) -> None:
    chance, port = random.Random(5), free_port()
    writers = [Writer(number) for number in range(WRITERS)]
    async with forker(tmp_path / "names.sqlite", port) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for _ in range(ROUNDS):
            parent.stdin.write(b"start\n")
            server = int(await asyncio.wait_for(parent.stdout.readline(), 20))
            acknowledged = asyncio.Semaphore(0)
            async with asking(f"http://127.0.0.1:{port}") as client:
                await asyncio.gather(*(writer.check(client) for writer in writers))
                at_work = asyncio.gather(*(writer.write(client, acknowledged) for writer in writers))
                for _ in range(chance.randint(1, 40)):
                    await asyncio.wait_for(acknowledged.acquire(), 20)
                os.kill(server, signal.SIGKILL)
                await at_work
        parent.stdin.write(b"start\n")
        server = int(await asyncio.wait_for(parent.stdout.readline(), 20))
        async with asking(f"http://127.0.0.1:{port}") as client:
            await asyncio.gather(*(writer.check(client) for writer in writers))
        os.kill(server, signal.SIGTERM)
    assert all(len(writer.acknowledged) == 3 for writer in writers)


async def test_a_restart_of_postgres_loses_nothing(cluster: Cluster, postgres: str) -> None:
    """Crashed in mid-write: meanwhile 503, afterwards served again by the same processes."""
    writers = [Writer(number) for number in range(WRITERS)]
    async with (
        serving(postgres, *UNLIMITED) as one,
        serving(postgres, *UNLIMITED) as two,
        asking(one.url) as first,
        asking(two.url) as second,
    ):
        acknowledged = asyncio.Semaphore(0)
        clients = itertools.cycle((first, second))
        tasks = [asyncio.create_task(writer.write(next(clients), acknowledged)) for writer in writers]
        for _ in range(200):
            await asyncio.wait_for(acknowledged.acquire(), 20)
        cluster.crash()
        await asyncio.wait_for(asyncio.gather(*(writer.refused.wait() for writer in writers)), 20)
        assert (await first.get(writers[0].names[0])).error == (503, "storage")
        assert (await second.ask("GET", "/health")).status == 503
        for writer in writers:
            writer.accepted.clear()
        await asyncio.to_thread(cluster.start)
        await asyncio.wait_for(asyncio.gather(*(writer.accepted.wait() for writer in writers)), 20)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(writer.check(second) for writer in writers))
        assert (await first.ask("GET", "/health")).status == 200


async def test_fifty_claims_through_two_processes_on_one_postgres_make_one_owner(postgres: str) -> None:
    async with (
        serving(postgres, *UNLIMITED) as one,
        serving(postgres, *UNLIMITED) as two,
        asking(one.url) as first,
        asking(two.url) as second,
    ):
        for name in ("prize-one", "prize-two", "prize-three"):
            owners = [Owner() for _ in range(50)]
            bodies = [owner.seal(owner.claim(name, issued=int(time.time()))) for owner in owners]
            clients = itertools.cycle((first, second))
            answers = await asyncio.gather(*(next(clients).put(body, name) for body in bodies))
            assert sorted(answer.status for answer in answers) == [201] + [409] * 49
            winner = bodies[[answer.status for answer in answers].index(201)]
            assert [(await client.get(name)).body for client in (first, second)] == [winner, winner]


async def until_health(client: Client, status: int) -> str:
    """The reason that health then gives; it looks once a second."""
    async with asyncio.timeout(20):
        while True:
            answer = await client.ask("GET", "/health")
            if answer.status == status:
                return str(answer.json.get("reason", ""))
            await asyncio.sleep(0.05)


def need_root_like(*programs: str) -> None:
    if os.getuid() != 0 or not all(map(shutil.which, programs)):
        if os.environ.get("CI") == "true":
            pytest.fail(f"needs root, and {', '.join(programs)}")
        pytest.skip(f"needs root, and {', '.join(programs)}")


def write_for_ever(file: BinaryIO, size: int) -> None:
    while True:
        file.write(bytes(size))


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Not a byte left on the file system."""
    fill = folder / "fill"
    with fill.open("wb", buffering=0) as file:
        for size in (65536, 512):
            with pytest.raises(OSError, match="No space left"):
                write_for_ever(file, size)
    yield
    fill.unlink()


async def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    need_root_like("unshare", "mount")
    mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    wrap = ("unshare", "-m", "sh", "-c", mount, str(tmp_path))
    async with serving(tmp_path / "names.sqlite", wrap=wrap) as server, asking(server.url) as client:
        first = ALICE.seal(ALICE.claim(issued=int(time.time())))
        assert (await client.put(first)).status == 201
        # The disk as the server sees it: it is mounted in a namespace of its own.
        with filled(Path(f"/proc/{server.process.pid}/root{tmp_path}")):
            answers = [
                await client.put(ALICE.seal(ALICE.claim(sequence=n, issued=int(time.time())))) for n in range(2, 9)
            ]
            refused = [answer for answer in answers if answer.status != 200]
            assert refused
            assert {answer.error for answer in refused} == {(503, "storage")}
            assert "cannot be written" in refused[0].json["reason"]
            assert int(refused[0].headers["Retry-After"]) >= 1
            assert "cannot be written" in await until_health(client, 503)
            assert (await client.get()).status == 200
        assert await until_health(client, 200) == ""
        assert (await client.put(ALICE.seal(ALICE.claim(sequence=99, issued=int(time.time()))))).status == 200


async def test_a_read_only_database_is_looked_up_in_and_not_written(tmp_path: Path) -> None:
    need_root_like("setpriv")
    database = tmp_path / "names.sqlite"
    data = ALICE.seal(ALICE.claim(issued=int(time.time())))
    async with serving(database) as server, asking(server.url) as client:
        assert (await client.put(data)).status == 201
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    database.chmod(0o400)
    # Root without the capability that makes it root for files.
    wrap = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")
    async with serving(database, wrap=wrap) as server, asking(server.url) as client:
        assert (await client.get()).body == data
        refused = await client.put(ALICE.seal(ALICE.claim(sequence=2, issued=int(time.time()))))
        assert refused.error == (503, "storage")
        assert "readonly" in refused.json["reason"]
        assert "readonly" in await until_health(client, 503)


async def test_stopping_finishes_what_was_begun(tmp_path: Path) -> None:
    """SIGTERM in mid-write: every request gets an answer or a closed connection, and what was answered is there."""
    writers = [Writer(number) for number in range(WRITERS)]
    acknowledged = asyncio.Semaphore(0)
    async with serving(tmp_path / "names.sqlite", *UNLIMITED) as server, asking(server.url) as client:
        at_work = asyncio.gather(*(writer.write(client, acknowledged) for writer in writers))
        for _ in range(100):
            await asyncio.wait_for(acknowledged.acquire(), 20)
        server.process.terminate()
        await at_work
        assert await asyncio.wait_for(server.process.wait(), 20) == 0
    assert not (tmp_path / "names.sqlite-wal").exists()
    async with serving(tmp_path / "names.sqlite", *UNLIMITED) as server, asking(server.url) as client:
        await asyncio.gather(*(writer.check(client) for writer in writers))
