"""The lab itself, or a reason why this machine cannot have one (which is a failure where CI=true)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

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
    """No descriptor and no child process outlives a test."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    after = set(os.listdir("/proc/self/fd"))
    assert len(after) <= len(before), {
        fd: os.readlink(f"/proc/self/fd/{fd}")
        for fd in after - before
        if os.path.exists(f"/proc/self/fd/{fd}")
    }
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
