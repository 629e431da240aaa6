"""Pipes that outlive the path they began on: one stream each of the connection that two nodes share, or datagrams."""

from __future__ import annotations

import asyncio
import socket
from abc import abstractmethod
from collections.abc import Awaitable, Callable

from warpgate.core.connection.channel import Channel, DatagramChannel
from warpgate.core.connection.connection import Connection
from warpgate.core.connection.paths import Origin
from warpgate.core.pipes.base import ABORTED, Pipe, PipeInfo
from warpgate.core.pipes.datagrams import DatagramPipe
from warpgate.core.pipes.quic import BytesOverQuic
from warpgate.core.pipes.subscription import Subscription
from warpgate.errors import ConfigError, PipeClosed, WarpgateError
from warpgate.model.endpoint import Endpoint, Transport

Again = Callable[[], Awaitable[tuple[Connection, Channel]]]

# What waits to be sent when a pipe of datagrams is closed leaves within so many seconds, or is lost.
LAST_DATAGRAMS = 1.0


class OnConnection(Pipe):
    """`plugin`, `transport`, `relayed`, `local` and `remote` tell the path it takes now."""

    _connection: Connection
    _channel: Channel
    # How it is opened anew on another connection, once, when the peer has ended this one and never knew of the pipe.
    again: Again | None = None
    _resumed: asyncio.Event | None = None  # it is being opened anew

    @property
    def unseen(self) -> bool:
        """Whether it may be opened anew: nothing of it has reached the user of the other side."""
        return (
            self.again is not None
            and not self.closed
            and self._channel.unheard is not None  # whatever the peer says now, it has answered on the pipe
            and self._connection.engine.unseen(self._channel.stream)
        )

    def suspend(self) -> None:
        """Whoever sends or receives waits from now on, until `resume` has come to an end."""
        self._resumed = asyncio.Event()

    async def resume(self) -> None:
        """Open it anew, with what was written so far."""
        assert self.again is not None
        assert self._resumed is not None
        again, self.again, over = self.again, None, self._resumed
        try:
            connection, channel = await again()
            await self._repeat(connection, channel)
        except WarpgateError as error:
            self._finish(f"{self._connection.end}; it could not be opened anew: {error}")
        except BaseException:
            self._finish(ABORTED)
            raise
        finally:
            self._resumed = None
            over.set()

    async def _repeat(self, connection: Connection, channel: Channel) -> None:
        """What was written before, on another channel, which takes the place of the old one. PipeClosed."""
        rest = memoryview(bytes(self._channel.unheard or b""))
        while rest and not self.closed and (end := channel.failure or connection.end) is None:
            if (room := channel.room) > 0:
                channel.write(rest[:room])
                rest = rest[room:]
                connection.soon()
            else:
                await connection.changed()
        if self.closed:
            channel.reset()
            connection.soon()
        elif rest:
            raise PipeClosed(str(end))
        else:
            if self._channel.finished:
                channel.finish()
            self._go_on(connection, channel)

    @abstractmethod
    def _go_on(self, connection: Connection, channel: Channel) -> None:
        """From now on by these."""

    @property
    def session(self) -> bytes:
        return self._connection.id

    @property
    def durable(self) -> bool:
        return True

    @property
    def secure(self) -> bool:
        return True

    @property
    def connection(self) -> Connection:
        """What it shares with the other durable pipes to this peer: `peer`, `paths`, `moves`."""
        return self._connection

    @property
    def _path(self) -> Origin:
        current = self._connection.current
        assert current is not None  # pipes are made on connections that have, or had, a path
        return current

    @property
    def plugin(self) -> str:
        """The strategy that found the present path."""
        return self._path.plugin

    @property
    def transport(self) -> Transport:
        return self._path.transport

    @property
    def relayed(self) -> bool:
        """Whether the data takes the way over a relay now."""
        return self._path.relayed

    @property
    def local(self) -> Endpoint:
        return self._path.local

    @property
    def remote(self) -> Endpoint:
        return self._path.remote

    @abstractmethod
    def changed(self) -> None:
        """After each step of the connection's."""

    def detach(self) -> socket.socket:
        """ConfigError: its bytes are some of many on paths that come and go."""
        raise ConfigError("a durable pipe has no socket of its own: ask for a plain one (durable=False)")


