"""What Linux alone has for files and processes: proc(5), memfd_create(2), prctl(2), user_namespaces(7)."""

from __future__ import annotations

import sys

assert sys.platform == "linux" or sys.platform == "android"

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from warpgate.platform.posix_files import PosixFiles
from warpgate.platform.posix_processes import PosixProcesses

# sun_path has 108 bytes with the zero at its end (unix(7)); what is close to it is shortened, too.
LONGEST_PATH = 100
PR_SET_PDEATHSIG = 1


class LinuxFiles(PosixFiles):
    @contextmanager
    def short_path(self, path: Path) -> Iterator[str]:
        """A long one by way of its folder, opened."""
        if len(os.fsencode(path)) <= LONGEST_PATH or not Path("/proc/self/fd").is_dir():
            yield str(path)
            return
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{folder}/{path.name}"
        finally:
            os.close(folder)


class LinuxProcesses(PosixProcesses):
    may_have_systemd = True

    def _exists(self, uid: int) -> bool:
        """In our user namespace: root of a small one can become nobody else."""
        try:
            ranges = Path("/proc/self/uid_map").read_text().splitlines()
        except OSError:
            return True
        return any(int(first) <= uid < int(first) + int(count) for first, _, count in map(str.split, ranges))

    def become(self, user: str) -> None:
        # `end_with_parent` comes next: from then on a Python in root's home is out of reach.
        import ctypes  # noqa: F401, PLC0415 - for servers alone

        super().become(user)

    def end_with_parent(self) -> None:
        import ctypes  # noqa: PLC0415 - for servers alone

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")

    has_memory_files = True

    def memory_file(self, name: str, content: bytes) -> int:
        descriptor = os.memfd_create(name)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        return descriptor
