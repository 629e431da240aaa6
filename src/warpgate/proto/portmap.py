"""One host's side of PCP and NAT-PMP towards one gateway: asks, renews, notices a restart, deletes. Sans I/O.

PCP is tried first. A gateway that knows only NAT-PMP says so (RFC 6886 section 3.5: result 1 in version 0) or
does not answer; after `PMP_PATIENCE` it is therefore asked for its external address in NAT-PMP as well, which
creates nothing, and the first valid answer decides which protocol is spoken from then on.

A mapping is in one of these phases; `due` is when its next packet leaves:

    ASKING     retransmitted by RFC 6887 section 8.1.1 (or RFC 6886 section 3.1)
    HELD       renewed by RFC 6887 section 11.2.1; when the lease runs out: Lost, and ASKING again
    REFUSED    the error has a lifetime; then ASKING again
    LEAVING    the deletion is retransmitted until acknowledged or given up; then GONE, or REFUSED if it was declined
    GONE       nothing is left to do

A response whose epoch shows that the gateway has lost its state makes all held mappings due at once.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import field
from ipaddress import IPv4Address, IPv6Address

from warpgate.errors import DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.backoff import Backoff
from warpgate.model.endpoint import Endpoint
from warpgate.proto.machine import Outputs, Transmit
from warpgate.proto.portmap_events import (
    AllReleased,
    Dialect,
    Granted,
    Lost,
    PortMapEvent,
    Refused,
    Restarted,
    Silent,
    Wish,
)
from warpgate.proto.portmap_wire import (
    PcpMapping,
    PcpRequest,
    PcpResponse,
    PcpResult,
    PmpAddress,
    PmpMapped,
    PmpRefused,
    PmpResult,
    decode_response,
    encode_pmp_address_request,
    encode_pmp_map_request,
    encode_request,
)

# RFC 6887 section 8.1.1: "IRT ... SHOULD be 3 seconds", doubled, "MRT ... SHOULD be 1024 seconds"; each wait
# is randomised by up to 10 % either way.
PCP_FIRST_WAIT = 3.0
PCP_LONGEST_WAIT = 1024.0
# RFC 6886 section 3.1: "the initial delay ... is 250 ms", doubled, nine attempts in all.
PMP_FIRST_WAIT = 0.25
PMP_LONGEST_WAIT = 64.0
# A gateway is one hop away and answers within milliseconds; one that has not knows no PCP, or lost the packet.
PMP_PATIENCE = 0.5
# After that long without any answer nobody listens there: two PCP requests and four NAT-PMP ones are out.
SILENCE = 5.0
# RFC 6887 section 11.2.1: renewals are at 1/2 to 5/8 of the lifetime, then 3/4, 7/8 ..., "no less than four
# seconds" apart.
LEAST_RENEWAL_GAP = 4.0
# So a lease that is shorter cannot be kept, only flicker.
SHORTEST_LEASE = LEAST_RENEWAL_GAP
# A gateway may say with every answer that it has lost everything; each time all that is mapped is asked for again.
RESTART_GAP = 10.0
# RFC 6887 section 7.4: "short lifetime" errors are for 30 s, "long lifetime" ones for 30 minutes; what a
# gateway says beyond that is not believed.
SHORTEST_REFUSAL = 30.0
LONGEST_REFUSAL = 1800.0
# Section 7.4: they pass. One that answers a renewal leaves the mapping as it is, until its lease runs out.
PASSING = (PcpResult.NETWORK_FAILURE, PcpResult.NO_RESOURCES, PcpResult.USER_EX_QUOTA)
PMP_PASSING = (PmpResult.NETWORK_FAILURE, PmpResult.OUT_OF_RESOURCES)
DECLINED = Backoff(SHORTEST_REFUSAL, LONGEST_REFUSAL)
# On leaving nobody waits long: three deletions in 0.5 s reach a gateway one hop away.
LEAVING_WAIT = 0.25
LEAVING_SENDS = 3


class _Phase(enum.Enum):
    ASKING = enum.auto()
    HELD = enum.auto()
    REFUSED = enum.auto()
    LEAVING = enum.auto()
    GONE = enum.auto()


@dataclass(slots=True, eq=False)
class _Entry:
    wish: Wish
    phase: _Phase
    due: float
    wait: float = 0.0
    sends: int = 0
    expires: float = 0.0
    external: Endpoint | None = None
    # When to ask again for what was declined and is being deleted; how often that was.
    again: float | None = None
    declined: int = 0
    # Whether an answer is due: a gateway that goes on answering is heard no more often than it is asked.
    awaiting: bool = False


@dataclass(slots=True)
class _Question:
    """NAT-PMP's question for the external address."""

    due: float | None
    wait: float = PMP_FIRST_WAIT
    awaiting: bool = False
    answer: IPv4Address | None = field(default=None)


