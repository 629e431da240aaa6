"""warpgate gets a socket open between two machines, wherever they are.

    async with Node() as node:
        pipe, plugin = await auto_connect(node, dest)
        await pipe.send(b"hello world")
        data = await pipe.recv(SUB_ALL)

The public names; each is loaded when it is first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warpgate import sync as sync
    from warpgate.api import Server, auto_connect, open_connection, start_server
    from warpgate.config import Budgets, Config, Timing
    from warpgate.core.assembly import NodeStatus
    from warpgate.core.node import Node
    from warpgate.core.pipes.base import Pipe
    from warpgate.core.pipes.datagrams import DatagramPipe
    from warpgate.core.pipes.plain_tcp import StreamPipe
    from warpgate.core.pipes.subscription import SUB_ALL, Subscription
    from warpgate.errors import (
        AddressError,
        AttemptFailed,
        AuthenticationError,
        ConfigError,
        ConnectFailed,
        DecodeError,
        IdentityInUse,
        NameNotFound,
        NameRefused,
        NetworkError,
        NicknameError,
        PeerKeyChanged,
        PipeClosed,
        ProtocolError,
        ServiceError,
        WarpgateError,
    )
    from warpgate.model.address import NodeAddress
    from warpgate.model.endpoint import Endpoint, Mode, Transport
    from warpgate.model.identity import Identity
    from warpgate.net.link import Link
    from warpgate.plugins.base import Attempt, Plugin
    from warpgate.plugins.registry import register

__version__ = "0.1.0"

_HOMES = {
    "warpgate.api": ("Server", "auto_connect", "open_connection", "start_server"),
    "warpgate.config": ("Budgets", "Config", "Timing"),
    "warpgate.core.node": ("Node",),
    "warpgate.core.assembly": ("NodeStatus",),
    "warpgate.core.pipes.base": ("Pipe",),
    "warpgate.core.pipes.datagrams": ("DatagramPipe",),
    "warpgate.core.pipes.plain_tcp": ("StreamPipe",),
    "warpgate.core.pipes.subscription": ("SUB_ALL", "Subscription"),
    "warpgate.errors": (
        "AddressError",
        "AttemptFailed",
        "AuthenticationError",
        "ConfigError",
        "ConnectFailed",
        "DecodeError",
        "IdentityInUse",
        "NameNotFound",
        "NameRefused",
        "NetworkError",
        "NicknameError",
        "PeerKeyChanged",
        "PipeClosed",
        "ProtocolError",
        "ServiceError",
        "WarpgateError",
    ),
    "warpgate.model.address": ("NodeAddress",),
    "warpgate.model.endpoint": ("Endpoint", "Mode", "Transport"),
    "warpgate.model.identity": ("Identity",),
    "warpgate.net.link": ("Link",),
    "warpgate.plugins.base": ("Attempt", "Plugin"),
    "warpgate.plugins.registry": ("register",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "SUB_ALL",
    "AddressError",
    "Attempt",
    "AttemptFailed",
    "AuthenticationError",
    "Budgets",
    "Config",
    "ConfigError",
    "ConnectFailed",
    "DatagramPipe",
    "DecodeError",
    "Endpoint",
    "Identity",
    "IdentityInUse",
    "Link",
    "Mode",
    "NameNotFound",
    "NameRefused",
    "NetworkError",
    "NicknameError",
    "Node",
    "NodeAddress",
    "NodeStatus",
    "PeerKeyChanged",
    "Pipe",
    "PipeClosed",
    "Plugin",
    "ProtocolError",
    "Server",
    "ServiceError",
    "StreamPipe",
    "Subscription",
    "Timing",
    "Transport",
    "WarpgateError",
    "auto_connect",
    "open_connection",
    "register",
    "start_server",
]


def __getattr__(name: str) -> object:
    if name == "sync":
        return import_module("warpgate.sync")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
