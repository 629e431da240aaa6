"""Names in PostgreSQL, for several server processes on one database.

An update of one's own name, by far the most frequent change, is a compare-and-swap: it takes effect only if the row
still has the key and the sequence that the decision was based on; otherwise it is decided anew. What changes a name's
owner or their number runs in a transaction under advisory locks on the name, the key and the network, always taken in
this order, so that limits hold over all processes; the statement itself still checks what it replaces.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from warpgate.errors import ConfigError
from warpgate.server.rules import REMEMBERED, Counts, Refusal, Step, Stored, check_counts, decide
from warpgate.server.store import SCHEMA_VERSION, SEQUENCE_OFFSET, Change, StoreError, Tally

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = PoolConnectionProxy[asyncpg.Record]

_CONNECTIONS = 10
_SECONDS = 5.0  # for a connection, and for a statement
# A change is decided anew when another process was quicker; each time one of them gets on.
_ATTEMPTS = 20
_PURGE = 1000

# Whatever the server's or the role's default is: what has been acknowledged survives a crash. Given when the session
# starts, since the pool resets what is set later.
_SETTINGS = {"application_name": "warpgate", "synchronous_commit": "on"}

_LOCK_SCHEMA = 0x77677001
_SCHEMA = """
CREATE TABLE IF NOT EXISTS warpgate_meta (
    id int PRIMARY KEY CHECK (id = 0), version int NOT NULL, probe bigint NOT NULL
);
INSERT INTO warpgate_meta VALUES (0, 1, 0) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS warpgate_names (
    name text PRIMARY KEY, public_key bytea NOT NULL, sequence bigint NOT NULL, expires bigint NOT NULL,
    network text NOT NULL, record bytea NOT NULL
);
CREATE INDEX IF NOT EXISTS warpgate_names_public_key ON warpgate_names (public_key);
CREATE INDEX IF NOT EXISTS warpgate_names_network ON warpgate_names (network);
CREATE INDEX IF NOT EXISTS warpgate_names_expires ON warpgate_names (expires);
CREATE TABLE IF NOT EXISTS warpgate_tombstones (
    name text, public_key bytea, sequence bigint NOT NULL, forget bigint NOT NULL, PRIMARY KEY (name, public_key)
);
"""
_FIND = """
SELECT n.public_key, n.sequence, n.expires, n.network, n.record,
(SELECT t.sequence FROM warpgate_tombstones t WHERE t.name = $1 AND t.public_key = $2) AS tombstone
FROM (SELECT 1) AS one LEFT JOIN warpgate_names n ON n.name = $1
"""
_LOOKUP = "SELECT record FROM warpgate_names WHERE name = $1 AND expires > $2"
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 1)), pg_advisory_xact_lock(hashtextextended($2, 2))"
_LOCK_NETWORK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 3))"
_COUNTS = """
SELECT (SELECT count(*) FROM warpgate_names WHERE public_key = $1 AND expires > $3),
(SELECT count(*) FROM warpgate_names WHERE network = $2 AND expires > $3)
"""
_REFRESH = """
UPDATE warpgate_names SET sequence = $3, expires = $4, record = $5
WHERE name = $1 AND public_key = $2 AND sequence = $6
"""
# $7 and $8: the key and the sequence of the row that may be replaced; NULL replaces none.
_PUT = """
INSERT INTO warpgate_names AS n VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO UPDATE SET
public_key = excluded.public_key, sequence = excluded.sequence, expires = excluded.expires,
network = excluded.network, record = excluded.record WHERE n.public_key = $7 AND n.sequence = $8
"""
_REMOVE = "DELETE FROM warpgate_names WHERE name = $1 AND public_key = $2 AND sequence = $3"
_BURY = """
INSERT INTO warpgate_tombstones AS t VALUES ($1, $2, $3, $4) ON CONFLICT (name, public_key) DO UPDATE
SET sequence = greatest(t.sequence, excluded.sequence), forget = greatest(t.forget, excluded.forget)
"""
_PURGE_NAMES = """
DELETE FROM warpgate_names WHERE expires <= $1 AND name IN
(SELECT name FROM warpgate_names WHERE expires <= $1 LIMIT $2)
"""
_PURGE_TOMBSTONES = "DELETE FROM warpgate_tombstones WHERE forget <= $1"


@asynccontextmanager
async def open_postgres(url: str) -> AsyncIterator[PostgresStore]:
    """ConfigError without the `postgres` extra; StoreError when the database cannot be used."""
    try:
        import asyncpg  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise ConfigError("a PostgreSQL database needs asyncpg: pip install 'warpgate[postgres]'") from None
    try:
        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=_CONNECTIONS,
            timeout=_SECONDS,
            command_timeout=_SECONDS,
            server_settings=_SETTINGS,
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        raise StoreError(f"the database {shown(url)} cannot be opened: {error}") from error
    try:
        store = PostgresStore(pool)
        await store.prepare()
        yield store
    finally:
        pool.terminate()  # nothing is on its way any more, and a dead server must not hold up our end


def shown(url: str) -> str:
    """As it may be printed: of a URL neither the password nor the parameters, which can hold one too."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url
    user, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"


