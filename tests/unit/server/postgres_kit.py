"""A PostgreSQL of the tests' own: the installed programs, a fresh cluster, and a Unix socket nobody else knows."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), *map(str, FOLDERS)])
PATIENCE = 30.0


def program(name: str) -> str:
    found = shutil.which(name, path=SEARCH)
    if found is None:
        reason = f"{name} (PostgreSQL) is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def unprivileged() -> tuple[str, ...]:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return ()
    return (program("setpriv"), "--reuid=nobody", "--regid=nogroup", "--clear-groups")


class Cluster:
    """One server process at a time; `crash` and `start` keep the data."""

    def __init__(self) -> None:
        # Not below pytest's folder, which only its user may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="warpgate-pg-"))
        self._postgres, initdb = program("postgres"), program("initdb")
        if os.getuid() == 0:
            os.chown(self.folder, pwd.getpwnam("nobody").pw_uid, -1)
        command = [*unprivileged(), initdb, "-D", str(self.folder / "data"), "-A", "trust", "-U", "warpgate"]
        subprocess.run([*command, "-E", "UTF8", "--no-sync"], check=True, capture_output=True, cwd=self.folder)
        self._databases = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def new_database(self) -> str:
        """Its URL."""
        self._databases += 1
        name = f"names{self._databases}"
        command = [program("createdb"), "-h", str(self.folder), "-U", "warpgate", name]
        subprocess.run(command, check=True, capture_output=True)
        return f"postgresql://warpgate@/{name}?host={self.folder}"

    def start(self) -> None:
        settings = ["-k", str(self.folder), "-c", "listen_addresses=", "-c", "max_connections=100"]
        with (self.folder / "log").open("ab") as log:
            command = [*unprivileged(), self._postgres, "-D", str(self.folder / "data"), *settings]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        ready = [program("pg_isready"), "-q", "-h", str(self.folder)]
        give_up = time.monotonic() + PATIENCE
        while subprocess.run(ready, check=False).returncode != 0:
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < give_up, "PostgreSQL does not start"

    def crash(self) -> None:
        """Immediate shutdown: no checkpoint, what is on the disk has to do (recovery at the next start)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(PATIENCE)
            self._process = None

    def close(self) -> None:
        self.crash()
        shutil.rmtree(self.folder)
