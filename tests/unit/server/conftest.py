from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from postgres_kit import Cluster

from warpgate.server.postgres import open_postgres
from warpgate.server.sqlite import open_sqlite
from warpgate.server.store import Store


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Shared by all tests: one takes 2 s to make."""
    made = Cluster()
    yield made
    made.close()


@pytest.fixture
def postgres(cluster: Cluster) -> str:
    """The URL of an empty database."""
    return cluster.new_database()


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Each test that takes it runs against both."""
    if request.param == "sqlite":
        async with open_sqlite(tmp_path / "names.sqlite") as opened:
            yield opened
    else:
        async with open_postgres(request.getfixturevalue("postgres")) as opened:
            yield opened
