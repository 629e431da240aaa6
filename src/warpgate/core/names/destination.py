"""What a user may give as a destination."""

from __future__ import annotations

import re

from warpgate.errors import ConfigError, NicknameError
from warpgate.model.address import NodeAddress
from warpgate.model.nickname import fold

NO_NAME_SERVER = (
    "no name server is configured: give the URL of one (--names URL, WARPGATE_NAMES, `names` in the config file, "
    "Config.names), or an address"
)
Destination = bytes | bytearray | str | NodeAddress
_ADDRESS_TEXT = re.compile(r"wg[0-9]", re.IGNORECASE)


def parse_destination(dest: Destination) -> NodeAddress | str:
    """An address, from its bytes, its text, or itself; or the folded nickname that a text is otherwise.

    AddressError when it is neither; the NicknameError among them says why a text is no nickname. ConfigError when it is
    of another type.
    """
    if isinstance(dest, NodeAddress):
        return dest
    if isinstance(dest, bytes | bytearray):
        return NodeAddress.decode(bytes(dest))
    if not isinstance(dest, str):
        raise ConfigError(
            f"a destination is an address (bytes, its text, or a NodeAddress) or a nickname, not {dest!r}"
        )
    if _ADDRESS_TEXT.match(dest.strip()):
        return NodeAddress.from_text(dest)
    try:
        return fold(dest.strip())
    except NicknameError as error:
        shown = dest if len(dest) <= 80 else dest[:80] + "..."
        raise NicknameError(f"{shown!r} is no address text (wg1...), and no nickname: {error}") from None
