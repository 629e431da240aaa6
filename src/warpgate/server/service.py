"""The name service without HTTP: what a look-up and a write come to. Clocks are given to it."""

from __future__ import annotations

from collections.abc import Callable

from warpgate.errors import AuthenticationError, DecodeError, NicknameError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.nickname import fold
from warpgate.proto.name_record import NameRecord, open_record
from warpgate.server.limits import MAX_BODY, Limits
from warpgate.server.rules import Code, Refusal, Step, check_time
from warpgate.server.store import Change, Store, StoreError, Tally
from warpgate.server.throttle import Throttle

# Health is asked by anybody, and each look is a write to the disk.
_HEALTH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Health:
    """`reason` why registrations fail now; "" when they do not."""

    reason: str
    at: float


class NameService:
    """`clock` gives Unix seconds, `timer` seconds that never jump."""

    def __init__(self, store: Store, limits: Limits, *, clock: Callable[[], float], timer: Callable[[], float]) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._timer = timer
        self._lookups = Throttle(limits.lookups_per_network)
        self._writes = Throttle(limits.writes_per_network)
        self._writes_of_key = Throttle(limits.writes_per_key)
        self._health: Health | None = None

    async def lookup(self, name: str, network: str) -> bytes | Refusal:
        """The signed record. `name` as it was typed."""
        wait = self._lookups.spend(network, self._timer())
        if wait:
            return _too_fast("look-ups from this network", self._limits.lookups_per_network, wait)
        try:
            folded = fold(name)
        except NicknameError as error:
            return Refusal(Code.BAD_NAME, str(error))
        try:
            found = await self._store.lookup(folded, self._clock())
        except StoreError as error:
            return Refusal(Code.STORAGE, str(error), retry_after=_HEALTH_SECONDS)
        return Refusal(Code.NOT_FOUND, f"{folded!r} is not registered") if found is None else found

    def admit_write(self, network: str) -> Refusal | None:
        """Before a body is read and a signature checked: both cost something."""
        wait = self._writes.spend(network, self._timer())
        if wait:
            return _too_fast("writes from this network", self._limits.writes_per_network, wait)
        return None

    async def write(self, name: str, data: bytes, network: str) -> Step | Refusal:
        """Register, refresh or release: `data` is the signed record, `name` that of the URL."""
        record = _opened(name, data)
        if isinstance(record, Refusal):
            return record
        now = self._clock()
        refusal = check_time(record, now) or self._admit_key(record.public_key)
        if refusal is not None:
            return refusal
        try:
            return await self._store.apply(Change(record, data, network, now, self._limits))
        except StoreError as error:
            return Refusal(Code.STORAGE, str(error), retry_after=_HEALTH_SECONDS)

    def _admit_key(self, public_key: bytes) -> Refusal | None:
        """After the signature is checked: nobody can use up another's tokens."""
        wait = self._writes_of_key.spend(public_key, self._timer())
        return _too_fast("writes with this key", self._limits.writes_per_key, wait) if wait else None

    async def health(self) -> str:
        """Why registrations fail, "" when they do not; looked at once a second at most."""
        now = self._timer()
        if self._health is None or now - self._health.at >= _HEALTH_SECONDS:
            # Before the look, so that those who ask meanwhile do not look too.
            self._health = Health("" if self._health is None else self._health.reason, now)
            self._health = Health(await self._look(), now)
        return self._health.reason

    async def tidy(self) -> Tally:
        """StoreError when the database fails."""
        return await self._store.tidy(self._clock())

    async def _look(self) -> str:
        try:
            await self._store.check()
        except StoreError as error:
            return str(error)
        return ""


def _opened(name: str, data: bytes) -> NameRecord | Refusal:
    if len(data) > MAX_BODY:
        return too_large()
    try:
        record = open_record(data)
        folded = name if name == record.name else fold(name)
    except NicknameError as error:
        return Refusal(Code.BAD_NAME, str(error))
    except DecodeError as error:
        return Refusal(Code.MALFORMED, str(error))
    except AuthenticationError as error:
        return Refusal(Code.BAD_SIGNATURE, str(error))
    if record.name != folded:
        return Refusal(Code.NAME_MISMATCH, f"the record is of {record.name!r}, the URL of {folded!r}")
    return record


def too_large() -> Refusal:
    return Refusal(Code.TOO_LARGE, f"a record has at most {MAX_BODY} bytes")


def _too_fast(what: str, limit: int | None, wait: float) -> Refusal:
    return Refusal(Code.RATE, f"{what}: {limit} a minute are allowed", retry_after=wait)
