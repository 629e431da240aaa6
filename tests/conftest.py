"""What holds for all tests."""

from __future__ import annotations

import contextlib

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Where tests run in parallel, the workers inherit the lab's privileges: a worker has two threads, too many to get
    any without root. The lab's tests say what is missing where there are none.
    """
    if config.getoption("numprocesses", None):
        from warpgate.errors import ConfigError  # noqa: PLC0415 - the lab is Linux's
        from warpgate.lab.namespace import acquire_privileges  # noqa: PLC0415

        with contextlib.suppress(ConfigError):
            acquire_privileges()
