"""Which NAT64 prefix the network has: what its resolver makes of a name that has IPv4 addresses alone (RFC 7050), or of
the names of our servers where it does not answer for that one.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address
from itertools import count, islice

from warpgate.errors import NetworkError
from warpgate.events import Nat64Found, Observer, ServerFailed
from warpgate.model.backoff import Backoff
from warpgate.model.endpoint import IPAddress
from warpgate.model.scope import is_translators
from warpgate.model.translation import WELL_KNOWN_NAME, Nat64Prefix, prefixes_in, prefixes_shared
from warpgate.net.translated import TranslatedNetwork, without_ipv4

# Asked again as long as nothing answers: the network may just be coming up. A resolver that has no such name answers
# in the same way, so the pauses grow long.
RETRY = Backoff(5.0, 600.0)
# Names of servers that are looked at, and how long before that the well-known name is waited for.
OTHER_NAMES = 6
SILENT = 0.1


class PrefixDiscovery:
    """Asks only where an interface has IPv6 and no IPv4.

    Life: `look`, again after each change of interfaces; `close`.
    """

    def __init__(
        self,
        network: TranslatedNetwork,
        names: Callable[[], Iterable[str]],
        emit: Observer,
        on_change: Callable[[], None],
        rng: random.Random,
    ) -> None:
        """Sets the network's prefix, then calls `on_change`. `names`: hosts that we have to do with anyway."""
        self._network = network
        self._names = names
        self._emit = emit
        self._on_change = on_change
        self._rng = rng
        self._asking: asyncio.Task[None] | None = None
        self._answered = asyncio.Event()

    def look(self) -> None:
        """Begin to ask, at once and anew."""
        if self._asking is not None:
            self._asking.cancel()
        self._answered.clear()
        if without_ipv4(self._network.inner.interfaces()):
            self._asking = asyncio.get_running_loop().create_task(self._ask(), name="nat64")
        else:
            self._set(None)

    async def first(self, patience: float) -> None:
        """Returns when the resolver has answered or failed once, after `patience` seconds at the latest."""
        try:
            async with asyncio.timeout(patience):
                await self._answered.wait()
        except TimeoutError:
            pass

    def close(self) -> None:
        """Asks no more. Idempotent."""
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> None:
        for failures in count(1):
            told = await self._told()
            if told is None:
                self._answered.set()  # a resolver that is down says nothing about the prefix that we have
            elif self._take(told):
                return
            pause = RETRY.after(failures)
            await asyncio.sleep(self._rng.uniform(pause / 2, pause))

    def _take(self, told: tuple[Nat64Prefix, ...]) -> bool:
        """Whether one of them is of use."""
        found = [prefix for prefix in told if is_translators(prefix)]
        if told and not found:
            self._emit(ServerFailed("nat64", WELL_KNOWN_NAME, f"of no use: the prefix {told[0]}"))
        self._set(next(iter(found), None))
        return bool(found)

    async def _told(self) -> tuple[Nat64Prefix, ...] | None:
        """The prefixes that the resolver tells of; None: it does not answer. What our servers' names tell is used at
        once, and what the well-known name does counts for more, whenever it comes.
        """
        shared: tuple[Nat64Prefix, ...] = ()
        first = asyncio.ensure_future(self._addresses(WELL_KNOWN_NAME))
        others: list[asyncio.Future[tuple[str, tuple[IPAddress, ...]]]] = []
        try:
            await asyncio.wait([first], timeout=SILENT)
            if not first.done() or not _told_by(first.result()):
                others += [asyncio.ensure_future(self._owned(name)) for name in islice(self._names(), OTHER_NAMES)]
                owners: defaultdict[str, list[IPAddress]] = defaultdict(list)
                for answer in asyncio.as_completed(others):
                    owner, addresses = await answer
                    owners[owner] += addresses
                    if shared := prefixes_shared(owners.values()):
                        self._take(shared)
                        break
            answers = await first
            return shared or None if answers is None else _told_by(answers) or shared
        finally:
            first.cancel()
            for other in others:
                other.cancel()

    async def _owned(self, name: str) -> tuple[str, tuple[IPAddress, ...]]:
        """Whose name it is, by its last two labels, and its addresses: one owner of two servers could make up a prefix,
        and so lead to itself what is meant for IPv4.
        """
        return ".".join(name.lower().rstrip(".").split(".")[-2:]), await self._addresses(name) or ()

    async def _addresses(self, name: str) -> tuple[IPAddress, ...] | None:
        try:
            return tuple(end.ip for end in await self._network.inner.resolve(name, 0))
        except NetworkError:
            return None

    def _set(self, prefix: Nat64Prefix | None) -> None:
        changed = prefix != self._network.prefix
        self._network.prefix = prefix
        if changed and prefix is not None:
            self._emit(Nat64Found(str(prefix)))
        if changed:
            self._on_change()
        self._answered.set()


def _told_by(answers: tuple[IPAddress, ...] | None) -> tuple[Nat64Prefix, ...]:
    return prefixes_in(ip for ip in answers or () if isinstance(ip, IPv6Address))
