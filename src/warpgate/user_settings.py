"""What the user of this machine has set: defaults < TOML file < environment (WARPGATE_*) < what the caller adds.

The same keys everywhere, `KEYS`; docs/configuration.md has them all. A repeatable key given once replaces the
defaults; an empty value means none. `rendezvous` stands for the name server, broker and STUN server that it lists, as
if they had been given in the same place.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpgate.config import Config
from warpgate.errors import AddressError, ConfigError
from warpgate.lazy_dataclass import dataclass

if TYPE_CHECKING:
    from warpgate.model.rendezvous import Rendezvous

TRUE = ("1", "true", "yes", "on")
FALSE = ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Choices:
    """What one place says; None where it says nothing. `json` and `verbose` are the command's alone."""

    identity: str | None = None
    broker: tuple[str, ...] | None = None
    stun: tuple[str, ...] | None = None
    server_list: tuple[str, ...] | None = None
    turn: tuple[str, ...] | None = None
    ice_servers: tuple[str, ...] | None = None
    ice_token: str | None = field(default=None, repr=False)
    relay_peer: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    rendezvous: tuple[str, ...] | None = None
    interface: tuple[str, ...] | None = None
    port: int | None = None
    port_map: bool | None = None
    json: bool | None = None
    verbose: bool | None = None


# The kind of each key, as it is said above.
KINDS = {item.name: str(item.type).removesuffix(" | None") for item in fields(Choices)}
KEYS = tuple(KINDS)
# Those whose values may have commas of their own: in a variable they are separated by spaces alone.
WITH_COMMAS = ("server_list", "ice_servers", "rendezvous")
# No settings: where the file is, where keys are kept, and what `listen --exec` tells its command.
MORE_VARIABLES = ("config", "data", "peer")


def user_config() -> Config:
    """What `Config.from_user` gives. A variable that begins like ours and is none gives a warning."""
    for name in unknown_variables(os.environ):
        warnings.warn(f"{name} is set, but there is no such setting of warpgate", stacklevel=3)
    return node_config(read_choices(os.environ))


def read_choices(environ: Mapping[str, str], *, file: str | None = None, above: Choices | None = None) -> Choices:
    """Put the places together. `file`: another one than the user's own. `above`: counts more than all of them.

    ConfigError names the key and the place that make no sense.
    """
    named = file or environ.get("WARPGATE_CONFIG") or None
    path = Path(named) if named else _default_file(environ)
    found = _expanded(_read_file(path, must_exist=named is not None))
    found = _over(found, _expanded(_read_environment(environ)))
    found = _over(found, _expanded(above or Choices()))
    _check_servers(found)
    return found


def node_config(chosen: Choices) -> Config:
    base = Config()
    return replace(
        base,
        identity=chosen.identity or base.identity,
        port=chosen.port,
        brokers=chosen.broker,
        stun=chosen.stun,
        server_lists=chosen.server_list,
        turn=chosen.turn or (),
        ice_servers=chosen.ice_servers or (),
        ice_token=chosen.ice_token or None,
        relay_peers=chosen.relay_peer or (),
        names=chosen.names or (),
        interfaces=chosen.interface or None,
        port_map=base.port_map if chosen.port_map is None else chosen.port_map,
    )


def _over(lower: Choices, upper: Choices) -> Choices:
    """`upper` where it says something, else `lower`."""
    said: dict[str, Any] = {name: value for name in KEYS if (value := getattr(upper, name)) is not None}
    return replace(lower, **said)


def _expanded(place: Choices) -> Choices:
    """With the servers of its rendezvous beside those that it names."""
    if not place.rendezvous:
        return place
    from warpgate.model.rendezvous import Rendezvous  # noqa: PLC0415 - not needed for --help

    found: list[Rendezvous] = []
    _check("rendezvous", place.rendezvous, lambda text: found.append(Rendezvous.parse(text)))
    return replace(
        place,
        broker=_joined(place.broker, *(each.brokers for each in found)),
        stun=_joined(place.stun, *(each.stun for each in found)),
        turn=_joined(place.turn, *(each.turn for each in found)),
        names=_joined(place.names, *(each.names for each in found)),
    )


def _joined(said: tuple[str, ...] | None, *more: tuple[str, ...]) -> tuple[str, ...] | None:
    """A rendezvous without a service leaves what was said of that service."""
    added = tuple(text for texts in more for text in texts)
    return (said or ()) + added if added else said


# --- the file


def _default_file(environ: Mapping[str, str]) -> Path | None:
    from warpgate.platform import FILES  # noqa: PLC0415 - loads asyncio, which `--help` can do without

    folder = FILES.config_folder(environ)
    return None if folder is None else folder / "config.toml"


