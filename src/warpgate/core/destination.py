"""What a user may give as a destination."""

from __future__ import annotations

import re

from warpgate.errors import AddressError, ServiceError
from warpgate.model.address import NodeAddress

_NICKNAME = re.compile(r"[\w.-]{1,64}")


def parse_destination(dest: bytes | str | NodeAddress) -> NodeAddress:
    """Address bytes, address text, or an address. AddressError when it is none of these.

    ServiceError for a nickname: there is no name service to ask.
    """
    if isinstance(dest, NodeAddress):
        return dest
    if isinstance(dest, bytes | bytearray):
        return NodeAddress.decode(bytes(dest))
    try:
        return NodeAddress.from_text(dest)
    except AddressError:
        if _NICKNAME.fullmatch(dest) and not dest.lower().startswith("wg1"):
            raise ServiceError(
                f"{dest!r} looks like a nickname, but this version has no name service: give an address (wg1...)"
            ) from None
        raise
