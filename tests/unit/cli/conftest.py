import os

import pytest


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """No test reads the user's files or environment."""
    for name in list(os.environ):
        if name.startswith("WARPGATE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WARPGATE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path
