import os

import pytest
from loopback_kit import start

__all__ = ["own_home", "start"]


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """No test reads the user's files or environment."""
    for name in list(os.environ):
        if name.startswith("WARPGATE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WARPGATE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path
