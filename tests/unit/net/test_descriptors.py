"""The limit of open files, in a process of its own: what it is raised to stays raised."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource
from warpgate.net import descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 900))
print(descriptors.limit(), descriptors.ask_for(100), descriptors.ask_for(500), descriptors.ask_for(5000))
from warpgate.core.context import Context
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 900))
print(Context.within_descriptors(128), Context.within_descriptors(8))
"""


def test_it_is_raised_as_far_as_the_system_lets_us_and_budgets_fit_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True)
    assert done.stdout == "256 256 500 900\n32 8\n"
