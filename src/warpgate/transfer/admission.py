"""Who is let in to a receiver, and who has to make room.

Anybody who may connect can hold a pipe open and say that it is alive. So there are bounds, in all and for each peer,
and at a bound whoever has come to a stop makes room for who comes: a visitor that owes us something and has said
nothing of substance for `STALLED_AFTER` seconds (`LEAST_PROGRESS`; signs of life are none). A slow one that moves is
never sent away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from warpgate.errors import TransferRefused
from warpgate.proto.transfer_talk import Incoming
from warpgate.proto.transfer_wire import MAX_LIST, Offer, Reason
from warpgate.transfer.channel import Channel

# Pipes; before an offer each holds less than 2 MB.
VISITORS = 64
VISITORS_OF_ONE = 8
# Transfers; each holds its list, and a block of data.
TRANSFERS_AT_ONCE = 8
TRANSFERS_OF_ONE = 4
# Bytes of lists, in all and beyond what each transfer may have in any case (2,000 names): one of the longest fits.
LIST_OF_ANYBODY = 256 * 1024
LISTS_AT_ONCE = MAX_LIST - LIST_OF_ANYBODY
STALLED_AFTER = 20.0
# What a sender needs to read and hash what the receiver has already: bytes a second of a slow disk.
COMPARING_PACE = 20e6
# Seconds after which a sender that owes us data makes room for another run of it: a live one is silent for round trips,
# and the end of one that was killed is known only when consent is lost (30 s).
STALE_AFTER = 3.0
# Our own work between two messages, in seconds, for which a sender is excused.
OUR_PAUSE = 0.5


class Visitor:
    """One pipe, from its arrival until it is closed."""

    def __init__(self, channel: Channel, incoming: Incoming) -> None:
        self.channel = channel
        self.incoming = incoming
        self.offer: Offer | None = None  # once it has a transfer's place
        self.over = asyncio.Event()  # it has left that place
        self.leaving = False  # it has been told the last word
        self.away = False  # its pipe has been reset: it counts no more, and will be over soon
        self._owing_since: float | None = asyncio.get_running_loop().time()  # None while it waits for us
        self._answered_at = 0.0

    @property
    def peer(self) -> str:
        return self.channel.peer

    def send_away(self) -> None:
        self.away = True
        self.channel.drop()

    def owes(self) -> None:
        """It is its turn now."""
        now = asyncio.get_running_loop().time()
        if now - self._answered_at > OUR_PAUSE:
            self.channel.moved()
        self._owing_since = now

    def waits(self) -> None:
        """It has said something, and it is our turn."""
        self._owing_since = None
        self._answered_at = asyncio.get_running_loop().time()

    def silent_for(self) -> float:
        """Seconds that it has kept us waiting for anything at all."""
        return 0.0 if self._owing_since is None else asyncio.get_running_loop().time() - self._owing_since

    def stalled_for(self) -> float:
        """Seconds beyond those that it may take, 0.0 for one that moves."""
        if self.leaving:
            return float("inf")
        if self._owing_since is None:
            return 0.0
        since = asyncio.get_running_loop().time() - self.channel.moved_at
        comparing = self.incoming.part_to_be_compared / COMPARING_PACE
        return max(0.0, since - STALLED_AFTER - comparing)


class Admission:
    """The visitors of one receiver."""

    def __init__(self) -> None:
        self._visitors: list[Visitor] = []

    def enter(self, visitor: Visitor) -> None:
        """TransferRefused when the house is full of others that move."""
        if len(mine := self._present(visitor.peer)) >= VISITORS_OF_ONE:
            self._make_room(mine, f"{VISITORS_OF_ONE} connections of yours are open")
        elif len(everybody := self._present()) >= VISITORS:
            self._make_room(everybody, f"{VISITORS} connections are open here")
        self._visitors.append(visitor)

    def leave(self, visitor: Visitor) -> None:
        """Its pipe and its files are closed, or it never came in."""
        if visitor in self._visitors:
            self._visitors.remove(visitor)
        visitor.over.set()

    async def begin(self, visitor: Visitor, offer: Offer) -> None:
        """Give it a transfer's place. TransferRefused when there is none.

        A sender that tries again takes the place of its earlier connection, of whose end we may not know yet.
        """
        while (earlier := self._holder(visitor.peer, offer.name)) is not None:
            assert earlier.offer is not None
            if earlier.offer.transfer != offer.transfer and earlier.silent_for() < STALE_AFTER:
                raise TransferRefused("it is coming in over another connection already", Reason.BUSY)
            earlier.send_away()
            await earlier.over.wait()
        while len(mine := _transfers(self._present(visitor.peer))) >= TRANSFERS_OF_ONE:
            await self._make_room(mine, f"{TRANSFERS_OF_ONE} transfers of yours are going on").over.wait()
        while len(active := _transfers(self._present())) >= TRANSFERS_AT_ONCE:
            await self._make_room(active, f"{TRANSFERS_AT_ONCE} transfers are going on here").over.wait()
        visitor.offer = offer

    async def hold_list(self, visitor: Visitor) -> None:
        """Its list has grown. TransferRefused when the long ones of others that move leave no room for it."""
        while _excess(visitor) and (
            others := [other for other in _transfers(self._present()) if other is not visitor and _excess(other)]
        ):
            if sum(map(_excess, others)) + _excess(visitor) <= LISTS_AT_ONCE:
                return
            await self._make_room(others, "long lists of files are coming in here").over.wait()

    def _present(self, peer: str | None = None) -> list[Visitor]:
        return [visitor for visitor in self._visitors if not visitor.away and peer in (None, visitor.peer)]

    def _holder(self, peer: str, name: str) -> Visitor | None:
        """Who has that place, or has not left it yet."""
        for visitor in self._visitors:
            if visitor.peer == peer and visitor.offer is not None and visitor.offer.name == name:
                return visitor
        return None

    def _make_room(self, candidates: Collection[Visitor], why: str) -> Visitor:
        """Send the one away that has been stalled the longest. TransferRefused when all move."""
        longest = max(candidates, key=Visitor.stalled_for)
        if not longest.stalled_for():
            raise TransferRefused(why, Reason.BUSY)
        longest.send_away()
        return longest


def _excess(visitor: Visitor) -> int:
    return max(0, visitor.incoming.list_cost - LIST_OF_ANYBODY)


def _transfers(visitors: Iterable[Visitor]) -> list[Visitor]:
    return [visitor for visitor in visitors if visitor.offer is not None]
