"""TARGET on the command line: an address text, a file holding one (`@file`), or a nickname; a service behind it."""

from __future__ import annotations

from pathlib import Path

from warpgate.cli.options import UsageError
from warpgate.cli.suggestions import as_a_file, file_like
from warpgate.config import Config
from warpgate.core.names.destination import NO_NAME_SERVER, parse_destination
from warpgate.errors import AddressError, ServiceError
from warpgate.model.address import NodeAddress
from warpgate.model.nickname import fold
from warpgate.model.wanted import is_service_name

LARGEST_FILE = 65_536  # an address text has a few hundred characters


def parse_target(text: str, config: Config) -> NodeAddress | str:
    """An address, or a folded nickname. UsageError when it is neither, ServiceError for a nickname that no name server
    can be asked for.
    """
    if text.startswith("@"):
        return _parse_address(_read(Path(text[1:]).expanduser()), f"the address in {text[1:]}")
    try:
        target = parse_destination(text)
    except AddressError as error:
        raise UsageError(f"TARGET: {error}{as_a_file(text)}") from error
    if not isinstance(target, str):
        return target
    try:
        return check_name(target, config)
    except ServiceError as error:
        raise ServiceError(f"{error}{as_a_file(text)}") from error


def split_service(text: str) -> tuple[str, str]:
    """TARGET and SERVICE of TARGET/SERVICE, "" without one. The path of an address file may have slashes of its own."""
    target, slash, service = text.rpartition("/")
    if not slash or (text.startswith("@") and Path(text[1:]).expanduser().exists()):
        return text, ""
    if text.startswith("@") and not Path(target[1:]).expanduser().is_file():
        return text, ""
    if not is_service_name(service):
        raise UsageError(f"TARGET: {service!r} is no name of a service")
    return target, service


def check_name(text: str, config: Config) -> str:
    """The folded nickname. NicknameError, and ServiceError when no name server is configured."""
    name = fold(text)
    if not config.names:
        raise ServiceError(f"{name!r} is a nickname, and {NO_NAME_SERVER}")
    return name


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot read the address file {path}: {reason}{file_like(path)}") from error
    return data.decode("utf-8", "replace")


def _parse_address(text: str, what: str) -> NodeAddress:
    try:
        return NodeAddress.from_text("".join(text.split()))  # mail programs and terminals break long lines
    except AddressError as error:
        raise UsageError(f"{what}: {error}") from error
