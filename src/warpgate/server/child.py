"""Programs that we start beside us: with no more rights than they need, and never without us.

`python -m warpgate.server.child PARENT USER PROGRAM [ARGUMENT]...` gives up root, asks the kernel to be killed when its
parent dies, and becomes the program. This order matters: a change of user, the program's own included, makes the kernel
forget that request (prctl(2), PR_SET_PDEATHSIG). A `preexec_fn` would run Python between fork and exec, which is
unsafe beside threads.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from stat import S_IROTH, S_IXOTH

from warpgate.platform import FILES, PROCESSES

KEEP = "-"  # instead of a user: stay who we are


def unprivileged_user(*names: str) -> str:
    """The first of these users that root can become, else `KEEP`; also `KEEP` for who is not root."""
    return PROCESSES.user_to_become(*names) or KEEP


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
    with contextlib.suppress(ValueError, OSError):
        FILES.ask_for_open_files(None)


def become_child(parent: int, user: str) -> None:
    """In the new process: allow as many descriptors as we may, give up root, and tie our life to `parent`'s.

    Exits when the parent is dead already. Raises OSError.
    """
    raise_descriptor_limit()
    if user != KEEP:
        PROCESSES.become(user)
    PROCESSES.end_with_parent()
    if os.getppid() != parent:
        raise SystemExit(1)


def main() -> None:
    parent, user, *command = sys.argv[1:]
    become_child(int(parent), user)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
