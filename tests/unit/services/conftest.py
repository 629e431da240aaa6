from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from services_kit import Mosquitto


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Any]:
    """Call it to get a running broker."""
    running: list[Mosquitto] = []

    def launch(extra: str = "") -> Mosquitto:
        broker = Mosquitto(tmp_path, extra)
        running.append(broker)
        broker.start()
        return broker

    yield launch
    for broker in running:
        broker.kill()
