"""The initiating side: run every suitable strategy at once, nominate the first proved link, hand out its pipe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, TypeVar

from warpgate.core.connection.errand import A_PIPE, Errand
from warpgate.core.connection.quic_library import is_loaded
from warpgate.core.search.attempt import PluginAttempt
from warpgate.core.search.equipment import Equipment
from warpgate.core.search.links import TcpLink, UdpLink
from warpgate.core.search.quic_link import QuicLink
from warpgate.core.search.report import AT_WORK, Reporter
from warpgate.core.search.session import Session
from warpgate.core.search.sessions import Sessions
from warpgate.errors import (
    AttemptFailed,
    ConfigError,
    ConnectFailed,
    NetworkError,
    ProtocolError,
    WarpgateError,
)
from warpgate.events import (
    Event,
    PeerSilent,
    PluginEnded,
    PluginReport,
    PluginSkipped,
    PluginStarted,
)
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Mode, Transport
from warpgate.model.wanted import Wanted
from warpgate.net.race import Race, RaceLost
from warpgate.plan.cascade import Plan, Step, Verdict, make_plan
from warpgate.plan.patience import attempt_patience, patience_of
from warpgate.plan.relay import Hope, Outlook, direct_hope
from warpgate.plan.silence import GIVEN_UP, TOLD, silence_due, silence_words
from warpgate.plugins.base import Plugin
from warpgate.proto.check import CheckEvent

NEVER_WAIT = 0.0
LOOK_AGAIN = 0.5  # s, whether a broker has let us in
# Of `relay_patience`, where nobody outside has seen anything of one side.
FAINT_SHARE = 0.5
# A direct link, by a predicted port if need be, is there after the time of so many signals, over TCP with its
# handshakes of so many: a relay waits for it where signals are slow.
DIRECT_SIGNALS = 4
DIRECT_SIGNALS_TCP = 6

Links = TcpLink | UdpLink | QuicLink
Made = TypeVar("Made")


class Initiator(Generic[Made]):
    """One search: a call of `Node.connect`, or one for a path of a connection."""

    def __init__(
        self,
        equipment: Equipment,
        sessions: Sessions,
        make: Callable[[Session, Links, tuple[PluginReport, ...]], Made],
        remote: NodeAddress,
        mode: Mode,
        transport: Transport | None,
        plugins: Sequence[str] | None,
        secure: bool,
        service: str,
        before: tuple[PluginReport, ...] = (),
        errand: Errand = A_PIPE,
    ) -> None:
        """`make` makes of the nominated link what is looked for; NetworkError when it broke in this moment. `before`:
        rows of the report that are there already. `errand`: of a search for a path.

        ConfigError for an unknown plugin, or a mode that excludes the transport or `secure`.
        """
        if secure and mode is Mode.DATAGRAM:
            raise ConfigError(
                "a datagram pipe cannot be encrypted: ask for a stream, or encrypt the datagrams yourself"
            )
        self._equipment = equipment
        self._context = context = equipment.context
        self._sessions = sessions
        self._make = make
        self._plugins = context.registry.select(plugins)
        session_id = context.random_bytes(16)
        self._session = Session(
            equipment,
            self,
            session_id,
            remote.public_key,
            context.identity.session_key(remote.public_key, session_id, initiator=True),
            initiator=True,
            mode=mode,
            remote=remote,
            secure=secure,
            wanted=Wanted(remote.instance, service),
            errand=errand,
        )
        verdicts = [_verdict(plugin, context.address, remote) for plugin in self._plugins]
        self._plan: Plan = make_plan(verdicts, mode, transport, can_signal=bool(self._session.brokers))
        over_udp = any(Transport.UDP in step.transports for step in self._plan.steps)
        if mode is Mode.STREAM and over_udp and is_loaded():
            self._session.begin_quic()
        self._needing_signals = {plugin.name for plugin in self._plugins if plugin.needs_signal}
        self._report = Reporter(self._session.id, context.now(), before)
        self._race: Race[Links] = Race(lambda link: link.abort(), self._patience)
        self._deadline: asyncio.Timeout | None = None
        self._granted = 0.0  # seconds until then
        self._stretches = False
        self._stopped: str | None = None
        self.refusal: str | None = None  # the peer's word
        self._strategy_ended = asyncio.Event()
        self.over: asyncio.Future[None] = context.new_future()  # done when nothing of the attempt goes on any more

    @property
    def remote(self) -> NodeAddress:
        """Where the peer is, by its last word."""
        return self._session.remote

    @property
    def silent(self) -> bool:
        """Whether offers left in time and the peer gave no sign of life."""
        session = self._session
        if session.answered or session.first_offer_at is None:
            return False
        return self._context.now() - session.first_offer_at >= silence_due(TOLD, session.signal_delay)

    @property
    def report(self) -> tuple[PluginReport, ...]:
        return self._report.rows

    async def run(self, timeout: float | None) -> Made:
        """What was looked for, or ConnectFailed with the report. `timeout` in seconds; None: `attempt_timeout`, and for
        our user more than that with a peer that answers slowly.
        """
        session = self._session
        self._stretches = timeout is None and session.invited
        self._granted = self._context.config.timing.attempt_timeout if timeout is None else timeout
        self._sessions.add(session)
        self._context.observers.append(self._observe)
        watching = asyncio.ensure_future(self._watch_for_silence())
        try:
            session.say_placed()
            async with asyncio.timeout(self._granted) as self._deadline:
                link = await self._run_plan()
                return await self._nominate(link)
        except TimeoutError:
            why = self._stopped or f"no strategy reached {session.peer} within {self._granted:g} s{self._unanswered()}"
            raise self._failed(why) from None
        except RaceLost:
            raise self._failed(f"no strategy reached {session.peer}") from None
        except (NetworkError, ProtocolError) as error:
            raise self._failed(f"the chosen link to {session.peer} broke: {error}") from error
        finally:
            watching.cancel()
            self._deadline = None
            self._context.observers.remove(self._observe)
            session.close()
            self.over.set_result(None)

    def stop(self, reason: str) -> None:
        """Give up: `run` raises ConnectFailed with this reason, unless it is about to end anyway."""
        if self._deadline is not None and not self._deadline.expired():
            self._stopped = reason
            self._deadline.reschedule(self._context.now())

    def _observe(self, event: Event) -> None:
        self._report.observe(event, self._context.now())

    # -- what the session tells ----------------------------------------------------------------------------------

    def check_event(self, event: CheckEvent) -> None:
        """Verified pairs reach the strategies through the session."""

    def refused(self, reason: str) -> None:
        self.refusal = reason
        self.stop(f"refused: {reason}, says node {self._session.peer}")

    def keep_link(self, link: TcpLink) -> bool:
        return False  # we nominate one ourselves

    def tcp_may_come(self) -> bool:
        if not any(Transport.TCP in step.transports for step in self._direct_steps()):
            return False
        return self._outlook(frozenset({Transport.TCP})).hope is not Hope.NONE

    def knowledge_changed(self) -> None:
        """A relayed link that waits may have nothing to wait for any more: look when this has taken effect."""
        asyncio.get_running_loop().call_soon(self._race.reconsider)
        if self._stretches and self._session.answered:
            self._stretch()

    def _stretch(self) -> None:
        """To what is known now of the speed of signals; never back. Not to that of packets: the peer's half, which may
        not know of it, is over after 25 s, and a link that it has left is none.
        """
        usual, deadline = self._context.config.timing.attempt_timeout, self._deadline
        more = attempt_patience(usual, self._session.signal_delay) - self._granted
        if more <= 0 or self._stopped is not None or deadline is None or deadline.expired():
            return
        if (until := deadline.when()) is not None:
            self._granted += more
            deadline.reschedule(until + more)

    # -- a peer that does not answer -----------------------------------------------------------------------------

    async def _watch_for_silence(self) -> None:
        """Name a peer that gives no sign of life, and give up where nothing can come without one."""
        session = self._session
        if not await self._silent(TOLD):
            return
        reason = self._silence()
        session.note("signals", reason)
        self._context.emit(PeerSilent(session.id.hex(), session.peer, reason))
        if not await self._silent(GIVEN_UP):
            return
        while self._may_do_without_signals():
            self._strategy_ended.clear()
            await self._strategy_ended.wait()
        if session.running and not session.answered:
            self.stop(self._silence())

    async def _silent(self, after: float) -> bool:
        """Wait until silence has lasted so long since our first offer left, or a word of the peer's in another session;
        whether it has.
        """
        session, context = self._session, self._context
        while not session.answered:
            began = session.first_offer_at
            if began is None:  # a broker that the peer names alone is connected to first
                began = session.started + context.config.timing.broker_timeout - TOLD
            # Of many sessions the peer answers one after the other, too.
            began = max(began, session.pace.heard_at)
            left = began + silence_due(after, session.signal_delay) - context.now()
            if session.first_offer_at is None and self._equipment.channel.opening(
                tuple(ref.url for ref in session.brokers)
            ):
                left = max(left, LOOK_AGAIN)  # it is only slow: its answers to CONNECT and SUBSCRIBE are on their way
            if left <= 0:
                return bool(self._needing_signals & set(session.running))
            await asyncio.sleep(min(left, TOLD))  # the first offer may leave meanwhile
        return False

    def _may_do_without_signals(self) -> bool:
        return bool(set(self._session.running) - self._needing_signals)

    def _silence(self) -> str:
        session = self._session
        return silence_words(session.peer, session.offers, [broker.url for broker in session.brokers])

    def _unanswered(self) -> str:
        session = self._session
        said = session.offers and not session.answered
        return f", and it has answered none of {session.offers} offers so far" if said else ""

    def _failed(self, message: str) -> ConnectFailed:
        """The reason first, then what failed, then what was not even tried, and last who was still at work."""
        setbacks = self._session.setbacks
        rows = tuple(
            replace(row, outcome="timed out", reason="; ".join([*setbacks.get(row.plugin, ()), AT_WORK]))
            if row.outcome in ("lost", "timed out")
            else row
            for row in self._report.rows
        )
        if self.refusal is not None:  # whatever the strategies were about to do: it is not why
            return ConnectFailed(message, rows)
        ranked = sorted((row for row in rows if row.reason), key=lambda row: row.outcome == "skipped")
        told = [f"{row.plugin}: {row.reason}" for row in ranked if row.reason != AT_WORK]
        if at_work := [row.plugin for row in ranked if row.reason == AT_WORK]:
            told.append(f"{', '.join(at_work)}: {AT_WORK}")
        text = f"{message} ({'; '.join(told)})" if told else message
        return ConnectFailed(text, rows, relay_needed=self._relay_needed())

    def _relay_needed(self) -> bool:
        """A peer that answers, and yet nothing gets through: a relay would have, and there is none."""
        session = self._session
        relaying = {plugin.name for plugin in self._plugins if plugin.relays}
        tried = any(step.plugin in relaying for step in self._plan.steps)
        missing = not self._equipment.relays.configured and not session.relays.offered
        return tried and missing and session.answered and self._stopped is None

    async def _run_plan(self) -> Links:
        session = self._session.id.hex()
        for skipped in self._plan.skipped:
            self._context.emit(PluginSkipped(session, skipped.plugin, skipped.reason))
        by_name = {plugin.name: plugin for plugin in self._plugins}
        self._session.running = [step.plugin for step in self._plan.steps]
        runners = {
            step.plugin: partial(self._initiate, by_name[step.plugin], step.transports) for step in self._plan.steps
        }
        name, link = await self._race.run(runners)
        self._context.emit(PluginEnded(session, name, self._context.now(), "won", f"{link.local} -> {link.remote}"))
        return link

    def _patience(self, link: Links) -> float:
        """How long a relayed link waits for a direct one: until `relay_patience` after the attempt's start, half of
        that where the hope is faint, not at all where there is none; until `search_patience` while a port is searched
        for.
        """
        if not link.relayed or self._session.mode is Mode.PATH:
            return NEVER_WAIT
        context, session = self._context, self._session
        carriers = frozenset(transport for step in self._direct_steps() for transport in step.transports)
        outlook = self._outlook(carriers)
        if outlook.hope is Hope.NONE:
            session.note(link.plugin, f"no direct link to wait for: {outlook.reason}")
            return NEVER_WAIT
        timing = context.config.timing
        patience = timing.relay_patience
        if patience:  # or else it was asked for not to wait at all
            signals = DIRECT_SIGNALS if Transport.UDP in carriers else DIRECT_SIGNALS_TCP
            # A link that works is not kept waiting by a server far away.
            patience = patience_of(patience, signals, session.signal_delay)
        if outlook.hope is not Hope.FAIR:
            patience *= FAINT_SHARE
        elif patience and self._searching():
            patience = max(patience, timing.search_patience)
        return max(NEVER_WAIT, session.started + patience - context.now())

    def _searching(self) -> bool:
        """Whether a port is searched for, or may be. Without UDP the strategy only waits to be told what cannot be."""
        running = [plugin for plugin in self._plugins if plugin.searches and plugin.name in self._session.running]
        return any(self._outlook(plugin.transports).hope is Hope.FAIR for plugin in running)

    def _direct_steps(self) -> list[Step]:
        """Those still at work; a relay carries a stream over UDP wherever either will do."""
        relays = {plugin.name for plugin in self._plugins if plugin.relays}
        running = self._session.running
        return [step for step in self._plan.steps if step.plugin in running and step.plugin not in relays]

    def _outlook(self, carriers: frozenset[Transport]) -> Outlook:
        return direct_hope(self._context.address, self._session.remote, carriers, self._context.around)

    async def _initiate(self, plugin: type[Plugin], transports: frozenset[Transport]) -> Links:
        session, context = self._session, self._context
        say = partial(PluginEnded, session.id.hex(), plugin.name)
        context.emit(PluginStarted(session.id.hex(), plugin.name, context.now()))
        attempt = PluginAttempt(session, self._sessions, plugin, transports)
        try:
            return await attempt.run(plugin().initiate)
        except asyncio.CancelledError:
            unequipped = plugin.relays and not self._equipment.relays.configured
            reason = "no TURN server is configured here" if unequipped else "another strategy was faster"
            outcome = ("lost", reason) if self._race.won else ("timed out", AT_WORK)
            context.emit(say(context.now(), *outcome))
            raise
        except WarpgateError as error:
            context.emit(say(context.now(), "failed", str(error)))
            raise
        except Exception as error:
            context.emit(say(context.now(), "crashed", f"{type(error).__name__}: {error}"))
            raise AttemptFailed(f"{plugin.name} crashed: {error}") from error
        finally:
            if plugin.name in session.running:
                session.running.remove(plugin.name)
            self._strategy_ended.set()
            self.knowledge_changed()

    async def _nominate(self, link: Links) -> Made:
        try:
            if isinstance(link, TcpLink):
                await link.nominate()
                if link.secure:
                    await link.start_tls(self._session.tls_ends, self._session.hello_patience)
            else:
                link.nominate()
                self._session.found.remember(link if isinstance(link, UdpLink) else link.udp)
        except BaseException:
            link.abort()
            raise
        return self._make(self._session, link, self._report.rows)


def _verdict(plugin: type[Plugin], local: NodeAddress, remote: NodeAddress) -> Verdict:
    try:
        reason = plugin.unsuitable(local, remote)
    except Exception as error:  # noqa: BLE001 - somebody else's code may raise anything; the others go on
        reason = f"crashed: {type(error).__name__}: {error}"
    return Verdict(plugin.name, plugin.transports, plugin.needs_signal, reason)
