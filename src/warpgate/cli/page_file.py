"""`--html FILE`: where a page is written, checked before there is one to write."""

from __future__ import annotations

import os
from pathlib import Path

from warpgate.cli.options import UsageError
from warpgate.cli.records import PageWritten
from warpgate.core.disk.whole_file import replace_file


class PageFile:
    """A page that is there already is replaced, by a whole one."""

    def __init__(self, name: str) -> None:
        """UsageError where no file can be put: now rather than after the work."""
        self._path = path = Path(name)
        if path.exists() and not path.is_file():
            raise UsageError(f"--html: {name} is no file")  # a device, too, is not to be replaced
        if not path.parent.is_dir():
            raise UsageError(f"--html: there is no directory {path.parent}")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise UsageError(f"--html: nothing can be written to {path.parent}")

    def write(self, page: str) -> PageWritten:
        """OSError. Readable for its owner alone: there are addresses in it."""
        replace_file(self._path, page.encode("utf-8"))
        return PageWritten(str(self._path))
