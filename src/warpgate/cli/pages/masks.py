"""Findings fit to be shown to strangers: each address, key and private name has a mask, everywhere the same one.

So who reads them still sees which are equal, which are public and which are private, and the ports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from warpgate.model.endpoint import IPAddress
from warpgate.model.scope import Scope, scope_of
from warpgate.model.translation import SERVICE_CONTINUITY

_SCHEME: Final = re.compile(r"(mqtts?|wss?|https?|stuns?|turns?|turn-secret|turn-key):(//)?", re.IGNORECASE)
_HOST: Final = re.compile(r"[^:/?#\[\]\s]+")
_ADDRESS_TEXT: Final = re.compile(r"\bwg1[A-Za-z0-9._-]{20,}")
_NODE_ID: Final = re.compile(r"\b[a-z2-7]{26}\b")
_MAC: Final = re.compile(r"\b(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b")
# What may be an address; `ip_address` says whether it is one.
_IPV4: Final = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)")
_IPV6: Final = re.compile(r"(?<![\w:])[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*")
_KINDS: Final = {Scope.GLOBAL: "public", Scope.SITE: "private", Scope.LINK: "link"}
# The prefix of many a NAT64 (RFC 6052): it says what kind of network this is.
_WELL_KNOWN: Final = ip_address("64:ff9b::")


class Masks:
    """One page's. `private`: servers and peers as the user's settings name them, public ones left out."""

    def __init__(self, private: Iterable[str]) -> None:
        self._given: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}
        names = sorted({name for text in private if (name := host_of(text))}, key=lambda name: (-len(name), name))
        # With the rest of a URL: paths and queries of private services hold keys.
        self._names = (
            re.compile(
                rf"(?<![\w.-])({'|'.join(map(re.escape, names))})(?![\w-]|\.\w)(:\d+)?([/?][^\s,;)]*)?",
                re.IGNORECASE,
            )
            if names
            else None
        )
        self._home = str(Path.home())

    def __call__(self, text: str) -> str:
        if len(self._home) > 1:
            text = text.replace(self._home, "~")
        text = _ADDRESS_TEXT.sub(lambda found: self._mask("address", found[0]), text)
        if self._names is not None:
            text = self._names.sub(self._named, text)
        text = _MAC.sub(lambda found: self._mask("mac", found[0].lower()), text)
        text = _IPV6.sub(self._ip, text)
        text = _IPV4.sub(self._ip, text)
        return _NODE_ID.sub(lambda found: self._mask("node", found[0]), text)

    def _named(self, found: re.Match[str]) -> str:
        try:
            ip_address(found[1])
        except ValueError:
            mask = self._mask("host", found[1].lower())
        else:
            mask = found[1]  # masked with the other addresses
        rest = found[3] or ""
        return f"{mask}{found[2] or ''}{rest if rest.startswith('?transport=') else rest and '/...'}"

    def _ip(self, found: re.Match[str]) -> str:
        text = found[0].rstrip(":.") if not found[0].endswith("::") else found[0]
        for candidate in (found[0], text):
            try:
                return self._ip_mask(ip_address(candidate)) + found[0][len(candidate) :]
            except ValueError:
                continue
        return found[0]

    def _ip_mask(self, ip: IPAddress) -> str:
        # These are the same for everybody; so is what a translator gives its own host (RFC 7335).
        if ip.is_loopback or ip.is_unspecified or ip.is_multicast or ip == _WELL_KNOWN or ip in SERVICE_CONTINUITY:
            return str(ip)
        kind = _KINDS.get(scope_of(ip), "other")
        return self._mask(kind if ip.version == 4 else f"{kind}6", str(ip))

    def _mask(self, kind: str, value: str) -> str:
        if (kind, value) not in self._given:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._given[kind, value] = f"{kind}-{self._counts[kind]}"
        return self._given[kind, value]


def host_of(server: str) -> str:
    """The host in what users write for a server, or what they call a peer; "" for none."""
    rest = _SCHEME.sub("", server.strip().rpartition("@")[2], count=1)
    found = _HOST.match(rest)
    return "" if found is None else found[0]
