"""Files that are either the old one or the new one, never a part, whatever happens in between."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from warpgate.platform import FILES


def replace_file(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Put a file with mode 0600 at `path`, in place of one that is there; its folder is made with mode 0700.

    `durable`: on the disk when this returns. OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, draft_name = tempfile.mkstemp(prefix=".new-", dir=path.parent)  # mode 0600 whatever the umask says
    draft = Path(draft_name)
    try:
        FILES.protect(draft)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        FILES.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read_small(path: Path, limit: int) -> bytes:
    """OSError; ValueError when it is larger than `limit` bytes, and so some other file."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path} has more than {limit} bytes")
    return data