def _read_file(path: Path | None, *, must_exist: bool = False) -> Choices:
    if path is None or not (must_exist or path.exists()):
        return Choices()
    import tomllib  # noqa: PLC0415 - not needed for --help

    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} is not TOML: {error}") from error
    said: dict[str, Any] = {}
    for written, value in table.items():
        key = written.replace("-", "_")
        if key not in KINDS:
            raise ConfigError(f"config file {path}: unknown key {key!r} (known: {', '.join(KEYS)})")
        said[key] = _IN_FILE[KINDS[key]](value, key, f"config file {path}")
    return Choices(**said)


def _text(value: object, key: str, place: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{place}: {key} must be a text, not {value!r}")
    return value


def _texts(value: object, key: str, place: str) -> tuple[str, ...]:
    """A repeatable key: one text or a list of them."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise ConfigError(f"{place}: {key} must be a text or a list of texts, not {value!r}")
    return tuple(item for item in values if item)


def _switch(value: object, key: str, place: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{place}: {key} must be true or false, not {value!r}")
    return value


def _port(value: object, key: str, place: str) -> int:
    return _port_number(value, f"{place}, {key}")


def _port_number(value: object, place: str) -> int:
    # bool is an int in Python: `port = true` is a mistake, not port 1.
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise ConfigError(f"{place}: {value!r} is no port number (1 to 65535)")
    return value


_IN_FILE: dict[str, Callable[[object, str, str], Any]] = {
    "str": _text,
    "tuple[str, ...]": _texts,
    "bool": _switch,
    "int": _port,
}


# --- the environment


def _read_environment(environ: Mapping[str, str]) -> Choices:
    """A variable that is set but empty means none of what is repeatable, and says nothing of other keys."""
    said: dict[str, Any] = {}
    for key, kind in KINDS.items():
        name = f"WARPGATE_{key.upper()}"
        value = environ.get(name)
        if value is not None and (value or kind == "tuple[str, ...]"):
            said[key] = _in_variable(value, key, kind, name)
    return Choices(**said)


def _in_variable(value: str, key: str, kind: str, name: str) -> object:
    match kind:
        case "tuple[str, ...]":
            return tuple((value if key in WITH_COMMAS else value.replace(",", " ")).split())
        case "bool":
            return _switched(value.lower(), name)
        case "int":
            return _port_number(int(value) if value.isascii() and value.isdigit() else value, name)
    return value


def _switched(value: str, name: str) -> bool:
    if value not in TRUE + FALSE:
        raise ConfigError(f"{name} must be one of {', '.join(TRUE + FALSE)}, not {value!r}")
    return value in TRUE


def unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What begins like ours and is none: misspelt, or of another version."""
    known = {f"WARPGATE_{name.upper()}" for name in (*KEYS, *MORE_VARIABLES)}
    return tuple(sorted(name for name in environ if name.startswith("WARPGATE_") and name not in known))


# --- what the values must look like


def _check_servers(chosen: Choices) -> None:
    """Refuse a server that cannot be one now, with its key named, not later from inside the node."""
    from warpgate.model.ice_servers import AccountUrl  # noqa: PLC0415
    from warpgate.model.servers import BrokerUrl, NameServerUrl, StunServer, list_place  # noqa: PLC0415 - not needed for --help
    from warpgate.model.turn_server import TurnServer  # noqa: PLC0415

    _check("broker", chosen.broker or (), BrokerUrl.parse)
    _check("stun", chosen.stun or (), StunServer.parse)
    _check("server_list", chosen.server_list or (), list_place)
    _check("turn", chosen.turn or (), TurnServer.parse)
    _check("ice_servers", chosen.ice_servers or (), AccountUrl.parse)
    _check("ice_token", (chosen.ice_token,) if chosen.ice_token else (), _token)
    _check("relay_peer", chosen.relay_peer or (), _peer)
    _check("names", chosen.names or (), NameServerUrl.parse)


def _token(text: str) -> None:
    """RFC 6750 section 2.1; what it is does not show."""
    if re.fullmatch(r"[A-Za-z0-9._~+/-]{1,4096}=*", text, re.ASCII) is None:
        raise ConfigError("a bearer token has letters, digits and . _ ~ + / - alone")


def _peer(text: str) -> None:
    """An address or a nickname."""
    from warpgate.model.address import NodeAddress  # noqa: PLC0415 - not needed for --help
    from warpgate.model.nickname import fold  # noqa: PLC0415

    if text.lower().startswith("wg1"):
        NodeAddress.from_text(text)
    else:
        fold(text)


def _check(key: str, values: Sequence[str], parse: Callable[[str], object]) -> None:
    for value in values:
        try:
            parse(value)
        except (AddressError, ConfigError) as error:
            raise ConfigError(f"{key}: {error}") from error
