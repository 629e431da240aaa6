"""Programs that we start beside us: with no more rights than they need, and never without us.

`python -m warpgate.server.child PARENT USER PROGRAM [ARGUMENT]...` gives up root, asks the kernel to be killed when its
parent dies, and becomes the program. This order matters: a change of user, the program's own included, makes the kernel
forget that request (prctl(2), PR_SET_PDEATHSIG). A `preexec_fn` would run Python between fork and exec, which is
unsafe beside threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from stat import S_IROTH, S_IXOTH

from warpgate.errors import ConfigError

PR_SET_PDEATHSIG = 1
KEEP = "-"  # instead of a user: stay who we are


def unprivileged_user(*names: str) -> str:
    """The first of these users that root can become, else `KEEP`; also `KEEP` for who is not root."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return KEEP
    import pwd  # noqa: PLC0415 - no such module on Windows

    for name in names:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        if _mapped(user.pw_uid):
            return name
    return KEEP


def _mapped(uid: int) -> bool:
    """Whether this user exists in our user namespace: root of a small one can become nobody else."""
    try:
        ranges = Path("/proc/self/uid_map").read_text().splitlines()
    except OSError:
        return True  # not Linux
    return any(int(first) <= uid < int(first) + int(count) for first, _, count in map(str.split, ranges))


def readable_by_all(*paths: str) -> bool:
    """Whether any user gets there. A Python in root's home, say, cannot import anything more as somebody else."""
    for path in map(Path, paths):
        for part in (path, *path.parents):
            try:
                if not part.stat().st_mode & (S_IXOTH if part.is_dir() else S_IROTH):
                    return False
            except OSError:
                return False
    return True


def raise_descriptor_limit() -> None:
    """Each connection takes one; most systems give 1,024 to begin with and allow many more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def become_child(parent: int, user: str) -> None:
    """In the new process: allow as many descriptors as we may, give up root, and tie our life to `parent`'s.

    Exits when the parent is dead already. Raises OSError.
    """
    raise_descriptor_limit()
    if user != KEEP:
        import pwd  # noqa: PLC0415

        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        raise SystemExit(1)


def memory_file(name: str, content: bytes) -> int:
    """The descriptor of a file that is nowhere on disk and readable by the program we start, whoever it runs as.

    A program that inherits it opens it as `/dev/fd/N`. Raises OSError, and ConfigError where there is no such thing.
    """
    if sys.platform != "linux":
        raise ConfigError(
            "a broker can be run on Linux only: start mosquitto by yourself (deploy/mosquitto.conf)"
        )
    descriptor = os.memfd_create(name)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return descriptor


def main() -> None:
    parent, user, *command = sys.argv[1:]
    become_child(int(parent), user)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
