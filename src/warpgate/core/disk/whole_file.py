"""Files that are either the old one or the new one, never a part, whatever happens in between."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from warpgate.platform import FILES


def replace_file(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Put a file with mode 0600 at `path`, in place of one that is there; its folder is made with mode 0700.

    `durable`: on the disk when this returns. OSError.
    """
    with draft_of(path, data, durable=durable) as draft:
        FILES.replace(draft, path)


@contextmanager
def draft_of(path: Path, data: bytes, *, durable: bool) -> Iterator[Path]:
    """A file beside `path`, in a folder made as above, that is gone when the block ends unless it was moved."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".new-{secrets.token_hex(8)}")
    try:
        with open(draft, "xb", opener=_for_us) as file:
            FILES.protect(draft)
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _for_us(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def read_small(path: Path, limit: int) -> bytes:
    """OSError; ValueError when it is larger than `limit` bytes, and so some other file."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path} has more than {limit} bytes")
    return data