class DurablePipe(OnConnection, BytesOverQuic):
    """As a `QuicPipe`."""

    def __init__(
        self, info: PipeInfo, connection: Connection, channel: Channel, on_end: Callable[[Pipe, str], None]
    ) -> None:
        super().__init__(info, channel, connection, on_end)
        self._connection = connection
        self._channel = channel

    def _go_on(self, connection: Connection, channel: Channel) -> None:
        self._driver = self._connection = connection
        self._stream = self._channel = channel

    async def _changed(self) -> None:
        if self._resumed is not None:
            await self._resumed.wait()
        else:
            await super()._changed()

    def changed(self) -> None:
        """After each step of the connection's."""
        if self._channel.failure is None and self._connection.end is None:
            return
        if self.closed or self._resumed is not None:
            return
        reason = self._channel.failure_of(self.peer) or self._connection.end
        if reason is not None:
            self._finish(reason)

    def _check_writable(self) -> None:
        super()._check_writable()
        if self._channel.refused is not None:
            raise PipeClosed(self._channel.refused)

    async def close(self) -> None:
        """Returns when the peer has everything that was sent, or has taken nothing of it for 5 s."""
        if not self._finish("closed on this side"):
            return
        self._left = True
        try:
            await self._deliver()
        finally:
            self._channel.leave()
            self._connection.soon()

    @property
    def _alive(self) -> bool:
        return self._channel.failure is None and self._channel.refused is None and self._connection.end is None

    def abort(self, reason: str = ABORTED) -> None:
        if self._finish(reason):
            self._left = True
            self._channel.reset()
            self._connection.soon()


class DurableDatagramPipe(OnConnection, DatagramPipe):
    """Datagrams that are encrypted and take whatever path there is; each may be lost, none comes twice."""

    _channel: DatagramChannel

    def __init__(
        self,
        info: PipeInfo,
        connection: Connection,
        channel: DatagramChannel,
        queue_limit: int,
        on_end: Callable[[Pipe, str], None],
    ) -> None:
        """`queue_limit`: datagrams that wait to be read. What is more, or more than all pipes may hold, is lost."""
        super().__init__(info, channel.queue, on_end)
        channel.limit = queue_limit
        self._connection = connection
        self._channel = channel

    def _go_on(self, connection: Connection, channel: Channel) -> None:
        assert isinstance(channel, DatagramChannel)
        before, self._channel, self._connection = self._channel, channel, connection
        channel.limit, self._queue = before.limit, channel.queue
        while before.sending:
            channel.offer(before.next(), displace=True)
        connection.soon()

    @property
    def dropped(self) -> int:
        return self._channel.dropped

    @property
    def largest(self) -> int:
        """What fits a packet of the size that every path carries: 1,150 bytes, or fewer if the peer takes no more."""
        return self._connection.engine.largest_datagram

    def _pick(self, sub: Subscription | int) -> bytes | None:
        data = super()._pick(sub)
        if data is not None:
            self._channel.took(data)
        return data

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """ConfigError for more than `largest` bytes. Waits while more is sent than the path takes. While no path works
        the newest (64 KiB, 16 among many pipes) are kept and sent when one does; older ones are lost.
        """
        payload, channel = self._checked(data), self._channel
        while channel.refused is None:
            if channel.offer(payload, displace=not self._connection.works):
                break
            await self._connection.changed()
            self._check_open()
        else:
            raise PipeClosed(channel.refused)
        self._connection.soon()

    def changed(self) -> None:
        """After each step of the connection's."""
        channel = self._channel
        if not self.closed and self._resumed is None:
            reason = channel.failure_of(self.peer) or self._connection.end
            if reason is None and channel.peer_finished:
                reason = "closed by the peer"
            if reason is not None and self._finish(reason):
                channel.finish()
                self._connection.soon()
        if self._queue or self.closed:
            self._wake()

    async def close(self) -> None:
        """The peer is told when what was sent before has left, or after a second."""
        if not self._finish("closed on this side"):
            return
        channel, connection = self._channel, self._connection
        try:
            async with asyncio.timeout(LAST_DATAGRAMS):
                while channel.sending and connection.works:
                    await connection.changed()
        except TimeoutError:
            pass
        finally:
            channel.finish()
            channel.leave()
            self._wake()
            connection.soon()

    def abort(self, reason: str = ABORTED) -> None:
        if self._finish(reason):
            self._channel.leave()
            self._channel.reset()
            self._wake()
            self._connection.soon()
