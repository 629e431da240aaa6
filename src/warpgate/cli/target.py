"""TARGET on the command line: an address text, a file holding one (`@file`), or a nickname."""

from __future__ import annotations

import re
from pathlib import Path

from warpgate.cli.options import UsageError
from warpgate.errors import AddressError, ServiceError
from warpgate.model.address import NodeAddress

NICKNAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?", re.IGNORECASE)
LOOKS_LIKE_ADDRESS = re.compile(r"wg[0-9]", re.IGNORECASE)
LARGEST_FILE = 65_536  # an address text has a few hundred characters
NO_NAMES = "the name service is not available in this version"


def parse_target(text: str) -> NodeAddress:
    """Raises UsageError when it is none of the three, ServiceError for a nickname (no name service yet)."""
    if text.startswith("@"):
        return _parse_address(_read(Path(text[1:])), f"the address in {text[1:]}")
    if NICKNAME.fullmatch(text) and not LOOKS_LIKE_ADDRESS.match(text):
        raise ServiceError(f"{NO_NAMES}, so {text!r} cannot be looked up: give an address text or @FILE")
    return _parse_address(text, "TARGET")


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot read the address file {path}: {reason}") from error
    return data.decode("utf-8", "replace")


def _parse_address(text: str, what: str) -> NodeAddress:
    try:
        return NodeAddress.from_text("".join(text.split()))  # mail programs and terminals break long lines
    except AddressError as error:
        raise UsageError(f"{what}: {error}") from error
