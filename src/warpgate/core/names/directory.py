"""The node's side of names: looking them up for connects, keeping its own registered, and the contact book."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from warpgate.core.context import Context
from warpgate.core.names.destination import NO_NAME_SERVER
from warpgate.core.names.known_peers import KnownPeers
from warpgate.core.names.registration import Registration, Sealed, Signer, place
from warpgate.core.pipes.base import Pipe
from warpgate.errors import NameRefused, ServiceError, WarpgateError
from warpgate.events import ContactPinned, NameFound, NameReleased, PluginReport, ServerFailed
from warpgate.model.address import NodeAddress
from warpgate.model.contact import Contact
from warpgate.model.nickname import fold
from warpgate.net.race import heed
from warpgate.net.tls import Trust
from warpgate.proto.name_record import RecordKind
from warpgate.services.name_answers import Found
from warpgate.services.names import SERVICE, NameServer, NameServerCheck, NameServers

# Connects to an address in so many seconds; the rows begin the report.
Attempt = Callable[[NodeAddress, float | None, tuple[PluginReport, ...]], Awaitable[Pipe]]


class Names:
    """Life: made with the node, `start`, `close`. Without servers it refuses everything and does nothing."""

    def __init__(self, context: Context, contacts: KnownPeers, rng: random.Random, trust: Trust) -> None:
        """ConfigError for what is no URL of a name server."""
        self._context = context
        self._contacts = contacts
        self._rng = rng
        self._servers = NameServers(
            context.network,
            context.config.names,
            context.emit,
            trust=trust,
            wall_clock=self._wall_clock,
        )
        self._registrations: dict[str, Registration] = {}

    def start(self) -> None:
        """Connections to the servers are made in the background, so that a look-up takes one round trip."""
        if self._servers.servers:
            self._context.tasks.spawn("name servers", self._servers.warm())

    def address_changed(self) -> None:
        for registration in self._registrations.values():
            registration.address_changed()

    async def close(self) -> None:
        """Names stay registered; nothing is sent any more."""
        registrations, self._registrations = self._registrations, {}
        for registration in registrations.values():
            await registration.close()
        await self._servers.close()

    async def check(self) -> tuple[NameServerCheck, ...]:
        return await self._servers.check()

    # -- others' names -------------------------------------------------------------------------------------------

    async def look_up(self, text: str) -> Found:
        """Whose name it is, as far as the contact book allows. NicknameError, ServiceError, PeerKeyChanged, ConfigError
        (the book is damaged).
        """
        name = fold(text)
        self._check_configured(name)
        found = await self._servers.look_up(name, self._contacts.find(name))
        record = found.record
        self._context.emit(NameFound(name, found.address.node_id, record.sequence, found.server, found.seconds))
        return found

    async def remember(self, found: Found) -> None:
        """Put it into the contact book. PeerKeyChanged when another process has just pinned another key."""
        record = found.record
        seen = Contact(record.name, record.public_key, record.sequence, int(self._context.wall_clock()))
        if await self._contacts.remember(seen):
            self._context.emit(ContactPinned(record.name, seen.node_id))

    async def connect(self, text: str, timeout: float | None, attempt: Attempt) -> Pipe:
        """Look the name up and connect to its address, `timeout` seconds for both (None: each has its own). While the
        attempt goes on, the name is pinned: that costs it nothing, and no pipe is handed out before it is done. Errors
        as for `look_up`, and the attempt's.
        """
        began = self._context.now()
        patience = self._context.config.timing.attempt_timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(patience):
                found = await self.look_up(text)
        except TimeoutError:
            raise ServiceError(f"{text!r} could not be looked up within {patience:g} s") from None
        pinning = asyncio.ensure_future(self.remember(found))
        pinning.add_done_callback(heed)
        seconds = self._context.now() - began
        try:
            pipe = await attempt(found.address, None if timeout is None else timeout - seconds, (_row(found, seconds),))
        except BaseException:
            pinning.cancel()
            raise
        try:
            await pinning
        except BaseException:
            pipe.abort()
            raise
        return pipe

    # -- our own -------------------------------------------------------------------------------------------------

    async def register(self, text: str, *, wait: bool) -> tuple[str, ...]:
        """As `Node.nickname`."""
        name = fold(text)
        self._check_configured(name)
        registration = self._registrations.get(name)
        if registration is None:
            signer = Signer(self._context, name)
            registration = Registration(self._context, signer, self._servers.servers, self._rng)
            self._registrations[name] = registration
            registration.start()
        try:
            return await registration.settled(wait=wait)
        except BaseException:
            if self._registrations.pop(name, None) is not None:
                await registration.close()
            raise

    async def release(self, text: str) -> tuple[str, ...]:
        """As `Node.release_nickname`."""
        name = fold(text)
        self._check_configured(name)
        registration = self._registrations.pop(name, None)
        if registration is not None:
            await registration.close()
        signer = Signer(self._context, name) if registration is None else registration.signer
        sealed = signer.sign(RecordKind.RELEASE)
        errors: dict[str, WarpgateError] = {}
        await asyncio.gather(*(self._release(server, signer, sealed, errors) for server in self._servers.servers))
        released = tuple(server.url for server in self._servers.servers if server.url not in errors)
        if not released:
            reasons = "; ".join(f"{server}: {error}" for server, error in errors.items())
            message = f"{name!r} could not be released: {reasons}"
            refusals = [error for error in errors.values() if isinstance(error, NameRefused)]
            raise NameRefused(message, refusals[0].code) if refusals else ServiceError(message)
        return released

    async def _release(
        self, server: NameServer, signer: Signer, sealed: Sealed, errors: dict[str, WarpgateError]
    ) -> None:
        try:
            await place(server, signer, sealed, lambda: signer.sign(RecordKind.RELEASE))
        except WarpgateError as error:
            errors[server.url] = error
            self._context.emit(ServerFailed(SERVICE, server.url, f"{signer.name!r} is not released: {error}"))
        else:
            self._context.emit(NameReleased(signer.name, server.url))

    def _wall_clock(self) -> float:
        return self._context.wall_clock()

    def _check_configured(self, name: str) -> None:
        if not self._servers.servers:
            raise ServiceError(f"{name!r} is a nickname, and {NO_NAME_SERVER}")


def _row(found: Found, seconds: float) -> PluginReport:
    """The report's line about the look-up, which ended when the attempt began."""
    text = f"{found.record.name} is {found.address.node_id}, says {found.server} ({found.seconds * 1000:.1f} ms)"
    return PluginReport("names", "info", "", -seconds, 0.0, ((found.seconds - seconds, text),))
