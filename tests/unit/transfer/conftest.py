"""Two folders, and nobody who waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from warpgate.transfer import channel, sender


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Where things are, and where they go to."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    return here, there


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a second to try again."""
    monkeypatch.setattr(sender, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(channel, "PARTING", 0.5)
