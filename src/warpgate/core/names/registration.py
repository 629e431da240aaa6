"""A nickname of ours, kept registered while the node lives.

Every server gets the same records, so that whichever answers a look-up, none seems out of date beside another. A new
record is signed when the address has changed, when the old one is some hours old, and when a server wants one with a
higher sequence or a later date; then all servers get it. What a record says of the address is the node's address in
the moment of signing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from warpgate.core.context import Context
from warpgate.core.tasks import Tasks
from warpgate.errors import NameRefused, ServiceError, WarpgateError
from warpgate.events import NameNotRegistered, NameRegistered, ServerFailed
from warpgate.lazy_dataclass import dataclass
from warpgate.model.backoff import Backoff
from warpgate.proto.name_record import MAX_LIFETIME, NameRecord, RecordKind, seal
from warpgate.services.names import GRACE, SERVICE, NameServer

# A name is free 30 days after its last refresh: a node that is up for five hours keeps it for a month.
REFRESH_LOW, REFRESH_HIGH = 3 * 3600.0, 5 * 3600.0
# Servers, brokers and STUN answer one after the other: one record for all that they change.
DEBOUNCE = 1.0
UPDATE_GAP = 6.0
BACKOFF = Backoff(1.0, 300.0)
# Somebody else's name may be free one day; asking cannot make it so.
REFUSED_PAUSE = 3600.0
# Sequences are milliseconds of Unix time and servers check clocks to 300 s: one that is a day ahead is a lie, and
# following it would end with no higher number left.
SEQUENCE_AHEAD = 86_400_000
TRIES = 3


@dataclass(frozen=True, slots=True)
class Sealed:
    """A signed record."""

    record: NameRecord
    data: bytes


class Signer:
    """Signs the records of one name, each with a higher sequence than any before."""

    def __init__(self, context: Context, name: str) -> None:
        self.name = name
        self._context = context
        self._sequence = 0

    def sign(self, kind: RecordKind) -> Sealed:
        """With the node's present address, unless it is a release."""
        now = self._context.wall_clock()
        self._sequence = max(int(now * 1000), self._sequence + 1)
        record = NameRecord(
            kind=kind,
            name=self.name,
            public_key=self._context.identity.public_key,
            sequence=self._sequence,
            issued=int(now),
            lifetime=MAX_LIFETIME,
            address=self._context.address.encode() if kind is RecordKind.CLAIM else b"",
        )
        return Sealed(record, seal(record, self._context.identity))

    def follow(self, refusal: NameRefused) -> bool:
        """Whether a record signed after this can do better than the refused one."""
        if refusal.code != "stale_sequence" or refusal.sequence is None:
            return False
        if not 0 <= refusal.sequence <= self._context.wall_clock() * 1000 + SEQUENCE_AHEAD:
            return False
        self._sequence = max(self._sequence, refusal.sequence)
        return True


class Registration:
    """One name at all servers. Life: `start`, `settled` perhaps, `close`."""

    def __init__(self, context: Context, signer: Signer, servers: tuple[NameServer, ...], rng: random.Random) -> None:
        self.signer = signer
        self.context = context
        self.rng = rng
        self.news = asyncio.Event()
        self._closed = False
        self._sealed: Sealed | None = None
        self._refresh_at = 0.0
        self._placements = tuple(_Placement(self, server) for server in servers)
        self._tasks = Tasks(
            lambda task, error: context.emit(ServerFailed(SERVICE, task, str(error))), within=context.tasks
        )

    def start(self) -> None:
        for placement in self._placements:
            self._tasks.spawn(f"name {self.signer.name!r} at {placement.server.url}", placement.run())

    async def settled(self, *, wait: bool) -> tuple[str, ...]:
        """The servers that have it, as soon as one has and the others had a moment, too.

        Without any: NameRefused when one refused, else ServiceError, or with `wait` for as long as none is reached.
        """
        loop = asyncio.get_running_loop()
        began, deadline = loop.time(), None
        while True:
            if self._closed:
                raise ServiceError(f"{self.signer.name!r} is not registered: the node was closed")
            self.news.clear()
            accepted = tuple(each.server.url for each in self._placements if each.accepted)
            untried = any(each.error is None and not each.accepted for each in self._placements)
            if accepted and deadline is None:
                deadline = loop.time() + max(GRACE, loop.time() - began)
            if accepted and (not untried or (deadline is not None and loop.time() >= deadline)):
                return accepted
            if not accepted and not untried:
                self._raise(wait=wait)
            try:
                async with asyncio.timeout_at(deadline):
                    await self.news.wait()
            except TimeoutError:
                continue

    def _raise(self, *, wait: bool) -> None:
        errors = {each.server.url: each.error for each in self._placements if each.error is not None}
        for server, error in errors.items():
            if isinstance(error, NameRefused) and error.code not in PASSING:
                raise NameRefused(
                    f"{server} does not register {self.signer.name!r}: {error}", error.code, error.sequence
                )
        if not wait:
            reasons = "; ".join(f"{server}: {error}" for server, error in errors.items())
            raise ServiceError(f"{self.signer.name!r} could not be registered: {reasons}")

    def current(self) -> Sealed:
        """The record that every server should have now."""
        sealed, now = self._sealed, asyncio.get_running_loop().time()
        if sealed is None or now >= self._refresh_at or sealed.record.address != self.context.address.encode():
            return self.renew()
        return sealed

    def renew(self) -> Sealed:
        """A new record, which all servers get."""
        now = asyncio.get_running_loop().time()
        self._refresh_at = now + self.rng.uniform(REFRESH_LOW, REFRESH_HIGH)
        self._sealed = self.signer.sign(RecordKind.CLAIM)
        self.address_changed()
        return self._sealed

    @property
    def refresh_at(self) -> float:
        return self._refresh_at

    def address_changed(self) -> None:
        """Every server gets what is new, soon."""
        for placement in self._placements:
            placement.changed.set()

    async def close(self) -> None:
        """The name stays registered; whoever waits for it to be `settled` gets a ServiceError."""
        self._closed = True
        self.news.set()
        await self._tasks.close()


