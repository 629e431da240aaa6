"""The lab itself, or a reason why this machine cannot have one (which is a failure where CI=true)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from needs import missing

from warpgate.errors import ConfigError
from warpgate.lab.namespace import acquire_privileges
from warpgate.lab.topology import Lab


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
