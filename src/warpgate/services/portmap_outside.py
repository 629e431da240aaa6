"""Whether a gateway's external address is one that peers could connect to. A gateway may say anything."""

from __future__ import annotations

import enum

from warpgate.model.endpoint import IPAddress
from warpgate.model.scope import Scope, scope_of


class Outside(enum.Enum):
    """The value is what to tell the user."""

    USABLE = "its external address can be reached"
    NONE = "it has no external address: it is not connected"
    PRIVATE = "its external address is a private one, so another NAT is before it"
    NONSENSE = "what it calls its external address is none"


def judge(ip: IPAddress | None, own: IPAddress) -> Outside:
    """`own` is the address that is mapped; a firewall that only lets in names that one. A private IPv4 one is
    translated somewhere.
    """
    if ip is None or ip.is_unspecified:
        return Outside.NONE
    if ip.version != own.version:
        return Outside.NONSENSE
    scope = scope_of(ip)
    if scope is Scope.GLOBAL or (ip == own and ip.version == 6):
        return Outside.USABLE
    if ip == own:
        return Outside.NONSENSE
    return Outside.PRIVATE if scope in (Scope.SITE, Scope.TRANSLATOR) else Outside.NONSENSE
