"""Identities on disk: one PEM file each, readable by its owner alone, created once whoever asks first.

Two processes that start together with the same name must end up with the same key. The file is therefore
written in full under a name of its own and then linked to its final one, which succeeds for exactly one of
them.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from warpgate.core.disk.whole_file import draft_of
from warpgate.errors import ConfigError
from warpgate.model.identity import Identity
from warpgate.platform import FILES

# A name becomes a file name: nothing that could leave the directory, hide the file or be taken for an option.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
# A key file has about 250 bytes; whatever is much larger is some other file.
LARGEST_KEY_FILE = 16_384
ELSEWHERE = "set WARPGATE_DATA to a directory where it can be"


def data_directory() -> Path:
    """$WARPGATE_DATA, else the folder that the system has for programs' data (docs/operating.md).

    Raises ConfigError when there is neither a variable nor a home directory.
    """
    own = os.environ.get("WARPGATE_DATA", "")
    folder = Path(own) if own else FILES.data_folder(os.environ)
    if folder is None:
        raise ConfigError(f"there is no home directory to keep the identity in: {ELSEWHERE}")
    return folder


def load_or_create(name: str, directory: Path | None = None) -> Identity:
    """The identity called `name`, made on first use; it lives in `directory` (default: data_directory()).

    Raises ConfigError for a name that is not one, a file that is damaged, or one that others may read.
    """
    path = identity_file(name, directory)
    try:
        if not path.exists():
            with draft_of(path, Identity.generate().to_pem(), durable=True) as draft, suppress(FileExistsError):
                _publish(draft, path)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot keep an identity in {path.parent} ({reason}): {ELSEWHERE}") from error
    try:
        return _load(path)
    except OSError as error:
        raise ConfigError(f"identity file {path}: {error.strerror or error}") from error


def identity_file(name: str, directory: Path | None = None) -> Path:
    """Where the key is, or will be; ConfigError for a name that is none."""
    if NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{name!r} is no identity name: up to 64 letters, digits, '_', '-' and '.', "
            "beginning with a letter, a digit or '_'"
        )
    return (data_directory() if directory is None else directory) / "identities" / f"{name}.pem"


def _publish(draft: Path, path: Path) -> None:
    """Give the finished file its name; FileExistsError when the name is taken."""
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        raise
    except OSError:
        # Some file systems (FAT, some network mounts) have no hard links. Renaming would replace a file that
        # appeared meanwhile, so this creates exclusively; only there could a reader see it half written.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            FILES.protect(path)
            file.write(draft.read_bytes())


def _load(path: Path) -> Identity:
    with path.open("rb") as file:
        cure = FILES.others_may_read(path, file.fileno())
        pem = file.read(LARGEST_KEY_FILE + 1)
    # As ssh does: a key that others could have read is refused, not quietly repaired, since it may be known
    # already.
    if cure:
        raise ConfigError(f"identity file {path} can be read by others {cure}, or delete it to get a new identity")
    try:
        if len(pem) > LARGEST_KEY_FILE:
            raise ConfigError("far too large for a key")
        return Identity.from_pem(pem)
    except ConfigError as error:
        raise ConfigError(
            f"identity file {path} is damaged ({error}): restore it, or delete it to get a new identity"
        ) from error
