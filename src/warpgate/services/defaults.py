"""What comes with the package: the list of well-known public servers, and who may sign a newer one.

`data/servers.toml` and `data/list_keys.toml`, read when first asked for.
"""

from __future__ import annotations

import functools
import pkgutil

from warpgate.errors import ConfigError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.server_list import ServerList, parse_list

# More than one for a while, when a key makes room for the next.
MOST_KEYS = 4


@dataclass(frozen=True, slots=True)
class ListKeys:
    """`keys`: public ones (33 bytes), each of which is enough; `places`: https URLs where newer lists are."""

    keys: tuple[bytes, ...] = ()
    places: tuple[str, ...] = ()


@functools.cache
def public_servers() -> ServerList:
    """Reads a file that came with the package: DecodeError only when somebody broke it."""
    return parse_list(_data("servers.toml"))


@functools.cache
def list_keys() -> ListKeys:
    """Of the package. ConfigError when somebody broke it."""
    import tomllib  # noqa: PLC0415 - only where a list was fetched, or may be

    try:
        table = tomllib.loads(_data("list_keys.toml").decode())
        return ListKeys(tuple(map(bytes.fromhex, table["keys"]))[:MOST_KEYS], tuple(table["places"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"list_keys.toml of the package: {error}") from None


def public_login(url: str) -> tuple[str, str] | None:
    """What a well-known broker asks everybody for: addresses name brokers without."""
    return next((broker.login for broker in public_servers().brokers if str(broker) == url), None)


def _data(name: str) -> bytes:
    # `importlib.resources` would cost 1 MB and 20 ms.
    data = pkgutil.get_data("warpgate", f"data/{name}")
    assert data is not None  # whatever loads a package's modules can read its files
    return data
