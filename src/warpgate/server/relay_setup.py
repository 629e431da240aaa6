"""What a relay is to be, from what the operator says and the machine has: its addresses, and the group's secret."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from warpgate.core.disk.whole_file import replace_file
from warpgate.errors import ConfigError
from warpgate.model.endpoint import Family, IPAddress
from warpgate.model.rendezvous import SECRET
from warpgate.net.network import Interface
from warpgate.platform import FILES
from warpgate.server.addresses import is_public
from warpgate.server.relay import RelayAddress

SECRET_BYTES = 18


def relay_addresses(interfaces: Sequence[Interface], announced: Iterable[IPAddress]) -> Mapping[Family, RelayAddress]:
    """One address a family for peers; `announced`: those that clients reach this machine by.

    An announced address that no interface has is a one-to-one NAT's, with the machine's best one behind it. A family
    that nobody announced is served where its address is public.
    """
    named = {Family(ip.version): ip for ip in reversed(tuple(announced))}
    found: dict[Family, RelayAddress] = {}
    for family in Family:
        ours = [each.ip for each in interfaces if each.ip.version == family]
        wanted = named.get(family)
        if wanted in ours:
            found[family] = RelayAddress(wanted, wanted)
            continue
        usable = sorted((ip for ip in ours if not ip.is_loopback), key=lambda ip: not is_public(ip))
        if usable and wanted is not None:
            found[family] = RelayAddress(usable[0], wanted)
        elif usable and is_public(usable[0]):
            found[family] = RelayAddress(usable[0], usable[0])
    return found


def group_secret(path: Path) -> str:
    """That of the file, which is made with a new one at the first call. ConfigError."""
    try:
        if not path.exists():
            replace_file(path, (secrets.token_urlsafe(SECRET_BYTES) + "\n").encode(), durable=True)
        with path.open() as file:
            if cure := FILES.others_may_read(path, file.fileno()):
                raise ConfigError(f"relay secret {path} can be read by others {cure}")
            text = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"relay secret {path}: {error}") from error
    if SECRET.fullmatch(text) is None:
        raise ConfigError(f"relay secret {path}: it has 16 to 128 letters, digits, - and _")
    return text
