"""Which process has an identity for accepting peers: a lock on a file beside the key.

The file also remembers the instances (`proto/instances.py`) of those that had it before, so that a restarted process
knows the addresses of its predecessors for its own. It stays when the process ends: only the lock goes.

    line 1   the process id of who holds the lock, or held it last
    others   instances in hexadecimal digits, the newest first
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from warpgate.core.disk.identity_store import identity_file
from warpgate.errors import IdentityInUse
from warpgate.lazy_dataclass import dataclass
from warpgate.model.wanted import INSTANCE_SIZE
from warpgate.platform import FILES

# Addresses live as long as chats: two restarts a day for a month.
REMEMBERED = 64
LARGEST_FILE = 4096


class Claim:
    """Held from `claim` until `release`, or the end of the process."""

    def __init__(self, handle: int | None, earlier: tuple[bytes, ...]) -> None:
        self._handle = handle
        self.earlier = earlier

    def release(self) -> None:
        """Idempotent."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)  # which gives up the lock


UNCLAIMED = Claim(None, ())


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has an identity: the process id, "unknown" where the file does not say, and the instance, b"" likewise."""

    process: str
    instance: bytes


def claim(name: str, instance: bytes, directory: Path | None = None) -> Claim:
    """Take the identity called `name`, whose key exists, for the process with this instance.

    IdentityInUse when another process has it. Where nothing can be written or locked (a key on a read-only volume)
    nobody is kept out, and nothing remembered.
    """
    path = identity_file(name, directory).with_suffix(".lock")
    try:
        handle = FILES.open_lock(path)
    except OSError:
        return UNCLAIMED
    try:
        lines = _read(handle)
        if not FILES.try_lock(handle):
            raise IdentityInUse(name, _holder(lines).process)
        earlier = tuple(_instances(lines[1:]))[: REMEMBERED - 1]
        _write(handle, instance, earlier)
    except OSError:
        os.close(handle)
        return UNCLAIMED
    except BaseException:
        os.close(handle)
        raise
    return Claim(handle, earlier)


def holder(name: str, directory: Path | None = None) -> Holder | None:
    """Which process has the identity now. None where none has it, or that cannot be told."""
    path = identity_file(name, directory).with_suffix(".lock")
    if not path.exists():
        return None  # opening it would make it
    try:
        handle = FILES.open_lock(path)
        try:
            return None if FILES.try_lock(handle) else _holder(_read(handle))
        finally:
            os.close(handle)
    except OSError:
        return None


def _holder(lines: list[str]) -> Holder:
    process = lines[0] if lines and lines[0].isdigit() else "unknown"
    return Holder(process, next(iter(_instances(lines[1:2])), b""))


def _instances(lines: list[str]) -> list[bytes]:
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            instance = bytes.fromhex(line)
            if len(instance) == INSTANCE_SIZE:
                found.append(instance)
    return found


def _read(handle: int) -> list[str]:
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, LARGEST_FILE).decode("ascii", "replace").split()


def _write(handle: int, instance: bytes, earlier: tuple[bytes, ...]) -> None:
    """In place: the lock is on this very file."""
    lines = [str(os.getpid()), instance.hex(), *(each.hex() for each in earlier)]
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, "".join(f"{line}\n" for line in lines).encode("ascii"))
