"""A program that sets up logging hears of its own doings and ours, and nothing of the libraries beneath."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from quic_kit import Path

PROGRAM = """
import logging, sys
logging.basicConfig(level=sys.argv[1], stream=sys.stderr, format="%(name)s: %(message)s")
sys.path.insert(0, "tests/unit/core")
from quic_kit import Path
path = Path()
client, server = path.open()
client.close(2, "reset by the peer")
path.steps(60)
assert server.failure is not None
"""


@pytest.mark.parametrize("level", ["WARNING", "DEBUG"])
def test_a_closed_stream_leaves_no_line_of_its_library(level: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, level], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stderr == ""


def test_who_has_set_up_the_librarys_logger_hears_it() -> None:
    program = PROGRAM.replace(
        "sys.path.insert", "logging.getLogger('quic').setLevel('WARNING'); sys.path.insert"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, "WARNING"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "quic: Native peer close" in run.stderr


def test_a_program_that_makes_many_streams_gets_no_handler_for_each() -> None:
    handlers = logging.getLogger("quic").handlers
    Path().open()
    before = len(handlers)
    Path().open()
    assert len(handlers) == before
