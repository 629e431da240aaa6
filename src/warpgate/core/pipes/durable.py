"""A pipe that outlives the path it began on: one stream of the connection that two nodes share."""

from __future__ import annotations

import socket
from collections.abc import Callable

from warpgate.core.connection.connection import Connection
from warpgate.core.connection.paths import Origin
from warpgate.core.connection.quic_channels import Channel
from warpgate.core.pipes.base import ABORTED, Pipe, PipeInfo
from warpgate.core.pipes.quic import LINGER, BytesOverQuic
from warpgate.errors import ConfigError, PipeClosed
from warpgate.events import PluginReport
from warpgate.model.endpoint import Endpoint, Transport


class DurablePipe(BytesOverQuic):
    """As a `QuicPipe`; `plugin`, `transport`, `relayed`, `local` and `remote` tell the path it takes now."""

    def __init__(
        self, info: PipeInfo, connection: Connection, channel: Channel, on_end: Callable[[Pipe, str], None]
    ) -> None:
        super().__init__(info, channel, connection, on_end)
        self._connection = connection
        self._channel = channel

    @property
    def durable(self) -> bool:
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

    @property
    def report(self) -> tuple[PluginReport, ...]:
        return self._info.report

    def changed(self) -> None:
        """After each step of the connection's."""
        if self.closed:
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
            await self._deliver(LINGER)
        finally:
            self._channel.leave()
            self._connection.soon()

    @property
    def _alive(self) -> bool:
        return (
            self._channel.failure is None and self._channel.refused is None and self._connection.end is None
        )

    def abort(self, reason: str = ABORTED) -> None:
        if self._finish(reason):
            self._left = True
            self._channel.reset()
            self._connection.soon()

    def detach(self) -> socket.socket:
        """ConfigError: the stream is one of many on paths that come and go."""
        raise ConfigError("a durable pipe has no socket of its own: ask for a plain one (durable=False)")
