"""Keeps a connection supplied with paths: searches that begin when one is missing, and again when there is news.

Direct paths and relayed ones are looked for side by side, each by a search of its own, which ends with its first path.
That for relayed ones begins a little later where neither side is known to have a relay.
The connection goes on by whichever is there first; a relayed one is left for a direct one when that is found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from warpgate.core.connection.connection import Connection
from warpgate.core.connection.paths import Path
from warpgate.core.search.equipment import Equipment
from warpgate.core.search.initiator import Initiator, Links
from warpgate.core.search.responder import UNKNOWN_CONNECTION
from warpgate.core.search.session import Session
from warpgate.core.search.sessions import Sessions
from warpgate.errors import ConfigError, ConnectFailed
from warpgate.events import PluginReport
from warpgate.model.endpoint import Mode, Transport
from warpgate.net.race import abandon
from warpgate.plan.paths import RESCUE, UPGRADE
from warpgate.proto.bucket import TokenBucket

# In a new network: a few round trips to the STUN servers, or there are none.
MEASURING = 0.3
# A direct path is mostly there by then: where no relay is known of, the search for one would only cost both sides
# signals. It comes later all the same, since the peer's address may be older than its relay.
NO_RELAY_KNOWN = 0.3
# Of one connection, so many at once, and a second: a peer that ends each path as soon as it is there, or says every
# second that it is somewhere else, would have us search without end.
AT_ONCE = 16
RATE = 0.5

MakePath = Callable[[Session, Links], Path]


class PathSeeker:
    """Lives as long as its connection; `lost`, `settled` and `moved` wake it."""

    def __init__(
        self,
        equipment: Equipment,
        sessions: Sessions,
        connection: Connection,
        make_path: MakePath,
        plugins: Sequence[str] | None,
        transport: Transport | None,
    ) -> None:
        """`plugins`, `transport`: only these, as in `Node.connect`. ConfigError for an unknown plugin."""
        self._equipment = equipment
        self._context = equipment.context
        self._sessions = sessions
        self._connection = connection
        self._make_path = make_path
        self._transport = transport
        chosen = equipment.context.registry.select(plugins)
        self._direct = [plugin.name for plugin in chosen if not plugin.relays]
        self._relayed = [plugin.name for plugin in chosen if plugin.relays]
        self._news = self._context.new_future()
        self._book = TokenBucket(RATE, AT_ONCE, self._context.now())
        self._running: set[Initiator[Path]] = set()
        self._outdated: set[Initiator[Path]] = set()  # those of them that are of a network that we have left
        self._tasks: list[asyncio.Task[None]] = []
        self._ageing: asyncio.TimerHandle | None = None  # until the path that there is has to be replaced
        self._patience: float | None = None
        self.report: tuple[PluginReport, ...] = ()
        self.failures: list[ConnectFailed] = []  # of the searches for the first path
        self.silences: list[ConnectFailed] = []  # of searches for further ones that heard nothing of the peer

    def start(self, patience: float | None = None) -> None:
        """Once; from the first `lost` on where the peer began the connection. `patience`: as for `Initiator.run`."""
        if not self._tasks:
            self._patience = patience
            for plugins, wanted in ((self._direct, self._direct_wanted), (self._relayed, self._relay_wanted)):
                if plugins:
                    task = self._context.tasks.spawn("paths", self._keep(plugins, wanted))
                    self._tasks += [] if task is None else [task]

    def hurry(self) -> None:
        """Somebody wants a pipe now: what was given up is tried again."""
        self._tell()

    # -- what the connection tells -------------------------------------------------------------------------------

    def lost(self) -> None:
        if (path := self._connection.current) is not None and path.relayed:
            self._equipment.relays.doubt((path.local.ip, path.remote.ip))
        self.late()
        self.start()
        self._tell()

    def settled(self) -> None:
        self._tell()
        self._forget_age()
        if (renew_at := self._connection.renew_at) is not None:
            self._ageing = asyncio.get_running_loop().call_at(renew_at, self._tell)

    def late(self) -> None:
        """Until it is clear that the path is dead, one may know whether our public address is another one, and be back
        at the brokers, where the peer will look for us: what ended the path may have ended the links to them.
        """
        self._equipment.discovery.look_again()
        self._equipment.channel.hurry()

    def moved(self) -> None:
        """Our network is another one: what is going on was begun from the one before."""
        if not self._connection.works:
            self._outdated |= self._running
            for initiator in tuple(self._running):
                initiator.stop("this node has moved")
        elif self._connection.leaving:
            self.start()
        self._tell()

    def close(self) -> None:
        self._forget_age()
        for initiator in tuple(self._running):
            initiator.stop("the connection is over")
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self._tasks = []

    def _forget_age(self) -> None:
        if self._ageing is not None:
            self._ageing.cancel()
            self._ageing = None

    def _tell(self) -> None:
        news, self._news = self._news, self._context.new_future()
        news.set_result(None)

    # -- searching -----------------------------------------------------------------------------------------------

    def _direct_wanted(self) -> bool:
        connection = self._connection
        renew_at = connection.renew_at
        old = renew_at is not None and self._context.now() >= renew_at
        return not connection.works or connection.relayed or connection.leaving or old

    def _relay_wanted(self) -> bool:
        return not self._connection.works

    def _relay_known(self) -> bool:
        """Or there is nothing else to look for."""
        return self._connection.remote.relay or self._equipment.relays.configured or not self._direct

    async def _keep(self, plugins: list[str], wanted: Callable[[], bool]) -> None:
        failures = 0
        while self._connection.end is None:
            if not wanted():
                failures = 0
                await asyncio.shield(self._news)
                continue
            if plugins is self._relayed and not self._relay_known():
                await self._pause(NO_RELAY_KNOWN)
                if not wanted():
                    continue
            await self._turn()
            if not wanted() or await self._search(plugins, wanted):
                continue
            failures += 1
            while self._connection.current is None:  # whoever wants the first path is told, and may try again
                await asyncio.shield(self._news)
            retry = UPGRADE if self._connection.works else RESCUE
            await self._pause(retry.after(failures))

    async def _turn(self) -> None:
        """Until one more search may begin."""
        every = self._equipment.peer_searches
        for book in (self._book,) if self._connection.invited else (self._book, every):
            while not book.take(self._context.now()):  # noqa: ASYNC110 - the time is known
                await asyncio.sleep(book.wait(self._context.now()))

    async def _pause(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._news)
        except TimeoutError:
            return

    async def _search(self, plugins: list[str], wanted: Callable[[], bool]) -> bool:
        """Whether it found a path, or is not wanted any more."""
        connection = self._connection
        if connection.current is not None and plugins is self._direct:
            # Perhaps we have just moved: what the peer is to aim at comes first. A relay is opened meanwhile.
            await self._equipment.discovery.first(MEASURING)
        try:
            initiator = Initiator(
                self._equipment,
                self._sessions,
                self._found,
                connection.remote,
                Mode.PATH,
                self._transport,
                plugins,
                secure=False,
                service="",
                errand=connection.errand,
            )
        except ConfigError as error:  # of a transport that none of these can use
            self._failed(ConnectFailed(str(error), ()))
            return False
        self._running.add(initiator)
        path: Path | None = None
        searching = asyncio.ensure_future(initiator.run(self._patience))
        try:
            while not searching.done():
                either: list[asyncio.Future[Any]] = [searching, self._news]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not searching.done() and not wanted():
                    return True
            path = searching.result()
        except ConnectFailed as failure:
            if initiator.refusal is not None and initiator.refusal.startswith(UNKNOWN_CONNECTION):
                connection.finish("the peer does not know this connection: it was restarted")
            if initiator in self._outdated:  # that was no answer: ask again from here
                await self._equipment.discovery.first(MEASURING)
                return True
            self._failed(failure)
            if initiator.silent and plugins is (self._direct or self._relayed):
                silences, self.silences = self.silences, []
                silences.append(failure)  # for those who wait with it
                connection.soon()
            return False
        finally:
            self._running.discard(initiator)
            self._outdated.discard(initiator)
            if path is None:
                abandon(searching, lambda path: path.close())
                await asyncio.wait([searching])
        self.report += initiator.report if connection.current is None else ()
        connection.meet(initiator.remote)
        connection.add(path)
        path.start()
        return True

    def _failed(self, failure: ConnectFailed) -> None:
        if self._connection.current is None:
            self.failures.append(failure)
            self.report += failure.report
            if len(self.failures) >= len(self._tasks):
                self._connection.finish(f"no path to {self._connection.peer}")

    def _found(self, session: Session, link: Links, _report: tuple[PluginReport, ...]) -> Path:
        return self._make_path(session, link)
