"""Programs of others that tests run: what is missing is a skip here, and a failure where everything is to be there."""

from __future__ import annotations

import os
import shutil

import pytest

from warpgate.lab.servers import SEARCH


def need_programs(*names: str) -> None:
    for name in names:
        if not (shutil.which(name) or shutil.which(name, path=SEARCH)):
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{name} is not installed")