class _Epoch:
    """Whether the gateway has kept its mappings, told by the clock that its answers carry: the last epoch heard, in
    seconds, and when. Each check records and returns False when state was lost.
    """

    __slots__ = ("_at", "_epoch")

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._at = 0.0

    def check_pcp(self, epoch: int, now: float) -> bool:
        """RFC 6887 section 8.5: its clock must not go back by more than 1 s, nor deviate by more than 1/16 and 2 s."""
        previous, elapsed = self._record(epoch, now)
        if previous is None:
            return True
        server = epoch - previous
        return server >= -1 and elapsed + 2 >= server - server / 16 and server + 2 >= elapsed - elapsed / 16

    def check_pmp(self, epoch: int, now: float) -> bool:
        """RFC 6886 section 3.6: at least 7/8 of the time must have passed for it, less 2 s."""
        previous, elapsed = self._record(epoch, now)
        return previous is None or epoch >= previous + elapsed * 7 / 8 - 2

    def _record(self, epoch: int, now: float) -> tuple[int | None, float]:
        previous, elapsed = self._epoch, now - self._at
        self._epoch, self._at = epoch, now
        return previous, elapsed


class PortMapClient(Outputs[PortMapEvent, Transmit]):
    """A machine (`proto/machine.py`); it has packets to send from the first `handle_timeout` on."""

    def __init__(
        self,
        base: Endpoint,
        server: Endpoint,
        wishes: Sequence[Wish],
        lease: int,
        spread: float,
        now: float,
        stale: Sequence[Wish] = (),
    ) -> None:
        """`lease` in seconds is what is asked for. `spread` in [0, 1) desynchronises this client from others.

        `stale`: mappings left by an earlier run, to be deleted; no two wishes share transport and port.
        """
        super().__init__()
        self._base = base
        self._server = server
        self._lease = lease
        self._spread = spread
        self._dialect = Dialect.PCP
        self._heard = False
        self._silent_at: float | None = now + SILENCE
        self._question = _Question(now + PMP_PATIENCE if base.ip.version == 4 else None)
        self._epoch = _Epoch()
        self._restart_heard_from = now
        self._leaving = False
        self._entries = [_Entry(wish, _Phase.ASKING, now) for wish in wishes]
        self._entries += [_Entry(wish, _Phase.LEAVING, now) for wish in stale]

    # -- verbs ---------------------------------------------------------------------------------------------------

    def release(self, now: float) -> None:
        """Delete everything that is mapped, or may be; AllReleased follows."""
        self._leaving = True
        undecided = self._silent_at is not None and not self._heard
        self._silent_at = self._question.due = None
        for entry in self._entries:
            entry.again = None
            if undecided and entry.sends:
                # The answer may be on its way: one deletion behind the request, and nobody waits for it.
                self._outbox.append(Transmit(self._pcp(entry, 0), self._base, self._server))
            if entry.phase is not _Phase.GONE:
                # Whoever never answered gets no goodbye: there is nothing to delete.
                entry.phase = _Phase.LEAVING if self._heard else _Phase.GONE
                entry.due, entry.sends = now, 0
        self.handle_timeout(now)
        self._note_departure()

    def renew(self, now: float) -> None:
        """Ask for everything again: the network may have changed."""
        for entry in self._entries:
            if entry.phase in (_Phase.HELD, _Phase.REFUSED):
                entry.due = now
        self.handle_timeout(now)

    def drop(self, wish: Wish, now: float) -> None:
        """Delete this one and ask for it no more."""
        for entry in self._entries:
            if entry.wish == wish and entry.phase is not _Phase.GONE:
                entry.phase, entry.due, entry.sends, entry.again = _Phase.LEAVING, now, 0, None
        self.handle_timeout(now)

    def decline(self, wish: Wish, now: float) -> None:
        """What was granted is of no use: delete it, and ask again later, after ever longer pauses."""
        for entry in self._entries:
            if entry.wish == wish and entry.phase is _Phase.HELD:
                self._decline(entry, now)
        self.handle_timeout(now)

    def receive(self, data: bytes, source: Endpoint, now: float) -> None:
        """A datagram from `source`; what is not an answer of our gateway's is ignored."""
        if source != self._server:
            return
        try:
            response = decode_response(data)
        except DecodeError:
            return
        self._heard, self._silent_at = True, None
        match response:
            case PcpResponse() if self._dialect is Dialect.PCP:
                self._question.due = None
                self._take_pcp(response, now)
            case PmpAddress():
                self._take_pmp_address(response, now)
            case PmpMapped() if self._dialect is Dialect.NAT_PMP:
                self._take_pmp_mapping(response, now)
            case PmpRefused(result=PmpResult.UNSUPPORTED_VERSION) | PmpMapped(result=PmpResult.UNSUPPORTED_VERSION) if (
                self._dialect is Dialect.PCP
            ):
                self._speak_pmp(now)
            case PmpRefused(result=result) if self._dialect is Dialect.NAT_PMP and (
                result != PmpResult.UNSUPPORTED_VERSION  # a late answer to PCP
            ):
                for entry in self._entries:
                    if entry.phase is _Phase.ASKING and entry.awaiting:
                        self._refuse(entry, _name(PmpResult, result), 0, now)
            case _:
                pass

    def handle_timeout(self, now: float) -> None:
        if self._silent_at is not None and self._silent_at <= now:
            self._silent_at = None
            self._events.append(Silent())
        self._ask_address(now)
        for entry in self._entries:
            if entry.phase is _Phase.HELD and entry.expires <= now:
                entry.phase, entry.due, entry.sends, entry.external = _Phase.ASKING, now, 0, None
                self._events.append(Lost(entry.wish))
            if entry.phase is not _Phase.GONE and entry.due <= now:
                self._send(entry, now)
        self._note_departure()

    def poll_timeout(self) -> float | None:
        times = [
            min(entry.due, entry.expires) if entry.phase is _Phase.HELD else entry.due
            for entry in self._entries
            if entry.phase is not _Phase.GONE
        ]
        times += [at for at in (self._silent_at, self._question.due) if at is not None]
        return min(times, default=None)

    # -- sending -------------------------------------------------------------------------------------------------

    def _send(self, entry: _Entry, now: float) -> None:
        if entry.phase is _Phase.LEAVING and entry.sends >= LEAVING_SENDS:
            self._deleted(entry)
            return
        if entry.phase is _Phase.REFUSED:
            entry.phase, entry.sends = _Phase.ASKING, 0
        lifetime = 0 if entry.phase is _Phase.LEAVING else self._lease
        data = self._pcp(entry, lifetime) if self._dialect is Dialect.PCP else _pmp(entry, lifetime)
        if self._dialect is Dialect.NAT_PMP and lifetime:
            # Whoever maps must know where: the address may have changed since the last time.
            self._question.awaiting = True
            self._outbox.append(Transmit(encode_pmp_address_request(), self._base, self._server))
        self._outbox.append(Transmit(data, self._base, self._server))
        entry.due = now + self._next_wait(entry, now)
        entry.sends += 1
        entry.awaiting = True

    def _next_wait(self, entry: _Entry, now: float) -> float:
        if entry.phase is _Phase.LEAVING:
            return LEAVING_WAIT
        if entry.phase is _Phase.HELD:
            return max(LEAST_RENEWAL_GAP, (entry.expires - now) / 2)
        pcp = self._dialect is Dialect.PCP
        first, longest = (PCP_FIRST_WAIT, PCP_LONGEST_WAIT) if pcp else (PMP_FIRST_WAIT, PMP_LONGEST_WAIT)
        entry.wait = min(2 * entry.wait, longest) if entry.sends else first
        return entry.wait * (0.9 + 0.2 * self._spread)

    def _pcp(self, entry: _Entry, lifetime: int) -> bytes:
        wish = entry.wish
        anywhere = IPv4Address(0) if self._base.ip.version == 4 else IPv6Address(0)
        suggested = entry.external or Endpoint(anywhere, wish.external_port)
        if not lifetime:  # RFC 6887 section 15.1: the suggested port and address are zero
            suggested = Endpoint(anywhere, 0)
        mapping = PcpMapping(wish.nonce, wish.transport, wish.internal_port, suggested)
        return encode_request(PcpRequest(self._base.ip, lifetime, mapping))

    def _ask_address(self, now: float) -> None:
        question = self._question
        if question.due is None or question.due > now:
            return
        self._outbox.append(Transmit(encode_pmp_address_request(), self._base, self._server))
        question.awaiting = True
        question.due = now + question.wait
        question.wait = min(2 * question.wait, PMP_LONGEST_WAIT)

    # -- answers -------------------------------------------------------------------------------------------------

    def _take_pcp(self, response: PcpResponse, now: float) -> None:
        mapping = response.mapping
        entry = next((entry for entry in self._entries if _is_about(entry.wish, mapping)), None)
        if entry is None or mapping is None or not entry.awaiting:
            return
        entry.awaiting = entry.phase is _Phase.LEAVING  # where a late answer to an earlier request may come first
        restarted = not self._epoch.check_pcp(response.epoch, now)
        if response.result == PcpResult.SUCCESS:
            self._succeeded(entry, mapping.external, response.lifetime, now)
        elif response.result in PASSING and entry.phase is _Phase.HELD and not restarted:
            self._renew_later(entry, response.lifetime, now)
        else:
            self._refuse(entry, _name(PcpResult, response.result), response.lifetime, now)
        if restarted:
            self._start_over(entry, now)

    def _take_pmp_address(self, response: PmpAddress, now: float) -> None:
        question = self._question
        if not question.awaiting:
            return
        question.due, question.awaiting = None, False
        if self._dialect is Dialect.PCP and response.result == PmpResult.UNSUPPORTED_VERSION:
            for entry in self._entries:  # it knows PCP alone, and what was asked in that is lost
                if entry.phase is _Phase.ASKING:
                    entry.due = now
            self.handle_timeout(now)
            return
        if self._dialect is Dialect.PCP and not any(entry.external for entry in self._entries):
            self._speak_pmp(now)
        if response.result != PmpResult.SUCCESS or response.external is None:
            for entry in self._entries:
                if entry.phase not in (_Phase.LEAVING, _Phase.GONE):
                    # The request to map left beside this question: what it made is of no use, and must not stay.
                    self._events.append(Refused(entry.wish, _name(PmpResult, response.result), self._dialect))
                    self._decline(entry, now)
            self.handle_timeout(now)
        else:
            question.answer = response.external

    def _take_pmp_mapping(self, response: PmpMapped, now: float) -> None:
        key = response.transport, response.internal_port
        entry = next(
            (entry for entry in self._entries if (entry.wish.transport, entry.wish.internal_port) == key),
            None,
        )
        if entry is None or not entry.awaiting:
            return
        entry.awaiting = entry.phase is _Phase.LEAVING  # where a late answer to an earlier request may come first
        restarted = not self._epoch.check_pmp(response.epoch, now)
        address = self._question.answer
        if response.result in PMP_PASSING and entry.phase is _Phase.HELD and not restarted:
            self._renew_later(entry, 0, now)
        elif response.result != PmpResult.SUCCESS:
            self._refuse(entry, _name(PmpResult, response.result), 0, now)
        elif address is None and entry.phase is not _Phase.LEAVING:
            # The mapping is there, but not yet where: asked again with the next repetition of the request.
            return
        else:
            external = Endpoint(address or IPv4Address(0), response.external_port)
            self._succeeded(entry, external, response.lifetime, now)
        if restarted:
            self._start_over(entry, now)

    def _speak_pmp(self, now: float) -> None:
        self._dialect = Dialect.NAT_PMP
        self._question.due, self._question.wait = None, PMP_FIRST_WAIT
        for entry in self._entries:
            if entry.phase is not _Phase.GONE:
                entry.due, entry.sends = now, 0
        self.handle_timeout(now)

    def _succeeded(self, entry: _Entry, external: Endpoint, lifetime: int, now: float) -> None:
        if entry.phase is _Phase.LEAVING:
            # A late answer to an earlier request says that it exists still; only 0 acknowledges the deletion.
            if lifetime == 0:
                self._deleted(entry)
            return
        if entry.phase is _Phase.GONE:
            return
        if not external.port or lifetime < SHORTEST_LEASE:
            what = f"a lease of {lifetime} seconds" if external.port else "port 0"
            self._events.append(Refused(entry.wish, f"the gateway granted {what}", self._dialect))
            self._decline(entry, now)
            self.handle_timeout(now)
            return
        entry.phase, entry.external, entry.sends = _Phase.HELD, external, 0
        # Some grant years; a router that has forgotten the mapping meanwhile is found out when it is asked again.
        lifetime = min(lifetime, self._lease)
        entry.expires = now + lifetime
        entry.due = now + lifetime * (0.5 + 0.125 * self._spread)
        self._events.append(Granted(entry.wish, external, float(lifetime), self._dialect))

    def _refuse(self, entry: _Entry, reason: str, lifetime: int, now: float) -> None:
        if entry.phase in (_Phase.LEAVING, _Phase.GONE):
            # What cannot be deleted is not ours, or not there.
            self._deleted(entry)
            return
        entry.phase, entry.external = _Phase.REFUSED, None
        entry.due = now + min(max(lifetime, SHORTEST_REFUSAL), LONGEST_REFUSAL)
        self._events.append(Refused(entry.wish, reason, self._dialect))

    def _renew_later(self, entry: _Entry, lifetime: int, now: float) -> None:
        """Not now, says the gateway; what it maps is there still."""
        entry.sends = 0
        entry.due = min(entry.expires, now + min(max(lifetime, SHORTEST_REFUSAL), LONGEST_REFUSAL))

    def _decline(self, entry: _Entry, now: float) -> None:
        """Delete what may be there, and ask again after ever longer pauses."""
        entry.declined += 1
        entry.again = now + DECLINED.after(entry.declined)
        entry.phase, entry.due, entry.sends, entry.external = _Phase.LEAVING, now, 0, None

    def _deleted(self, entry: _Entry) -> None:
        entry.phase = _Phase.GONE
        if entry.again is not None:
            entry.phase, entry.due, entry.again = _Phase.REFUSED, entry.again, None
        self._note_departure()

    def _start_over(self, answered: _Entry, now: float) -> None:
        """The mappings other than the one just answered may be gone."""
        if now < self._restart_heard_from:
            return
        self._restart_heard_from = now + RESTART_GAP
        self._events.append(Restarted())
        for entry in self._entries:
            if entry is not answered and entry.phase is _Phase.HELD:
                entry.due = now
        self.handle_timeout(now)

    def _note_departure(self) -> None:
        if self._leaving and all(entry.phase is _Phase.GONE for entry in self._entries):
            self._leaving = False
            self._events.append(AllReleased())


def _is_about(wish: Wish, mapping: PcpMapping | None) -> bool:
    return mapping is not None and (wish.nonce, wish.transport, wish.internal_port) == (
        mapping.nonce,
        mapping.transport,
        mapping.internal_port,
    )


def _pmp(entry: _Entry, lifetime: int) -> bytes:
    wish = entry.wish
    external = wish.external_port if entry.external is None else entry.external.port
    return encode_pmp_map_request(wish.transport, wish.internal_port, external if lifetime else 0, lifetime)


def _name(results: type[PcpResult] | type[PmpResult], number: int) -> str:
    try:
        return results(number).name
    except ValueError:
        return f"result code {number}"