# Refusals that say nothing about the name.
PASSING = ("rate", "storage", "stale_sequence")


class _Placement:
    """One name at one server. `error`: why the last try failed."""

    def __init__(self, registration: Registration, server: NameServer) -> None:
        self.server = server
        self.error: WarpgateError | None = None
        self.changed = asyncio.Event()
        self._registration = registration
        self._placed: Sealed | None = None
        self._tried = 0.0
        self._failures = 0

    @property
    def accepted(self) -> bool:
        """Whether the server has a record of ours, if not the newest."""
        return self._placed is not None

    async def run(self) -> None:
        """For ever."""
        registration, loop = self._registration, asyncio.get_running_loop()
        while True:
            self.changed.clear()
            if registration.current() is self._placed:
                pause = registration.refresh_at - loop.time()
            else:
                pause = await self._try()
                registration.news.set()
            await self._rest(pause)

    async def _try(self) -> float:
        """Bring the server up to date; for how many seconds it then is."""
        registration, loop = self._registration, asyncio.get_running_loop()
        context, name = registration.context, registration.signer.name
        self._tried = loop.time()
        try:
            sealed = await place(self.server, registration.signer, registration.current(), registration.renew)
        except WarpgateError as error:
            self.error = error
            self._failures += 1
            refused = isinstance(error, NameRefused)
            pause = self._pause_after(error)
            context.emit(NameNotRegistered(name, self.server.url, str(error), refused, pause))
            return pause
        self.error, self._failures, self._placed = None, 0, sealed
        seconds = loop.time() - self._tried
        context.emit(NameRegistered(name, self.server.url, sealed.record.sequence, seconds))
        return registration.refresh_at - loop.time()

    def _pause_after(self, error: WarpgateError) -> float:
        pause = BACKOFF.drawn(self._failures, self._registration.rng.uniform)
        if isinstance(error, NameRefused):
            return max(pause, min(error.retry_after, REFUSED_PAUSE)) if error.code in PASSING else REFUSED_PAUSE
        return pause

    async def _rest(self, seconds: float) -> None:
        """Until then, or until a moment after something has changed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        try:
            async with asyncio.timeout_at(until):
                await self.changed.wait()
        except TimeoutError:
            return
        soon = max(loop.time() + DEBOUNCE, self._tried + UPDATE_GAP)
        await asyncio.sleep(min(soon, max(until, loop.time())) - loop.time())


async def place(server: NameServer, signer: Signer, sealed: Sealed, renew: Callable[[], Sealed]) -> Sealed:
    """Publish a record, or a renewed one where the server has a higher sequence or finds it too old; which one.

    ServiceError, NameRefused.
    """
    for tried in range(1, TRIES + 1):
        try:
            await server.publish(signer.name, sealed.data)
        except NameRefused as refusal:
            again = signer.follow(refusal) or (refusal.code == "clock" and tried == 1)
            if tried == TRIES or not again:
                raise
            sealed = renew()
        else:
            return sealed
    raise AssertionError("unreachable")
