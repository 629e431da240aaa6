"""What a node offers to its peers, and who gets the pipes that they open: the one place that both kinds of connection
hand an accepted pipe to.

A pipe's service is what its initiator wanted, proved like its key. One with a name goes to the handler of that name.
One without goes to the message handlers, else it waits for `accept`. What is not offered is refused before there is a
pipe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from warpgate.core.pipes.base import Pipe
from warpgate.core.tasks import Tasks
from warpgate.errors import ConfigError, WarpgateError
from warpgate.model.wanted import checked_service

# Pipes that peers opened and nobody has accepted yet; each holds a socket.
ACCEPT_QUEUE = 128
# Pipes in the hands of handlers, each a task; far more than a node serves, and an end to what peers can make it hold.
SERVED_AT_ONCE = 4096
# Of the names that a refusal lists, so that it fits where it has to.
LISTED = 8

MessageHandler = Callable[[bytes, Pipe], Awaitable[None]]
PipeHandler = Callable[[Pipe], Awaitable[None]]


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
            raise ConfigError(
                f"the handler of a service is called with a pipe, and {handler!r} cannot be called"
            )
        if name in self._named:
            raise ConfigError(f"the service {name!r} is served already")
        self._named[name] = handler

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


class Reception:
    """Of a node that runs."""

    def __init__(self, services: Services, tasks: Tasks) -> None:
        self._services = services
        self._tasks = tasks
        self._served = 0
        self.accepted: asyncio.Queue[Pipe | None] = (
            asyncio.Queue()
        )  # without a name; None: the node is closed

    def take(self, pipe: Pipe) -> None:
        """A pipe that a peer opened, whose service was offered when it began."""
        handler = self._services.handler(pipe.service)
        if handler is not None:
            self._spawn(pipe, handler)
        elif self._services.refusal(pipe.service):
            pipe.abort("its service is not offered any more")
        elif self._services.message_handlers:
            self._spawn(pipe, self._pump)
        elif self.accepted.qsize() >= ACCEPT_QUEUE:
            pipe.abort()
        else:
            self.accepted.put_nowait(pipe)

    def close(self) -> None:
        self.accepted.put_nowait(None)

    def _spawn(self, pipe: Pipe, handler: PipeHandler) -> None:
        if self._served >= SERVED_AT_ONCE:
            pipe.abort("too many pipes at once")
            return
        task = self._tasks.spawn(f"{pipe.service or 'handlers'} for {pipe.peer}", self._serve(pipe, handler))
        if task is None:
            pipe.abort()
            return
        self._served += 1
        task.add_done_callback(self._done)

    def _done(self, _: asyncio.Task[None]) -> None:
        self._served -= 1

    async def _serve(self, pipe: Pipe, handler: PipeHandler) -> None:
        """A handler that fails has not finished what it said: the peer must not take that for the end."""
        try:
            await handler(pipe)
        except WarpgateError as error:
            pipe.abort(str(error))
        except BaseException:
            pipe.abort("its handler failed")
            raise
        else:
            await pipe.close()

    async def _pump(self, pipe: Pipe) -> None:
        async for data in pipe:
            for handler in self._services.message_handlers:
                await handler(data, pipe)
