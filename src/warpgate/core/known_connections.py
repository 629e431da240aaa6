"""Which connections a node has: by the ids in datagrams, by peer, by what our user wanted; and who waits for news."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from warpgate.core.connection.connection import Connection
from warpgate.core.pipes.durable import DurableDatagramPipe, DurablePipe
from warpgate.model.endpoint import Transport

# Whose, which of the processes with that key, by which strategies and transport.
Wanted = tuple[bytes, bytes, tuple[str, ...] | None, Transport | None]


class KnownConnections:
    """Each from `add` to `remove`; iterating goes through what there is at that moment, in the order of beginning."""

    def __init__(self) -> None:
        self.pipes: dict[Connection, set[DurablePipe | DurableDatagramPipe]] = {}  # those on each; `add` makes the key
        # By whose they are and the ids in datagrams: peers choose the first ones, perhaps those of others.
        self._by_id: dict[tuple[bytes, bytes], Connection] = {}
        self._shared: dict[Wanted, Connection] = {}  # those that further pipes of ours go on
        self._waiting: dict[bytes, list[asyncio.Future[None]]] = {}  # for news of connections with these peers

    def __len__(self) -> int:
        return len(self.pipes)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self.pipes))

    def __contains__(self, connection: Connection) -> bool:
        return connection in self.pipes

    def add(self, connection: Connection) -> None:
        self.pipes[connection] = set()
        for connection_id in connection.ids:
            self._by_id[connection.peer_key, connection_id] = connection

    def remove(self, connection: Connection) -> set[DurablePipe | DurableDatagramPipe]:
        """The pipes that were on it; idempotent."""
        for key in [key for key, other in self._by_id.items() if other is connection]:
            del self._by_id[key]
        for wanted in [wanted for wanted, other in self._shared.items() if other is connection]:
            del self._shared[wanted]
        return self.pipes.pop(connection, set())

    def share(self, wanted: Wanted, connection: Connection) -> None:
        """Further pipes of the same kind go on it."""
        self._shared[wanted] = connection

    def named(self, peer_key: bytes, connection_id: bytes) -> Connection | None:
        """With this peer, by an id of its datagrams."""
        return self._by_id.get((peer_key, connection_id))

    def with_peer(self, peer_key: bytes) -> list[Connection]:
        return [connection for connection in self.pipes if connection.peer_key == peer_key]

    def own(self, wanted: Wanted) -> Connection | None:
        """The one that we began and that takes a further pipe."""
        connection = self._shared.get(wanted)
        return None if connection is None or connection.end is not None or connection.full else connection

    def theirs(self, wanted: Wanted) -> Connection | None:
        """The best of those that this very process of the peer's has begun, where nothing is asked of the paths. While
        one is being proved it may not have been said whose it is.
        """
        key, instance, plugins, transport = wanted
        if plugins is not None or transport is not None or not instance:
            return None
        fits = [
            other
            for other in self.with_peer(key)
            if not (other.engine.is_client or other.full)
            and other.end is None
            and (other.remote.instance == instance or (other.opening and not other.remote.instance))
        ]
        return min(fits, key=_rank, default=None)

    async def news_of(self, peer_key: bytes, until: float | None) -> None:
        """Until something has happened to a connection with it, or that instant of the loop's clock."""
        waiter = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(peer_key, [])
        waiters.append(waiter)
        try:
            async with asyncio.timeout_at(until):
                await waiter
        except TimeoutError:
            waiters.remove(waiter)

    def tell(self, peer_key: bytes) -> None:
        """Something has happened to a connection with it."""
        for waiter in self._waiting.pop(peer_key, ()):
            if not waiter.done():
                waiter.set_result(None)


def _rank(connection: Connection) -> tuple[bool, bool, bool, float]:
    """Of those that a peer has begun, the best first."""
    return (not connection.usable, not connection.opening, not connection.used, connection.began)
