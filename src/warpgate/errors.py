"""Every error the library raises. A message says what was tried, with what, and what came back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warpgate.events import PluginReport


class WarpgateError(Exception):
    """Base of everything raised on purpose by warpgate."""


class ConfigError(WarpgateError):
    """An option, environment variable or config file entry makes no sense."""


class AddressError(WarpgateError):
    """Text or bytes that are not a node address (mangled, truncated, another version) or not an endpoint."""


class ProtocolError(WarpgateError):
    """A peer or server broke the protocol."""


class DecodeError(ProtocolError):
    """Bytes that are not a well-formed message."""


class AuthenticationError(ProtocolError):
    """A well-formed message that does not prove the key it must prove, or was seen before."""


class NetworkError(WarpgateError):
    """The operating system or the path refused: unreachable, refused, timed out, port in use."""


class ServiceError(WarpgateError):
    """An outside server (STUN, broker, relay, name server) failed or refused."""


class AttemptFailed(WarpgateError):
    """One plugin could not open a link; the message is the reason shown in reports."""


class ConnectFailed(WarpgateError):
    """No strategy produced a pipe. `report` tells what each one knew, did and why it lost."""

    def __init__(self, message: str, report: Sequence[PluginReport] = ()) -> None:
        super().__init__(message)
        self.report = tuple(report)


class PipeClosed(WarpgateError):
    """The pipe was reset, lost its peer, or was closed on this side."""
