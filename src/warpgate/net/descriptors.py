"""How many files and sockets this process may have open."""

from __future__ import annotations

import sys

# Where the system knows no such limit.
UNLIMITED = 1 << 20


def limit() -> int:
    """What the process may have now (RLIMIT_NOFILE)."""
    if sys.platform == "win32":
        return UNLIMITED
    import resource  # noqa: PLC0415 - not on Windows

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def ask_for(count: int) -> int:
    """Raise the limit to `count`, as far as the system lets us; what it is now.

    Most systems let a program open 1,024 files, and more when it asks. For programs, not libraries: it is the whole
    process's.
    """
    if sys.platform == "win32" or limit() >= count:
        return limit()
    import resource  # noqa: PLC0415 - not on Windows

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (count if hard == resource.RLIM_INFINITY else min(count, hard), hard)
    )
    return limit()
