"""How many files and sockets this process may have open."""

from __future__ import annotations

from warpgate.platform import FILES


def limit() -> int:
    """What the process may have now."""
    return FILES.open_files_limit()


def ask_for(count: int) -> int:
    """Raise the limit to `count`, as far as the system lets us; what it is now.

    Most systems let a program open 1,024 files, and more when it asks. For programs, not libraries: it is the whole
    process's.
    """
    found = limit()
    return found if found >= count else FILES.ask_for_open_files(count)
