"""Where newer lists of public servers come from, and which of them are good.

A list counts if one of the package's keys has signed it, it is newer than the package's, and its last day is not over.
Whatever is missing or wrong, a node goes on with what it has (`core/servers_in_use.py`). The places are asked once in a
week or two, by programs that run for some minutes, one after the other until one has a good list, for all processes of
the user's.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import replace

from warpgate.config import Config
from warpgate.core.disk.store import Store
from warpgate.errors import AuthenticationError, DecodeError, NetworkError, ServiceError, WarpgateError
from warpgate.events import Observer, ServerFailed, ServerListFetched
from warpgate.lazy_dataclass import dataclass
from warpgate.model.server_list import ServerList, open_list
from warpgate.net.network import Network
from warpgate.net.tls import Trust
from warpgate.services.defaults import ListKeys, list_keys, public_servers
from warpgate.services.list_places import fetch_list

SERVICE = "server-list"
WEEK = 7 * 86400.0
# A million nodes that were started together ask at different times.
SPREAD = WEEK
# Nobody was reached: there may be no internet today.
RETRY = 86400.0
# After the start, seconds: a program that connects once, and is over, asks nobody.
FIRST_LOW, FIRST_HIGH = 300.0, 900.0
# The wall clock may be set, and other processes of the user may have asked meanwhile.
LOOK_AGAIN = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class StoredList:
    """`data`: the last good list with its signatures, b"" without one; `next_at`: when places are asked again, in Unix
    seconds.
    """

    data: bytes = b""
    next_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ListStatus:
    """For doctor: `used` is what a node uses now; `off`: why no newer one is fetched, "" when it is;
    `next_at`: when it will be, in Unix seconds.
    """

    used: ServerList
    fetched: bool
    off: str
    next_at: float


@dataclass(frozen=True, slots=True)
class PlaceCheck:
    """What one place has, or the `error`."""

    place: str
    sequence: int = 0
    error: str = ""


class ServerLists:
    """`store` None: a program that is to leave nothing on the disk fetches none, as it could not know when to stop."""

    def __init__(
        self,
        config: Config,
        store: Store[StoredList] | None,
        wall_clock: Callable[[], float],
        keys: Callable[[], ListKeys] | None = None,
    ) -> None:
        """`keys` None: those of the package."""
        self._config = config
        self._store = store
        self._wall_clock = wall_clock
        self._keys = list_keys if keys is None else keys
        self._seen: ServerList | None = None  # the newest good one of this run, whatever becomes of the file

    # -- what is used --------------------------------------------------------------------------------------------

    def newest(self) -> ServerList | None:
        """What a node uses in the place of the package's; None when that is as new."""
        stored = self._stored()
        if stored is None or stored.sequence <= public_servers().sequence:
            return None
        return stored if self._wall_clock() < stored.expires else None

    def status(self) -> ListStatus:
        """ConfigError for a package that is broken."""
        newer = self.newest()
        next_at = 0.0 if self._store is None else self._store.load().next_at
        return ListStatus(newer or public_servers(), newer is not None, self._off(), next_at)

    @property
    def _wanted(self) -> bool:
        default = self._config.brokers is None or self._config.stun is None
        return default and self._config.server_lists != ()

    @property
    def places(self) -> tuple[str, ...]:
        return self._keys().places if self._config.server_lists is None else self._config.server_lists

    def _off(self) -> str:
        if self._config.server_lists == ():
            return "the settings say so (server_list)"
        if not self._wanted:
            return "the settings name all servers"
        if not self._keys().keys:
            return "this package has no key to verify one with"
        if not self.places:
            return "no place is known that has one"
        return "" if self._store is not None else "this program leaves nothing on the disk"

    def _stored(self) -> ServerList | None:
        """The last good list, also one that is no longer used: nothing older than it is believed."""
        if self._store is None or not self._wanted:
            return None
        if data := self._store.load().data:
            # Else signed with a key that has gone, or somebody else's file.
            with contextlib.suppress(AuthenticationError, DecodeError):
                self._see(open_list(data, self._keys().keys))
        return self._seen

    def _see(self, listed: ServerList) -> None:
        if self._seen is None or listed.sequence > self._seen.sequence:
            self._seen = listed

    # -- where newer ones come from ------------------------------------------------------------------------------

    async def run(
        self, network: Network, emit: Observer, rng: random.Random, take: Callable[[ServerList], None]
    ) -> None:
        """Until cancelled; returns where none is to be fetched. `take` is given the newest, again and again: those that
        other processes fetched, too.
        """
        if self._store is None or not self._wanted:
            return
        await asyncio.sleep(rng.uniform(FIRST_LOW, FIRST_HIGH))  # before any file is read
        if self._off():
            return
        while True:
            left = self._store.load().next_at - self._wall_clock()
            if 0 < left <= WEEK + SPREAD:  # more only when the clock was set back
                await self._rest(min(left, LOOK_AGAIN), take)
                continue
            pause = await self._ask(network, emit, rng) + rng.uniform(0.0, SPREAD)
            self._store.save(replace(self._store.load(), next_at=self._wall_clock() + pause))
            await self._rest(pause, take)  # also where nothing can be saved

    async def _rest(self, seconds: float, take: Callable[[ServerList], None]) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0:
            if (listed := self.newest()) is not None:
                take(listed)
            await asyncio.sleep(min(left, LOOK_AGAIN))

    async def check(self, network: Network) -> tuple[PlaceCheck, ...]:
        """Ask each place now: for doctor. A newer list is kept."""
        if self._off():
            return ()
        return tuple([await self._check(network, place) for place in self.places])

    async def _check(self, network: Network, place: str) -> PlaceCheck:
        try:
            return PlaceCheck(place, (await self._take(network, place)).sequence)
        except WarpgateError as error:
            return PlaceCheck(place, error=str(error))

    async def _ask(self, network: Network, emit: Observer, rng: random.Random) -> float:
        """One place after the other until one has a good list; seconds for which nobody is to be asked again."""
        reached = False
        for place in rng.sample(self.places, len(self.places)):
            before = self._floor()
            try:
                listed = await self._take(network, place)
            except WarpgateError as error:
                reached |= not isinstance(error, NetworkError)
                emit(ServerFailed(SERVICE, place, str(error)))
                continue
            if listed.sequence > before:
                emit(ServerListFetched(place, listed.sequence))
            return WEEK
        return WEEK if reached else RETRY

    def _floor(self) -> int:
        stored = self._stored()
        return max(public_servers().sequence, 0 if stored is None else stored.sequence)

    async def _take(self, network: Network, place: str) -> ServerList:
        """What a place has; kept when it is newer. WarpgateError for what is no good list, or an older one."""
        assert self._store is not None
        data = await fetch_list(network, place, Trust(self._config.ca_file))
        listed = open_list(data, self._keys().keys)
        floor = self._floor()
        if listed.sequence < floor:
            raise ServiceError(f"it has list {listed.sequence}, and {floor} is known already")
        if self._wall_clock() >= listed.expires:
            raise ServiceError(f"the last day of list {listed.sequence} is over")
        if listed.sequence > floor:
            self._see(listed)
            self._store.save(StoredList(data, self._store.load().next_at))
        return listed
