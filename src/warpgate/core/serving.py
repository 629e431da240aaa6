"""Who gets the pipes that peers open: the one place that both kinds of connection hand an accepted pipe to.

A pipe's service is what its initiator wanted, proved like its key. One with a name goes to the handler of that name.
One without goes to the message handlers, else it waits for `accept`. What is not offered is refused before there is a
pipe.
"""

from __future__ import annotations

import asyncio
from collections import deque

from warpgate.core.offered import PipeHandler, Services
from warpgate.core.pipes.base import Pipe
from warpgate.core.tasks import Tasks
from warpgate.errors import WarpgateError
from warpgate.plan.shares import Places
from warpgate.proto.relay_limits import user_of

# Pipes that peers opened and nobody has accepted yet; each holds a socket.
ACCEPT_QUEUE = 128
CROWDED_OUT = "others have fewer pipes here"
# Pipes in the hands of handlers, each a task; far more than a node serves, and an end to what peers can make it hold.
SERVED_AT_ONCE = 4096


class AcceptQueue:
    """Pipes without a name that nobody has accepted yet. When it is full, whoever has most of them makes room."""

    def __init__(self) -> None:
        self._waiting: deque[Pipe] = deque()
        self._places: Places[Pipe] = Places(ACCEPT_QUEUE)
        self._readers: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def put(self, pipe: Pipe) -> None:
        leaver = self._places.enter(pipe, pipe.peer, user_of(pipe.remote.ip))
        if leaver is not pipe:
            self._waiting.append(pipe)
            self._wake()
        if leaver is not None:
            if leaver is not pipe:
                self._waiting.remove(leaver)
            leaver.abort(CROWDED_OUT)

    async def get(self) -> Pipe | None:
        """The one that came first; None when the node is closed, and none is left."""
        while not self._waiting and not self._closed:
            reader = asyncio.get_running_loop().create_future()
            self._readers.append(reader)
            try:
                await reader
            except asyncio.CancelledError:
                if reader in self._readers:
                    self._readers.remove(reader)
                elif self._waiting:
                    self._wake()  # it was woken for a pipe that somebody else takes now
                raise
        if not self._waiting:
            return None
        pipe = self._waiting.popleft()
        self._places.leave(pipe)
        return pipe

    def close(self) -> None:
        self._closed = True
        while self._readers:
            self._wake()

    def _wake(self) -> None:
        if self._readers:
            reader = self._readers.popleft()
            if not reader.done():
                reader.set_result(None)


class Reception:
    """Of a node that runs."""

    def __init__(self, services: Services, tasks: Tasks) -> None:
        self._services = services
        self._tasks = tasks
        self._served: Places[Pipe] = Places(SERVED_AT_ONCE)
        self.accepted = AcceptQueue()

    def take(self, pipe: Pipe) -> None:
        """A pipe that a peer opened, whose service was offered when it began."""
        handler = self._services.handler(pipe.service)
        if handler is not None:
            self._spawn(pipe, handler)
        elif self._services.refusal(pipe.service):
            pipe.abort("its service is not offered any more")
        elif self._services.message_handlers:
            self._spawn(pipe, self._pump)
        else:
            self.accepted.put(pipe)

    def close(self) -> None:
        self.accepted.close()

    def _spawn(self, pipe: Pipe, handler: PipeHandler) -> None:
        leaver = self._served.enter(pipe, pipe.peer, user_of(pipe.remote.ip))
        if leaver is not None:
            leaver.abort(CROWDED_OUT)
        if leaver is pipe:
            return
        task = self._tasks.spawn(f"{pipe.service or 'handlers'} for {pipe.peer}", self._serve(pipe, handler))
        if task is None:
            self._served.leave(pipe)
            pipe.abort()
        else:
            task.add_done_callback(lambda _: self._served.leave(pipe))

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
