"""Which NAT64 prefix the network has (RFC 7050): what its resolver makes of a name that has IPv4 addresses alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from ipaddress import IPv6Address
from itertools import count

from warpgate.errors import NetworkError
from warpgate.events import Nat64Found, Observer, ServerFailed
from warpgate.model.backoff import Backoff
from warpgate.model.scope import is_translators
from warpgate.model.translation import WELL_KNOWN_NAME, Nat64Prefix, prefixes_in
from warpgate.net.translated import TranslatedNetwork, without_ipv4

# Asked again as long as nothing answers: the network may just be coming up. A resolver that has no such name answers
# in the same way, so the pauses grow long.
RETRY = Backoff(5.0, 600.0)


class PrefixDiscovery:
    """Asks only where an interface has IPv6 and no IPv4.

    Life: `look`, again after each change of interfaces; `close`.
    """

    def __init__(
        self, network: TranslatedNetwork, emit: Observer, on_change: Callable[[], None], rng: random.Random
    ) -> None:
        """Sets the network's prefix, then calls `on_change`."""
        self._network = network
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
            try:
                answers = await self._network.inner.resolve(WELL_KNOWN_NAME, 0)
            except NetworkError:
                self._answered.set()  # a resolver that is down says nothing about the prefix that we have
            else:
                told = prefixes_in(end.ip for end in answers if isinstance(end.ip, IPv6Address))
                found = [prefix for prefix in told if is_translators(prefix)]
                if told and not found:
                    self._emit(ServerFailed("nat64", WELL_KNOWN_NAME, f"of no use: the prefix {told[0]}"))
                self._set(next(iter(found), None))
                if found:
                    return
            pause = RETRY.after(failures)
            await asyncio.sleep(self._rng.uniform(pause / 2, pause))

    def _set(self, prefix: Nat64Prefix | None) -> None:
        changed = prefix != self._network.prefix
        self._network.prefix = prefix
        if changed and prefix is not None:
            self._emit(Nat64Found(str(prefix)))
        if changed:
            self._on_change()
        self._answered.set()
