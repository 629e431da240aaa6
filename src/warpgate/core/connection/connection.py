"""What two nodes share durably: one QUIC connection between their two keys, over paths that come and go.

QUIC keeps the order and repeats what is lost; it does not know the paths. Here it is chosen by which of them its
datagrams leave, noticed when that one is dead, and asked for another. Rules, which the code below relies on:

* Each end chooses for itself, by `plan.paths`, and the end that began the connection leads: the other one follows it
  to the path that it uses. So both use the same one, or each one that works.
* A path is under suspicion when something that the user waits for was not answered for some probe timeouts (a QUIC
  PING goes out with the data and is acknowledged with it). Then datagrams go by the two best at once, which QUIC does
  not mind, and a search begins. Whichever path delivers first is used from then on.
* Without a path nothing is sent and no timer of QUIC's runs: it would only learn to be patient. But what each end says
  first leaves before there is one: the client's with the first offer and checks, the server's with its first checks. So
  the connection is open at the client when its first path is. It is said again on a path that the answer has not come
  by, and the server repeats itself to a client that does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from warpgate.core.connection.channel import Channel
from warpgate.core.connection.errand import Errand, Seeker
from warpgate.core.connection.first_words import FirstWords, Greet
from warpgate.core.connection.outage import Outage
from warpgate.core.connection.own_address import OwnAddress
from warpgate.core.connection.paths import Origin, Path
from warpgate.core.connection.question import Question
from warpgate.core.connection.quic_channels import QuicChannels
from warpgate.core.connection.quic_driver import QuicDriver
from warpgate.core.connection.quic_engine import CLOSED, State
from warpgate.core.context import Context
from warpgate.errors import DecodeError, PipeClosed
from warpgate.events import PathChosen, PathLost, PathOpened
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import IPAddress
from warpgate.model.identity import node_id_of
from warpgate.plan.ages import Ages
from warpgate.plan.collision import HEAD_START
from warpgate.plan.paths import UNKNOWN_ROUND_TRIP, ask_after, best, knock_after, suspicion
from warpgate.plan.patience import patience_of

# A peer has a few: more than these at once are of no use to it.
PATHS = 8
# Late datagrams come by the path before for so long; then it is closed.
RETIREMENT = 3.0
# When the leading end is heard by another path, and for so long not by ours, it has moved.
FOLLOW = 0.1
# So many pauses between questions without an answer are enough where there is another reason for doubt.
HASTE = 3
# Until a client has proved its key: one, and what is lost once more.
HANDSHAKE_ROUND_TRIPS = 2
# Until a client's first word that has not been answered is said again, and doubled each time.
FIRST_PAUSE = 0.2


class Connection(QuicDriver):
    """`remote` is where the peer was last known to be. Ended: `end` says why, and `on_end` was told."""

    def __init__(
        self,
        context: Context,
        engine: QuicChannels,
        remote: NodeAddress,
        first_ids: tuple[bytes, ...],
        on_end: Callable[[Connection], None],
    ) -> None:
        """`first_ids`: further ids under which the peer's first packets may come."""
        super().__init__(engine)
        self.engine = engine
        self.remote = remote
        self.ids = (engine.id, *first_ids)
        self.seeker: Seeker | None = None
        self.began = context.now()
        self._proved_at = math.inf
        self.end: str | None = None
        self.invited = engine.is_client  # our user asked for this peer; else it came
        self.leaving = False  # the address that its path is on will be gone; another one is there
        self.superseded = False  # at the server: its client has gone on with another one, as it seems
        self.opened_channels = 0  # by this end, so far
        self.full = False  # the peer takes no more pipes on it
        self.moves = 0  # how often another path was chosen
        self.current: Origin | None = None  # the chosen path, or the last one that was
        self.first_words = FirstWords()
        self._context = context
        self._on_end = on_end
        self._paths: list[Path] = []
        # Of the datagrams that have arrived in this turn, in order, how many by which.
        self._came_by: list[tuple[Path, int]] = []
        self._closing: list[Path] = []
        self._count = 0
        self._chosen: Path | None = None
        self._last: Path | None = None  # the chosen one, or the last one that was
        self._ages = Ages()
        self._suspected = False
        self._hasty = False  # there is reason for doubt: an answer is not waited for as long as otherwise
        self._question = Question()
        self._answered_at = context.now()
        self._looking: asyncio.TimerHandle | None = None  # for an answer that should have come
        self._outage = Outage(context, engine.session.hex(), self.peer)
        self._own_address = OwnAddress(context)
        self._farewell: list[bytes] = []  # said before it is closed, and once more with that
        engine.on_news = self._take_news

    # -- what is to be known -------------------------------------------------------------------------------------

    @property
    def id(self) -> bytes:
        """16 bytes, the same on both sides."""
        return self.engine.session

    @property
    def peer_key(self) -> bytes:
        return self.remote.public_key

    @property
    def peer(self) -> str:
        """The other side's node id."""
        return node_id_of(self.remote.public_key)

    @property
    def paths(self) -> tuple[Origin, ...]:
        """Those that are there now, the chosen one first."""
        others = [path for path in self._paths if path is not self._chosen]
        return tuple(path.origin for path in ([] if self._chosen is None else [self._chosen]) + others)

    @property
    def relayed(self) -> bool:
        """Whether the only way known is over a relay."""
        return self._chosen is None or self._chosen.origin.relayed

    @property
    def works(self) -> bool:
        """Whether there is a path that is not under suspicion."""
        return self._chosen is not None and not self._suspected

    @property
    def by_peer(self) -> bool:
        return not self.engine.is_client

    @property
    def opening(self) -> bool:
        return self.engine.state is State.OPENING and self.end is None and not self.superseded

    @property
    def usable(self) -> bool:
        return self.engine.state is State.OPEN and self.works and self.end is None

    @property
    def silent(self) -> bool:
        return self.engine.state is State.OPEN and not self.works and self.end is None

    @property
    def used(self) -> bool:
        """Whether either end has opened a pipe."""
        return self.opened_channels > 0 or self.engine.pipes_seen > 0

    @property
    def settled_at(self) -> float:
        """Until when another connection that both have begun is waited for."""
        return self._proved_at + patience_of(HEAD_START, HANDSHAKE_ROUND_TRIPS, self.round_trip)

    @property
    def silence(self) -> float:
        """For how long the peer has not answered although something waited for it, seconds."""
        if self._chosen is not None and not self._question.open:
            return 0.0
        return self._context.now() - self._answered_at

    @property
    def errand(self) -> Errand:
        """Of a search that begins now."""
        if self.current is None:
            return Errand(flight=self.first_words.flight, invited=self.invited)
        # The peer must know it by now, or else say that it does not: it takes no longer to prove a client.
        old = self._context.now() - self.began > self._context.config.budgets.hello_patience
        known = self.engine.confirmed or (self.engine.state is State.OPEN and old)
        renews = self.renew_at is not None and self.works
        return Errand(self.id if known else b"", invited=self.invited, renews=renews)

    @property
    def renew_at(self) -> float | None:
        """When the chosen path is to be replaced, at the end that leads: those before it died of their age."""
        if self._chosen is None or not self.engine.is_client:
            return None
        return self._ages.renew_at(self._chosen.life)

    # -- before the first path -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """At the client: what it says first is in `first_words`."""
        self.first_words.say(self.engine.datagrams(self._loop.time()))

    @property
    def ahead(self) -> bool:
        """Whether a client has begun it that has no path yet."""
        return bool(self.first_words.heard) and self.current is None

    def begun(self, session: bytes, first: Sequence[bytes], greet: Greet) -> None:
        """At the server: what the client said first has come, or a part of it, by a search to which `greet` belongs."""
        if news := self.first_words.hear(first):
            self.engine.receive(news, self._loop.time())
            self.soon()
        if self.engine.state is State.OPENING:
            self.first_words.sessions.add(session)
            if self.current is None:
                self.first_words.greet_by(greet)

    def _send_ahead(self) -> None:
        """There is no path: what is said goes with checks."""
        if self.first_words.leaves and self.engine.state is State.OPENING:
            self.first_words.say(self.engine.datagrams(self._loop.time()))

    def _insist(self, pause: float) -> None:
        """The client's part: a server that knows no path yet can do nothing about what it has said and was lost."""
        if self.engine.state is State.OPENING and not self._over:
            for path in self._paths:
                path.send(self.first_words.flight)
            self._looking = self._loop.call_later(2 * pause, self._insist, 2 * pause)

    # -- paths ---------------------------------------------------------------------------------------------------

    def add(self, path: Path) -> None:
        """A path that is nominated and claimed for this connection."""
        self._count += 1
        self.leaving = False
        path.number = self._count
        if self.current is not None:  # it takes the place of one that has died, and may die as soon
            path.longest = path.expected
        path.deliver = self._heard
        path.on_lost = self._lost
        path.on_room = self.soon
        path.route(self.ids)
        self._paths.append(path)
        self._context.emit(PathOpened(self.id.hex(), self.peer, *path.origin.told))
        if len(self._paths) > PATHS:
            self._retire(next(other for other in self._paths if other is not self._chosen))
        if self._chosen is None:
            self._choose(path, "the first path" if self.current is None else "a path was found again")
        elif self._suspected:
            self._choose(path, "the path before had fallen silent")
        elif self._best() is path:
            upgrade = self._chosen.origin.relayed and not path.origin.relayed
            self._choose(path, "direct instead of relayed" if upgrade else "a newer path")
        else:
            self._knock()

    def vanished(self, addresses: frozenset[IPAddress]) -> None:
        """These addresses of ours are no more."""
        for path in [path for path in self._paths if path.origin.local.ip in addresses]:
            path.abandon()
            self._lost(path, f"the network interface with {path.origin.local.ip} went away")

    def doubt(self, own: frozenset[IPAddress], usable: frozenset[IPAddress]) -> None:
        """We are elsewhere, or the world sees us elsewhere; `own` are our addresses now, `usable` those for new paths.

        What leaves from a relay that we reached from before may be dead; of a path from here it shows soon.
        """
        if self._chosen is not None and not self._suspected and self._chosen.origin.local.ip not in own:
            self._suspect()
            self._knock()
        else:
            self.leaving = self._chosen is not None and self._chosen.origin.local.ip in own - usable
            self.question()

    def question(self) -> None:
        """There is reason to believe that our path is dead, and we may have noticed nothing: does it answer?"""
        if self._chosen is None or self._suspected:
            return
        self._hasty = True
        self._look()
        self._knock()
        if self.seeker is not None:
            self.seeker.late()

    def _look_whether_opened(self, path: Path) -> None:
        """The handshake asks by itself, but over a path that may have died since it was proved."""
        if path is self._chosen and self.engine.state is State.OPENING and not self._suspected:
            self._suspect()

    def _suspect(self) -> None:
        self._suspected = True
        self._missed()

    def _missed(self) -> None:
        """No path works from now on."""
        self._outage.begin(self.engine.state is State.OPEN, self.finish)
        if self.seeker is not None:
            self.seeker.lost()

    def _settled(self, gap: float) -> None:
        """A path works, as far as is known; `gap`: for how long the peer had not answered."""
        self._outage.end("" if self.current is None else self.current.plugin, gap)
        if self.seeker is not None:
            self.seeker.settled()

    def _choose(self, path: Path, reason: str) -> None:
        before, last = self.current, self._last
        self._chosen = self._last = path
        if last is not None and (self._suspected or last.lost):
            self._ages.died(last.life, path.life)
        self.first_words.over()
        gap = 0.0 if before is None else self.silence
        self.current = path.origin
        if before is not None:
            self.moves += 1
        path.silent = False
        path.route(self.ids)  # a newer one between the same endpoints may have had them, and be gone
        self._suspected = self._hasty = False
        self._question.drop()
        seconds = self._context.now() - self.began
        self._context.emit(PathChosen(self.id.hex(), self.peer, *path.origin.told, seconds, gap, reason))
        if self.engine.is_client:
            for other in self._paths:
                if other is not path and (other.origin.relayed == path.origin.relayed or other.silent):
                    self._loop.call_later(RETIREMENT, self._retire, other)
        self._knock()
        self._settled(gap)
        if self.engine.state is State.OPENING:
            self._loop.call_later(self._patience, self._look_whether_opened, path)

    def _retire(self, path: Path) -> None:
        """Unless it is the chosen one again."""
        if path in self._paths and path is not self._chosen:
            self._paths.remove(path)
            path.close()

    def _lost(self, path: Path, reason: str) -> None:
        if self._arrived:
            self._advance()  # the peer may have said the end of it all before it closed the path
        if self.end is not None or path not in self._paths:
            return
        self._paths.remove(path)
        self._context.emit(PathLost(self.id.hex(), self.peer, path.origin.plugin, str(path.origin.remote), reason))
        if path is self._chosen:
            self._chosen = None
            if (other := self._best()) is not None:
                self._choose(other, f"the path before is gone: {reason}")
            else:
                if not self._question.open:
                    self._answered_at = self._context.now()
                self._missed()
        self.soon()

    def _best(self, *but: Path) -> Path | None:
        candidates = {path.number: path for path in self._paths if path not in but}
        winner = best([path.state for path in candidates.values()])
        return None if winner is None else candidates[winner.number]

    # -- datagrams -----------------------------------------------------------------------------------------------

    def _heard(self, path: Path, datagrams: list[bytes]) -> bool:
        heard = self.first_words.heard
        if heard and heard[0] in datagrams and self.engine.state is State.OPENING:
            path.send(self.first_words.flight)
        before = self._came_by.pop()[1] if self._came_by and self._came_by[-1][0] is path else 0
        self._came_by.append((path, before + len(datagrams)))
        self.deliver(datagrams)
        return True

    def _take_arrived(self, datagrams: list[bytes]) -> None:
        came_by, self._came_by = self._came_by, []
        at = 0
        for path, size in came_by:
            if self.engine.receive(datagrams[at : at + size], self._loop.time()):
                self._spoke(path)
            at += size
        if not datagrams:
            super()._take_arrived(datagrams)
        if self.engine.state is State.OPEN and self._proved_at == math.inf:
            self._proved_at = self._answered_at = self._loop.time()  # a handshake is an answer, too

    def _spoke(self, path: Path) -> None:
        """The peer, by this path, now. Whoever sees its datagrams can repeat them, and forge some with our id."""
        now = self._loop.time()
        path.heard = now
        chosen = self._chosen
        if chosen is not None and path is not chosen and path in self._paths:
            late = chosen.heard < now - max(FOLLOW, chosen.round_trip or 0.0)
            if self._suspected and late:
                chosen.silent = True
                self._choose(path, "the path before had fallen silent")
            elif late and not self.engine.is_client:
                self._choose(path, "the peer uses it")

    def _knock(self) -> None:
        """Something must leave now: QUIC waits the longer, the longer it was without an answer."""
        if self.engine.state is State.OPEN:
            self._answer_wanted()
        self.engine.handle_timeout(self._loop.time())
        self.soon()

    def _answer_wanted(self) -> None:
        if not self._question.open:  # what is written until its answer comes asks again then
            self.engine.wrote = False
            self._ask()
            self._look_after(self._pause)

    def _ask(self) -> None:
        self._question.ask(self.engine.ping(), self._loop.time())

    @property
    def _patience(self) -> float:
        if self._hasty:
            return HASTE * ask_after(self.round_trip, self.round_trip, 1)
        return suspicion(self.round_trip)

    @property
    def round_trip(self) -> float:
        return UNKNOWN_ROUND_TRIP if self._chosen is None else self._chosen.known_round_trip

    @property
    def _pause(self) -> float:
        """Until an answer that has not come is asked for again."""
        return self._chosen.ask_after(self._question.times) if self._chosen is not None else 0.0

    def _look_after(self, seconds: float) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._looking = self._loop.call_later(seconds, self._look)

    def _send(self) -> None:
        now = self._loop.time()
        self._take_answer(now)
        if self.engine.state is State.ENDED:
            self._finish(str(self.engine.failure))
        if self._chosen is None:
            self._send_ahead()
            return
        if self.engine.wrote and self.engine.state is State.OPEN:
            self._answer_wanted()
        ways = self._ways()
        if all(path.full for path in ways):
            return  # `on_room` leads back here
        if not (datagrams := self.engine.datagrams(now)):
            return
        for path in ways:
            path.say(datagrams)
        for path in self._paths:  # the peer, too, must know whose it is
            if path.greetings and path not in ways:
                greetings = datagrams[: path.greetings]
                path.greetings -= len(greetings)
                path.send(greetings)

    def _ways(self) -> list[Path]:
        assert self._chosen is not None
        if self.engine.state is State.OPENING:
            for path in self._paths:
                if self.engine.is_client and not path.begun:
                    path.begun = True
                    path.send(self.first_words.flight)
                    if self._looking is None:
                        self._looking = self._loop.call_later(FIRST_PAUSE, self._insist, FIRST_PAUSE)
            return list(self._paths)
        ways = [self._chosen]
        if self._suspected and (other := self._best(self._chosen)) is not None:
            ways.append(other)
        return ways

    def _take_answer(self, now: float) -> None:
        question, answered = self._question, self.engine.answered
        if not question.is_answered(answered):
            return
        gap = self.silence
        question.drop()
        self._hasty = False
        self._answered_at = now
        if (path := self._chosen) is not None:
            path.answered(confirmed=self.engine.confirmed)
            if not self._suspected:
                path.took(now - question.asked_at)
            elif path.heard >= question.asked_at:
                # Perhaps it was only slower than was to be expected, which then has to be known.
                sent = question.sent_at(answered)
                path.took(path.known_round_trip if sent is None else now - sent)
                self._suspected = False
                self._settled(gap)
        if self.engine.wrote or self.engine.waits_for_answer(now):
            self._answer_wanted()

    def _look(self) -> None:
        """An answer should have come by now."""
        if not self._question.open or self._over or self._chosen is None:
            return
        waiting = self._loop.time() - self._question.asked_at
        if waiting >= self._patience and not self._suspected:
            self._suspect()
        elif waiting >= self._patience / 2 and self.seeker is not None:
            self.seeker.late()
        self._chosen.say_again()
        self._ask()
        self.soon()
        self._look_after(max(knock_after(waiting), self._pause) if self._suspected else self._pause)

    def _set_timer(self) -> None:
        if self._chosen is None:
            self._drop_timer()
            self._deadline = None
        else:
            super()._set_timer()

    # -- addresses -----------------------------------------------------------------------------------------------

    def say_address(self) -> None:
        """Tell the peer where we are, if that has changed; what changes while nothing arrives is said when something
        does.
        """
        if self.engine.state is not State.OPEN or not self.works:
            return
        if (address := self._own_address.news(self.say_address)) is not None:
            self.engine.say_news(address)
            self.soon()

    def _take_news(self, address: bytes) -> None:
        remote = NodeAddress.decode(address)
        if remote.public_key != self.peer_key:
            raise DecodeError("the peer says the address of somebody else")
        self.meet(remote)

    def meet(self, remote: NodeAddress) -> None:
        """The peer's latest word of where it is; one that has said nothing but its key is where it was.

        While it has no broker it is asked for at those that it had: it goes back to them.
        """
        if remote.attachments:
            self.remote = remote if remote.brokers else replace(remote, brokers=self.remote.brokers)

    # -- pipes ---------------------------------------------------------------------------------------------------

    def answers(self, within: float) -> bool:
        """Whether the peer has answered within so many seconds, while it is `usable`; else it is asked."""
        if self._context.now() - self._answered_at <= within:
            return True
        if not self._question.open:
            self._knock()
        return False

    async def open_channel(self, service: str, *, datagrams: bool = False) -> Channel:
        """As soon as the peer takes one more. PipeClosed when the connection is over."""
        while self.end is None:
            if self.engine.may_open:
                self.opened_channels += 1
                channel = self.engine.open(service, datagrams=datagrams)
                self.soon()
                return channel
            await self.changed()
        raise PipeClosed(self.end)

    # -- ending --------------------------------------------------------------------------------------------------

    def say_farewell(self, reason: str) -> None:
        """Before `close`, where nobody will be there to repeat it (RFC 9000 section 10.2.1): the peer is told twice."""
        self.engine.close(CLOSED, reason)
        self._farewell = self.engine.datagrams(self._loop.time())
        for path in self._paths:
            path.send(self._farewell)

    async def closed(self) -> None:
        """After `close`, until its last word has left."""
        for path in self._closing:
            await path.closed()

    def finish(self, reason: str) -> None:
        """It is over, and the peer need not be told, or cannot be."""
        self.engine.close(CLOSED, reason)
        self._finish(reason)

    def _finish(self, reason: str) -> None:
        if self.end is None:
            self.end = reason
            self._loop.call_soon(self.close)
            self._on_end(self)

    def _release(self) -> None:
        if self.end is None:
            self.end = "closed on this side"
            self._on_end(self)
        if self.seeker is not None:
            self.seeker.close()
            self.seeker = None
        self._outage.close()
        self._own_address.close()
        if self._looking is not None:
            self._looking.cancel()
        self._closing, self._paths = self._paths, []
        self._chosen = None
        for path in self._closing:
            path.send(self._farewell)
            path.close()
            path.let_go()
