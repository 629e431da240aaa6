"""What a node offers to its peers, by its program's word: before it runs, and while it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from warpgate.errors import ConfigError
from warpgate.model.wanted import checked_service

if TYPE_CHECKING:
    from warpgate.core.pipes.base import Pipe

# Of the names that a refusal lists, so that it fits where it has to.
LISTED = 8


MessageHandler = Callable[[bytes, "Pipe"], Awaitable[None]]
PipeHandler = Callable[["Pipe"], Awaitable[None]]


class Services:
    """The node's, whether it runs or not."""

    def __init__(self) -> None:
        self.message_handlers: list[MessageHandler] = []
        self.accepting = False  # whether somebody has ever asked for pipes without a name
        self._named: dict[str, PipeHandler] = {}

    @property
    def wanted(self) -> bool:
        """Whether the program means to accept peers, as far as it has said."""
        return bool(self._named or self.message_handlers or self.accepting)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._named)

    @property
    def offered(self) -> tuple[str, ...]:
        """What peers may ask for, with "" for pipes without a name."""
        return self.names if self.refusal("") else (*self.names, "")

    def serve(self, name: str, handler: PipeHandler) -> None:
        """ConfigError for what is no name, or is served already."""
        if not checked_service(name):
            raise ConfigError("a service needs a name; pipes without one come from accept()")
        if not callable(handler):
            raise ConfigError(f"the handler of a service is called with a pipe, and {handler!r} cannot be called")
        if name in self._named:
            raise ConfigError(f"the service {name!r} is served already")
        self._named[name] = handler

    def withdraw(self, name: str) -> None:
        """It is offered no more; idempotent."""
        self._named.pop(name, None)

    def handler(self, service: str) -> PipeHandler | None:
        return self._named.get(service)

    def refusal(self, service: str) -> str:
        """Why there is no such service, with those that there are; "" when there is. For peers that are allowed in."""
        if service in self._named:
            return ""
        if service == "":
            if not self._named or self.accepting or self.message_handlers:
                return ""
            return f"say which service (there are: {self._listed()})"
        if not self._named:
            return f"there is no service {service!r}, only one without a name"
        return f"there is no service {service!r} (there are: {self._listed()})"

    def _listed(self) -> str:
        names = self.names
        return ", ".join((*names[:LISTED], *(["..."] if len(names) > LISTED else [])))
