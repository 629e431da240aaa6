"""How many connections peers may begin with a node, and who makes room."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence

from warpgate.core.connection.connection import Connection
from warpgate.core.connection.quic_bounds import UNPROVED
from warpgate.core.connection.quic_engine import State
from warpgate.model.endpoint import Endpoint
from warpgate.plan.shares import Places
from warpgate.proto.relay_limits import user_of

# A program may have asked for certain strategies, and those that it has left linger.
PER_PEER = 8
CONNECTIONS = 1024
# Those that carry no pipe: just opened, or lingering. 55 KB each, in the library alone.
IDLE = 128
# At the bounds who has been out of reach for so long makes room: a peer that was restarted does not say good-bye.
GONE = 30.0


class Guests:
    """Those that peers began, for as long as our user has not asked for the peer: `invited` ones are not counted."""

    def __init__(self, pipes: Mapping[Connection, Collection[object]]) -> None:
        """`pipes`: of every connection that there is, in the order of their beginning."""
        self._pipes = pipes
        self._begun: Places[Connection] = Places(CONNECTIONS)
        self._unproved: Places[Connection] = Places(UNPROVED)

    def make_room(self, key: bytes, source: Endpoint | None) -> bool:
        """Whether a peer may have one more. Who is out of reach makes room, who has no pipe, and who has most.

        `source`: where it comes from; None while it has no path.
        """
        place = _place(key, source)
        begun = [connection for connection in self._pipes if not connection.invited]
        own = [connection for connection in begun if connection.peer_key == key]
        for crowd, most in ((own, PER_PEER), (begun, CONNECTIONS)):
            if len(crowd) >= most:
                spare: Connection | None = max(crowd, key=lambda connection: connection.silence)
                if spare is not None and spare.silence < GONE:
                    spare = next(iter(self._idle(crowd)), None)
                if spare is None and crowd is begun:
                    spare = self._begun.leaver(key, place)
                if spare is None:
                    return False
                spare.close(reason="too many connections")
        if len(idle := self._idle(begun)) >= IDLE:
            idle[0].close(reason="not used")
        return source is None or not self._unproved.full or self._unproved.leaver(key, place) is not None

    def enter(self, connection: Connection, source: Endpoint | None) -> None:
        """Room was made for it."""
        self._begun.enter(connection, connection.peer_key, _place(connection.peer_key, source))

    def seat(self, connection: Connection, source: Endpoint) -> bool:
        """A path from there leads to it, its first perhaps: whether it may stay."""
        if connection.invited:
            return True
        self.enter(connection, source)
        if connection.engine.state is not State.OPENING:
            return True
        key = connection.peer_key
        if (leaver := self._unproved.enter(connection, key, _place(key, source))) is not None:
            leaver.finish("too many that are not proved")
        return leaver is not connection

    def proved(self, connection: Connection) -> None:
        """Idempotent, like the next one."""
        self._unproved.leave(connection)

    def leave(self, connection: Connection) -> None:
        """It is over, or our user has asked for its peer."""
        self._begun.leave(connection)
        self._unproved.leave(connection)

    def _idle(self, connections: Sequence[Connection]) -> list[Connection]:
        """Those without a pipe, the oldest first."""
        proved = [connection for connection in connections if connection.engine.state is State.OPEN]
        return [connection for connection in proved if not self._pipes.get(connection)]


def _place(key: bytes, source: Endpoint | None) -> Hashable:
    """Where a connection comes from, as its crowd; before it has a path nobody knows."""
    return key if source is None else user_of(source.ip)
