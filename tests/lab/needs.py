"""What this machine must have for a test; what is missing is a skip here and a failure where CI=true."""

from __future__ import annotations

import os
import shutil

import pytest

from warpgate.lab.servers import SEARCH


def missing(reason: str) -> None:
    """Skip here; fail where everything is meant to be installed."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def need_programs(*names: str) -> None:
    for name in names:
        if not (shutil.which(name) or shutil.which(name, path=SEARCH)):
            missing(f"{name} is not installed")
