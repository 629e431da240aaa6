"""An internet in memory, for tests in virtual time.

`FakeAttempt` is what one half of a strategy needs; `Pair` is two nodes at two sites; `MemoryInternet` is what to build
anything else on; `run_virtual` runs a test's coroutine. Each module is a public part: `servers`, `turn`, `name_server`
and `upnp_router` are servers that count what they saw and can be told to fail.
"""

from warpgate_testing.attempt import FakeAttempt, FakeLink
from warpgate_testing.clock import Deadlock, TimeLimit, run_virtual
from warpgate_testing.internet import MemoryInternet, MemoryRouter, PathSpec
from warpgate_testing.network import MemoryNetwork
from warpgate_testing.pair import Pair

__all__ = [
    "Deadlock",
    "FakeAttempt",
    "FakeLink",
    "MemoryInternet",
    "MemoryNetwork",
    "MemoryRouter",
    "Pair",
    "PathSpec",
    "TimeLimit",
    "run_virtual",
]
