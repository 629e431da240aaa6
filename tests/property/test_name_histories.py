"""Whatever two owners and a stranger who repeats their records send in whatever order: a name is one owner's."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import ALICE, BOB, fixed

from warpgate.model.address import NodeAddress
from warpgate.model.identity import Identity
from warpgate.proto.name_record import NameRecord, RecordKind, open_record, seal
from warpgate.server.limits import Limits
from warpgate.server.rules import CLOCK_SKEW, Step
from warpgate.server.service import NameService
from warpgate.server.sqlite import open_sqlite

START = 1_700_000_000
UNLIMITED = Limits(None, None, None, None, None)
few = settings(fixed, max_examples=50)  # each is a database


@dataclass(frozen=True)
class Sign:
    """Somebody signs a record, `late` s ago by the server's clock, and sends it. `step`: above the highest sequence."""

    owner: Identity
    kind: RecordKind
    step: int
    lifetime: int
    late: int


@dataclass(frozen=True)
class Repeat:
    """Somebody sends what was sent before."""

    which: int


@dataclass(frozen=True)
class Wait:
    seconds: int


@dataclass(frozen=True)
class Tidy:
    """The server forgets what it thinks nobody needs."""


ACTIONS = st.one_of(
    st.builds(
        Sign,
        st.sampled_from((ALICE, BOB)),
        st.sampled_from((RecordKind.CLAIM, RecordKind.CLAIM, RecordKind.RELEASE)),
        st.sampled_from((1, 1, 1, 0, -1)),
        st.sampled_from((1, 5000)),
        st.sampled_from((-CLOCK_SKEW, 0, 0)),
    ),
    st.builds(Repeat, st.integers(0, 5)),
    st.builds(Repeat, st.integers(0, 30)),
    st.builds(Wait, st.sampled_from((1, 50, 250, 301, 601))),
    st.just(Tidy()),
)


@dataclass
class History:
    """What the server did with `sent`, and what must be so because of it."""

    service: NameService
    clock: list[int]
    sent: list[bytes] = field(default_factory=list)
    effective: set[bytes] = field(default_factory=set)
    holder: NameRecord | None = None
    highest: int = 10

    async def do(self, action: Sign | Repeat | Wait | Tidy) -> None:
        match action:
            case Wait(seconds):
                self.clock[0] += seconds
            case Tidy():
                await self.service.tidy()
            case Repeat(which) if self.sent:
                await self._send(self.sent[which % len(self.sent)])
            case Sign(owner, kind, step, lifetime, late):
                sequence = self.highest + step
                self.highest = max(self.highest, sequence)
                address = NodeAddress(owner.public_key).encode() if kind is RecordKind.CLAIM else b""
                issued = self.clock[0] - late
                record = NameRecord(kind, "alice", owner.public_key, sequence, issued, lifetime, address)
                await self._send(seal(record, owner))
        found = await self.service.lookup("alice", "here")
        expected = self.holder is not None and self.holder.expires > self.clock[0]
        assert isinstance(found, bytes) == expected
        assert not isinstance(found, bytes) or open_record(found) == self.holder

    async def _send(self, data: bytes) -> None:
        self.sent.append(data)
        record, outcome = open_record(data), await self.service.write("alice", data, "here")
        if outcome not in (Step.CREATE, Step.UPDATE, Step.RELEASE):
            return
        assert data not in self.effective, "the same record took effect twice"
        self.effective.add(data)
        if self.holder is not None and self.holder.expires > self.clock[0]:
            assert record.public_key == self.holder.public_key, "a name was taken from its holder"
            assert record.sequence > self.holder.sequence
        self.holder = record if record.kind is RecordKind.CLAIM else None


@few
@given(st.lists(ACTIONS, min_size=4, max_size=25))
def test_every_history(actions: list[Sign | Repeat | Wait | Tidy]) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with open_sqlite(Path(folder) / "names.sqlite") as store:
                clock = [START]
                service = NameService(store, UNLIMITED, clock=lambda: clock[0], timer=lambda: clock[0])
                history = History(service, clock)
                for action in actions:
                    await history.do(action)

    asyncio.run(play())
