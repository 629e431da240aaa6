"""The well-known public servers of `data/servers.toml`, read when first asked for."""

from __future__ import annotations

import functools

from warpgate.lazy_dataclass import dataclass
from warpgate.model.servers import BrokerUrl, StunServer


@dataclass(frozen=True, slots=True)
class PublicServers:
    """In order of preference."""

    brokers: tuple[BrokerUrl, ...]
    stun: tuple[StunServer, ...]


@functools.cache
def public_servers() -> PublicServers:
    """Reads a file that came with the package: ConfigError only when somebody broke it."""
    import tomllib  # noqa: PLC0415 - a node with servers of its own never needs it
    from importlib.resources import files  # noqa: PLC0415

    entries = tomllib.loads((files("warpgate") / "data" / "servers.toml").read_text("utf-8"))
    return PublicServers(
        brokers=tuple(BrokerUrl.parse(text) for text in entries["brokers"]),
        stun=tuple(StunServer.parse(text) for text in entries["stun"]),
    )


def public_login(url: str) -> tuple[str, str] | None:
    """What a well-known broker asks everybody for: addresses name brokers without."""
    return next((broker.login for broker in public_servers().brokers if str(broker) == url), None)
