"""`warpgate serve` as a program: its defaults, its limits, what it imports, and how it starts and stops."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from warpgate.cli.parser import build_parser
from warpgate.cli.serve import _limits
from warpgate.server.limits import Limits

WITHOUT_AIOHTTP = """
import sys
import warpgate, warpgate.cli.main
from warpgate import Config, Identity, Node
warpgate.cli.main.main(["--help"])
Node(Config(brokers=(), stun=()), identity=Identity.generate())
sys.exit([name for name in sys.modules if name.startswith(("aiohttp", "warpgate.server"))] or None)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_options_defaults_are_those_of_the_server() -> None:
    assert _limits(build_parser().parse_args(["serve"])) == Limits()


def test_zero_is_no_limit() -> None:
    words = ["--names-per-key=0", "--names-per-network=0", "--writes-per-key=0", "--writes-per-network=0"]
    words += ["--lookups-per-network=0", "--connections-per-network=0", "--connections=7"]
    assert _limits(build_parser().parse_args(["serve", *words])) == Limits(*[None] * 5, 7, None)


def test_nobody_else_imports_the_server() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_AIOHTTP], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_the_extra_one_sentence_says_what_is_missing() -> None:
    program = "import sys; sys.modules['aiohttp'] = None; from warpgate.cli.main import main; sys.exit(main(['serve']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "warpgate: `serve` needs the package aiohttp: pip install 'warpgate[serve]'\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_and_down(tmp_path: Path, number: signal.Signals) -> None:
    """With the database where the user's data is, and as many files as connections allowed."""
    command = [
        sys.executable,
        "-m",
        "warpgate",
        "serve",
        "--json",
        "--host",
        "127.0.0.1",
        "--connections",
        "2000",
    ]
    process = subprocess.Popen(
        [*command, "--port", str(free_port())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"WARPGATE_DATA": str(tmp_path), "PATH": ""},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (512, 3000)),  # noqa: PLW1509 - no threads
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["database"] == str(tmp_path / "names.sqlite")
        with urllib.request.urlopen(f"{ready['url']}/health", timeout=20) as health:
            assert json.load(health)["status"] == "ok"
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] == 2256
    finally:
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == (0 if number is signal.SIGTERM else 130)
    assert errors == b""
