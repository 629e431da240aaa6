"""The lab itself, or a reason why this machine cannot have one (which is a failure where CI=true)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from needs import missing

from warpgate.errors import ConfigError
from warpgate.lab.namespace import acquire_privileges
from warpgate.lab.topology import Lab


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of many minutes run only when asked for by their mark, whatever else `-m` selects."""
    if "long" in config.getoption("-m"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="session")
def privileges() -> None:
    try:
        acquire_privileges()
    except ConfigError as error:
        missing(str(error))


@pytest.fixture
async def lab(privileges: None) -> AsyncIterator[Lab]:
    async with Lab(seed=5) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_left(privileges: None) -> Iterator[None]:
    """No descriptor and no child process outlives a test; those of earlier ones are not its own."""
    before, others = set(os.listdir("/proc/self/fd")), children()
    yield
    after = set(os.listdir("/proc/self/fd"))
    assert len(after) <= len(before), {
        fd: os.readlink(f"/proc/self/fd/{fd}") for fd in after - before if os.path.exists(f"/proc/self/fd/{fd}")
    }
    assert children() <= others


def children() -> set[int]:
    """The processes that this one has started, also those that have ended and that nobody has waited for."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            _, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if int(parent) == os.getpid():
                found.add(int(stat.parent.name))
    return found
