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


class IdentityInUse(ConfigError):
    """Another process has this identity, and accepts peers with it; `holder` is its process id, as text."""

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(
            f"the identity {name!r} is in use by process {holder}: take another one (--identity NAME), or let one "
            "process offer several services"
        )
        self.holder = holder


class AddressError(WarpgateError):
    """Text or bytes that are not a node address (mangled, truncated, another version) or not an endpoint."""


class NicknameError(AddressError):
    """Text that cannot be a nickname; the message is the reason."""


class ProtocolError(WarpgateError):
    """A peer or server broke the protocol."""


class DecodeError(ProtocolError):
    """Bytes that are not a well-formed message."""


class AuthenticationError(ProtocolError):
    """A well-formed message that does not prove the key it must prove, or was seen before."""


class NetworkError(WarpgateError):
    """The operating system or the path refused: unreachable, refused, timed out, port in use."""


class ServiceError(WarpgateError):
    """An outside server (STUN, broker, relay, name server) failed or refused; `passing`: it says that it cannot just
    now, and may a moment later.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class NameNotFound(ServiceError):
    """No name server that answers has this nickname."""


class NameRefused(ServiceError):
    """A name server does not take a record; `code` is its word for why ("taken", "rate", ...).

    `sequence`: the one it has, where it says so; `retry_after`: seconds, 0.0 unless it says so.
    """

    def __init__(self, message: str, code: str, sequence: int | None = None, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.sequence = sequence
        self.retry_after = retry_after


class AttemptFailed(WarpgateError):
    """One plugin could not open a link; the message is the reason shown in reports."""


# There is no public relay that invites strangers, so whoever lacks one has to do something; two commands will do.
RELAY_ADVICE = (
    "run `warpgate serve --relay` on a machine with a public address, or give --ice-servers the URL of an account at a "
    "TURN provider"
)


class ConnectFailed(WarpgateError):
    """No strategy produced a pipe. `report` tells what each one knew, did and why it lost; `relay_needed`: the peer was
    heard, nothing direct got through, and neither side has a relay.
    """

    def __init__(self, message: str, report: Sequence[PluginReport] = (), *, relay_needed: bool = False) -> None:
        super().__init__(message)
        self.report = tuple(report)
        self.relay_needed = relay_needed

    def __str__(self) -> str:
        message = super().__str__()
        need = "these two need a relay, and neither has one"
        return f"{message}; {need}: {RELAY_ADVICE}" if self.relay_needed else message


class PeerKeyChanged(WarpgateError):
    """A nickname now leads to another key than it did before. No ConnectFailed: trying again must not get past it."""


class PipeClosed(WarpgateError):
    """The pipe was reset, lost its peer, or was closed on this side."""


class CodeFailed(WarpgateError):
    """A one-time code led nowhere, and is burnt: wrong, used already, or nobody came."""


class TransferFailed(WarpgateError):
    """A file or directory could not be sent or received."""


class TransferRefused(TransferFailed):
    """The receiver, or a rule, says no: nothing changes when it is tried again. `reason` is one word for programs."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = str(reason)