class PostgresStore:
    """A Store."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def prepare(self) -> None:
        """Make the tables, or check their version. Several processes may do so at once."""
        async with self._connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK_SCHEMA)
            await connection.execute(_SCHEMA)
            version = await connection.fetchval("SELECT version FROM warpgate_meta")
        if version != SCHEMA_VERSION:
            raise StoreError(f"the database's schema is of version {version}, this program knows {SCHEMA_VERSION}")

    async def lookup(self, name: str, now: float) -> bytes | None:
        async with self._connection() as connection:
            found: bytes | None = await connection.fetchval(_LOOKUP, name, int(now))
        return found

    async def apply(self, change: Change) -> Step | Refusal:
        async with self._connection() as connection:
            for _ in range(_ATTEMPTS):
                stored, tombstone = await _find(connection, change)
                step = decide(change.record, change.data, stored, tombstone, change.now)
                if isinstance(step, Refusal) or step is Step.REPEATED:
                    return step
                outcome: Step | Refusal | None
                if step is Step.UPDATE and stored is not None:
                    outcome = await _refresh(connection, change, stored)
                else:
                    outcome = await _locked(connection, change)
                if outcome is not None:
                    return outcome
        raise StoreError(f"{change.record.name!r} is being changed by too many at once")

    async def check(self) -> None:
        async with self._connection() as connection:
            await connection.execute("UPDATE warpgate_meta SET probe = probe + 1")

    async def tidy(self, now: float) -> Tally:
        async with self._connection() as connection:
            names = _affected(await connection.execute(_PURGE_NAMES, int(now) - REMEMBERED, _PURGE))
            tombstones = _affected(await connection.execute(_PURGE_TOMBSTONES, int(now)))
            left = await connection.fetchval("SELECT count(*) FROM warpgate_names WHERE expires > $1", int(now))
        return Tally(left, names + tombstones)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """One of the pool's; what goes wrong while it is used is a StoreError."""
        import asyncpg  # noqa: PLC0415 - see `open_postgres`

        try:
            async with self._pool.acquire(timeout=_SECONDS) as connection:
                yield connection
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:  # OSError: TimeoutError too
            raise StoreError(f"the database failed: {error or type(error).__name__}") from error


async def _find(connection: Connection, change: Change) -> tuple[Stored | None, int | None]:
    row = await connection.fetchrow(_FIND, change.record.name, change.record.public_key)
    assert row is not None  # a left join of one row
    tombstone = None if row["tombstone"] is None else row["tombstone"] + SEQUENCE_OFFSET
    if row["public_key"] is None:
        return None, tombstone
    stored = Stored(row["public_key"], row["sequence"] + SEQUENCE_OFFSET, row["expires"], row["network"], row["record"])
    return stored, tombstone


async def _refresh(connection: Connection, change: Change, stored: Stored) -> Step | None:
    """None: somebody was quicker."""
    record = change.record
    done = await connection.execute(
        _REFRESH,
        record.name,
        record.public_key,
        record.sequence - SEQUENCE_OFFSET,
        record.expires,
        change.data,
        stored.sequence - SEQUENCE_OFFSET,
    )
    return Step.UPDATE if _affected(done) else None


async def _locked(connection: Connection, change: Change) -> Step | Refusal | None:
    """Create or release, decided anew under the locks. None: it is an update after all, or somebody was quicker."""
    record = change.record
    async with connection.transaction():
        await connection.execute(_LOCK, record.name, record.public_key.hex())
        await connection.execute(_LOCK_NETWORK, change.network)
        stored, tombstone = await _find(connection, change)
        step = decide(record, change.data, stored, tombstone, change.now)
        if step is Step.CREATE:
            return await _create(connection, change, stored)
        if step is Step.RELEASE:
            return await _release(connection, change, stored)
    return None


async def _create(connection: Connection, change: Change, stored: Stored | None) -> Step | Refusal | None:
    record = change.record
    row = await connection.fetchrow(_COUNTS, record.public_key, change.network, int(change.now))
    assert row is not None
    refusal = check_counts(Counts(row[0], row[1]), change.limits)
    if refusal is not None:
        return refusal
    done = await connection.execute(
        _PUT,
        record.name,
        record.public_key,
        record.sequence - SEQUENCE_OFFSET,
        record.expires,
        change.network,
        change.data,
        None if stored is None else stored.public_key,
        None if stored is None else stored.sequence - SEQUENCE_OFFSET,
    )
    if not _affected(done):
        return None
    if stored is not None and stored.public_key != record.public_key:
        await _bury(connection, change, stored.public_key, stored.sequence)
    return Step.CREATE


async def _release(connection: Connection, change: Change, stored: Stored | None) -> Step | None:
    record = change.record
    if stored is not None and stored.public_key == record.public_key:
        sequence = stored.sequence - SEQUENCE_OFFSET
        if not _affected(await connection.execute(_REMOVE, record.name, record.public_key, sequence)):
            return None
    await _bury(connection, change, record.public_key, record.sequence)
    return Step.RELEASE


async def _bury(connection: Connection, change: Change, public_key: bytes, sequence: int) -> None:
    forget = int(change.now) + REMEMBERED
    await connection.execute(_BURY, change.record.name, public_key, sequence - SEQUENCE_OFFSET, forget)


def _affected(status: str) -> int:
    """Rows, from a command's tag ("INSERT 0 1")."""
    return int(status.rpartition(" ")[2])
