"""Names in an SQLite file: one process, nothing to set up, and nothing acknowledged is lost.

Write-ahead log with `synchronous=FULL`: a commit is one fsync. What asks to be written while a transaction is on its
way to the disk becomes the next one, all in one (group commit), so that the disk bounds the delay and not the rate.
Transactions run in a thread of their own. Look-ups read through a second connection, on the loop: one takes a few
microseconds, much less than handing it to a thread and back.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from warpgate.lazy_dataclass import dataclass
from warpgate.net.threads import in_thread
from warpgate.server.rules import REMEMBERED, Counts, Refusal, Step, Stored, check_counts, decide
from warpgate.server.store import SCHEMA_VERSION, SEQUENCE_OFFSET, Change, StoreError, Tally

# Bounds how long the first one waits for the last: 50 us each.
_BATCH = 200
_PURGE = 200
_PURGE_ROUNDS = 50  # a call; the next one goes on
# More than that waiting means that the disk has stopped: refuse at once instead of piling up.
_WAITING = 10_000
# How long another process that holds the file (a backup) is waited for.
_BUSY_SECONDS = 0.5

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE names (
    name TEXT PRIMARY KEY, public_key BLOB NOT NULL, sequence INTEGER NOT NULL, expires INTEGER NOT NULL,
    network TEXT NOT NULL, record BLOB NOT NULL
);
CREATE INDEX names_public_key ON names (public_key);
CREATE INDEX names_network ON names (network);
CREATE INDEX names_expires ON names (expires);
CREATE TABLE tombstones (
    name TEXT, public_key BLOB, sequence INTEGER NOT NULL, forget INTEGER NOT NULL, PRIMARY KEY (name, public_key)
) WITHOUT ROWID;
CREATE TABLE probe (id INTEGER PRIMARY KEY CHECK (id = 0), writes INTEGER NOT NULL);
INSERT INTO probe VALUES (0, 0);
"""
_FIND = "SELECT public_key, sequence, expires, network, record FROM names WHERE name = ?"
_FIND_TOMBSTONE = "SELECT sequence FROM tombstones WHERE name = ? AND public_key = ?"
_LOOKUP = "SELECT record FROM names WHERE name = ? AND expires > ?"
_COUNTS = """
SELECT (SELECT count(*) FROM names WHERE public_key = ? AND expires > ?),
(SELECT count(*) FROM names WHERE network = ? AND expires > ?)
"""
_PUT = """
INSERT INTO names VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET public_key = excluded.public_key,
sequence = excluded.sequence, expires = excluded.expires, network = excluded.network, record = excluded.record
"""
_REFRESH = "UPDATE names SET sequence = ?, expires = ?, record = ? WHERE name = ?"
_REMOVE = "DELETE FROM names WHERE name = ? AND public_key = ?"
_BURY = """
INSERT INTO tombstones VALUES (?, ?, ?, ?) ON CONFLICT (name, public_key) DO UPDATE
SET sequence = max(sequence, excluded.sequence), forget = max(forget, excluded.forget)
"""
_PURGE_NAMES = "DELETE FROM names WHERE name IN (SELECT name FROM names WHERE expires <= ? LIMIT ?)"
_PURGE_TOMBSTONES = """
DELETE FROM tombstones WHERE (name, public_key) IN
(SELECT name, public_key FROM tombstones WHERE forget <= ? LIMIT ?)
"""


@asynccontextmanager
async def open_sqlite(path: Path) -> AsyncIterator[SqliteStore]:
    """Made with mode 0600 where it is missing. StoreError when it cannot be used.

    At the end, what was asked for by then is still written.
    """
    with ExitStack() as stack:
        try:
            _touch(path)
            write, read = (stack.enter_context(closing(_connect(path))) for _ in range(2))
            _prepare(write)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the database {path} cannot be opened: {error}") from error
        thread = stack.enter_context(ThreadPoolExecutor(1, "warpgate-names"))
        store = SqliteStore(path, write, read, thread)
        writer = asyncio.create_task(store.write())
        try:
            yield store
        finally:
            store.stop()
            await writer


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)


