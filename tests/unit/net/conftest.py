from __future__ import annotations

import pytest
from network_worlds import WORLDS, World


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> World:
    """Each implementation of the Network seam in turn."""
    return WORLDS[request.param]()