def _connect(path: Path) -> sqlite3.Connection:
    # Made on the loop; from then on the one that writes is used by the writer's thread alone.
    return sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _prepare(connection: sqlite3.Connection) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError(f"write-ahead logging is needed, and the journal mode is {mode}")
    connection.execute("PRAGMA synchronous = FULL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == SCHEMA_VERSION:
        return
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version or tables:
        raise sqlite3.OperationalError(f"its schema is of version {version}, this program knows {SCHEMA_VERSION}")
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Statements to be run within the next transaction, and who waits for it to be on the disk."""

    statements: Callable[[], Any]
    done: asyncio.Future[Any]


def _fail(those: Iterable[_Waiting], reason: str) -> None:
    """Tell those that have no outcome yet."""
    for each in those:
        if not each.done.done():
            each.done.set_exception(StoreError(reason))


class SqliteStore:
    """A Store. Nobody else writes through its connections; `write` runs as long as it is open."""

    def __init__(
        self, path: Path, write: sqlite3.Connection, read: sqlite3.Connection, thread: ThreadPoolExecutor
    ) -> None:
        self._path = path
        self._write = write
        self._read = read
        self._thread = thread
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._stopped = False

    async def lookup(self, name: str, now: float) -> bytes | None:
        try:
            row = self._read.execute(_LOOKUP, (name, now)).fetchone()
        except sqlite3.Error as error:
            raise StoreError(f"the database cannot be read: {error}") from error
        return None if row is None else bytes(row[0])

    async def apply(self, change: Change) -> Step | Refusal:
        return await self._in_transaction(lambda: self._apply(change))

    async def check(self) -> None:
        await self._in_transaction(lambda: self._write.execute("UPDATE probe SET writes = writes + 1"))

    async def tidy(self, now: float) -> Tally:
        over, purged = int(now) - REMEMBERED, 0
        for _ in range(_PURGE_ROUNDS):
            gone = await self._in_transaction(lambda: self._purge(over, int(now)))
            purged += gone
            if gone < _PURGE:
                break
        return Tally(await in_thread(lambda: self._count(now)), purged)

    async def write(self) -> None:
        """One transaction after the other, until stopped and nothing waits."""
        try:
            while not self._stopped or self._waiting:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    count = min(len(self._waiting), _BATCH)
                    await self._commit([self._waiting.popleft() for _ in range(count)])
        finally:
            # Should a bug end this, nobody waits for ever: all are refused from now on, and health says so.
            self._stopped = True
            _fail(self._waiting, "nothing writes to the database any more")

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()

    async def _in_transaction(self, statements: Callable[[], T]) -> T:
        """What `statements` returns, once the transaction that holds them is on the disk."""
        if self._stopped or len(self._waiting) >= _WAITING:
            raise StoreError("the database does not keep up" if not self._stopped else "the server is stopping")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(statements, done))
        self._wake.set()
        return await done

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._transact, batch)
        except sqlite3.Error as error:
            _fail(batch, f"the database cannot be written: {error}")
        else:
            for each, result in zip(batch, results, strict=True):
                if not each.done.done():  # whoever waited may be gone
                    each.done.set_result(result)
        finally:
            _fail(batch, "the database was not written")

    # --- in the thread, from here on

    def _transact(self, batch: Sequence[_Waiting]) -> list[Any]:
        """All or nothing. When this returns, it is on the disk."""
        try:
            self._write.execute("BEGIN IMMEDIATE")
            results = [each.statements() for each in batch]
            self._write.execute("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):  # SQLite rolls some failures back by itself
                self._write.execute("ROLLBACK")
            raise
        return results

    def _apply(self, change: Change) -> Step | Refusal:
        record, now = change.record, int(change.now)
        stored = self._find(record.name)
        tombstone = None
        if stored is None or stored.public_key != record.public_key:  # an own row is newer than a tombstone
            found = self._write.execute(_FIND_TOMBSTONE, (record.name, record.public_key)).fetchone()
            tombstone = None if found is None else found[0] + SEQUENCE_OFFSET
        step = decide(record, change.data, stored, tombstone, change.now)
        sequence = record.sequence - SEQUENCE_OFFSET
        if step is Step.UPDATE:
            self._write.execute(_REFRESH, (sequence, record.expires, change.data, record.name))
        elif step is Step.CREATE:
            refusal = check_counts(self._counts(change), change.limits)
            if refusal is not None:
                return refusal
            if stored is not None and stored.public_key != record.public_key:
                self._bury(record.name, stored.public_key, stored.sequence, now)
            row = (record.name, record.public_key, sequence, record.expires, change.network, change.data)
            self._write.execute(_PUT, row)
        elif step is Step.RELEASE:
            self._write.execute(_REMOVE, (record.name, record.public_key))
            self._bury(record.name, record.public_key, record.sequence, now)
        return step

    def _find(self, name: str) -> Stored | None:
        row = self._write.execute(_FIND, (name,)).fetchone()
        if row is None:
            return None
        public_key, sequence, expires, network, record = row
        return Stored(public_key, sequence + SEQUENCE_OFFSET, expires, network, record)

    def _counts(self, change: Change) -> Counts:
        asked = (change.record.public_key, change.now, change.network, change.now)
        of_key, of_network = self._write.execute(_COUNTS, asked).fetchone()
        return Counts(of_key, of_network)

    def _bury(self, name: str, public_key: bytes, sequence: int, now: int) -> None:
        self._write.execute(_BURY, (name, public_key, sequence - SEQUENCE_OFFSET, now + REMEMBERED))

    def _purge(self, over: int, now: int) -> int:
        names = self._write.execute(_PURGE_NAMES, (over, _PURGE)).rowcount
        return names + self._write.execute(_PURGE_TOMBSTONES, (now, _PURGE)).rowcount

    def _count(self, now: float) -> int:
        """In a thread: with a million names it takes longer than the loop should stand still."""
        try:
            with closing(_connect(self._path)) as connection:
                found = connection.execute("SELECT count(*) FROM names WHERE expires > ?", (now,)).fetchone()
        except sqlite3.Error as error:
            raise StoreError(f"the database cannot be read: {error}") from error
        return int(found[0])
