"""A router between an inside and an outside: it passes packets through its `Nat` models and answers for itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from warpgate.errors import ConfigError
from warpgate.lab.answers import Complaint, complain, reset
from warpgate.lab.flow import Answer, Drop, Forward, Side, Verdict
from warpgate.lab.line import Deliver
from warpgate.lab.nat import Nat, NatCounters
from warpgate.lab.packet import Packet, readdress, rewrite, spend_hops, translate_error
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import IPAddress

# How many fragmented packets a router follows at a time.
FRAGMENTED_PACKETS: Final = 256


@dataclass(frozen=True, slots=True)
class RouterCounters:
    """`nat` and `firewall` are the IPv4 and the IPv6 model's counters; `dropped` is by reason."""

    name: str
    packets_out: int
    packets_in: int
    local: int
    answers: int
    dropped: tuple[tuple[str, int], ...]
    nat: NatCounters | None
    firewall: NatCounters | None


class Router:
    """`up` takes packets to the outside, `below` finds the inside neighbour of a packed address.

    `inside` and `outside` are its own addresses on either side, for the packets it sends itself.
    """

    def __init__(
        self,
        name: str,
        *,
        nat: Nat | None,
        firewall: Nat | None,
        inside: tuple[IPAddress, ...],
        outside: tuple[IPAddress, ...],
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.nat = nat
        self.firewall = firewall
        self.inside = inside
        self.outside = outside
        self.up: Deliver = self._unconnected
        self.below: dict[bytes, Deliver] = {}
        self._clock = clock
        self._own_inside = frozenset(ip.packed for ip in inside)
        self._packets_out = self._packets_in = self._local = self._answers = 0
        self._dropped: Counter[str] = Counter()
        self._fragments: dict[bytes, Forward] = {}

    def from_below(self, packet: Packet) -> None:
        self._packets_out += 1
        neighbour = self.below.get(packet.destination)
        if neighbour is not None:
            neighbour(packet)  # the inside is one switched network: no router, no hop
            return
        if packet.destination in self._own_inside or _is_multicast(packet.destination):
            self._local += 1  # a multicast (SSDP) is for the site: it never reaches the NAT
            return
        if not spend_hops(packet, 1):
            self._complain(packet, Complaint.TIME_EXCEEDED, self.inside, self._to_inside)
            return
        model = self._model(packet)
        if model is None:
            self.up(packet)
        elif packet.quoted is not None:
            self._pass_error(packet, model.error_outbound(packet.quoted, self._clock()))
        elif packet.flow is None:
            self._follow_fragment(packet)
        else:
            verdict = model.outbound(packet.flow, self._clock(), packet.flags)
            if isinstance(verdict, Forward):
                self._note_fragment(packet, verdict)
                rewrite(packet, verdict.flow)
                (self.up if verdict.side is Side.OUTSIDE else self._to_inside)(packet)
            else:
                self._refuse(packet, verdict, self.inside, self._to_inside)

    def from_above(self, packet: Packet) -> None:
        self._packets_in += 1
        model = self._model(packet)
        if model is None:
            if self._may_enter(packet):
                self._to_inside(packet)
        elif packet.quoted is not None:
            self._pass_error(packet, model.error_inbound(packet.quoted, self._clock()))
        elif packet.flow is None:
            if self._may_enter(packet):
                self._follow_fragment(packet)
        else:
            verdict = model.inbound(packet.flow, self._clock(), packet.flags)
            if not isinstance(verdict, Forward):
                self._refuse(packet, verdict, self.outside, self.up)
            elif self._may_enter(packet):
                self._note_fragment(packet, verdict)
                rewrite(packet, verdict.flow)
                self._to_inside(packet)

    def forget(self) -> None:
        """All mappings and flows are gone, as after a restart."""
        self.nat = None if self.nat is None else self.nat.anew()
        self.firewall = None if self.firewall is None else self.firewall.anew()
        self._fragments.clear()

    def renumber(self, *external: IPAddress) -> None:
        """Other external addresses (IPv4) and no mappings, as after a new dial-in; nobody inside is told."""
        if self.nat is None or not self.nat.spec.translates:
            raise ConfigError(f"router {self.name} does not translate: it has no address to change")
        self.nat = self.nat.anew(external)
        self.outside = (external[0], *self.outside[1:])

    def counters(self) -> RouterCounters:
        now = self._clock()
        return RouterCounters(
            name=self.name,
            packets_out=self._packets_out,
            packets_in=self._packets_in,
            local=self._local,
            answers=self._answers,
            dropped=tuple(sorted(self._dropped.items())),
            nat=self.nat.counters(now) if self.nat is not None else None,
            firewall=self.firewall.counters(now) if self.firewall is not None else None,
        )

    def _model(self, packet: Packet) -> Nat | None:
        return self.nat if packet.version == 4 else self.firewall

    def _may_enter(self, packet: Packet) -> bool:
        """Spend the hop; the error quotes the packet as it came, hence before it is translated."""
        if spend_hops(packet, 1):
            return True
        self._complain(packet, Complaint.TIME_EXCEEDED, self.outside, self.up)
        return False

    def _to_inside(self, packet: Packet) -> None:
        neighbour = self.below.get(packet.destination)
        if neighbour is None:
            self._dropped["nobody there"] += 1
        else:
            neighbour(packet)

    def _pass_error(self, packet: Packet, verdict: Verdict) -> None:
        if not isinstance(verdict, Forward):
            return
        translate_error(packet, verdict.flow)
        (self.up if verdict.side is Side.OUTSIDE else self._to_inside)(packet)

    def _note_fragment(self, packet: Packet, verdict: Forward) -> None:
        if packet.fragment is None:
            return
        self._fragments[packet.fragment] = verdict
        if len(self._fragments) > FRAGMENTED_PACKETS:
            del self._fragments[next(iter(self._fragments))]

    def _follow_fragment(self, packet: Packet) -> None:
        """RFC 4787 REQ-14: fragments in order pass; those that come before the first are lost here."""
        verdict = self._fragments.get(packet.fragment or b"")
        if verdict is None:
            self._dropped["no flow to translate"] += 1
            return
        readdress(packet, verdict.flow)
        (self.up if verdict.side is Side.OUTSIDE else self._to_inside)(packet)

    def _refuse(self, packet: Packet, verdict: Verdict, own: tuple[IPAddress, ...], back: Deliver) -> None:
        if isinstance(verdict, (Drop, Forward)):
            return
        if verdict.answer is Answer.PORT_UNREACHABLE:
            self._complain(packet, Complaint.PORT_UNREACHABLE, own, back)
            return
        answer = reset(packet)
        if answer is not None:
            self._answers += 1
            back(answer)

    def _complain(self, packet: Packet, complaint: Complaint, own: tuple[IPAddress, ...], back: Deliver) -> None:
        for ip in own:
            if ip.version == packet.version:
                error = complain(packet, complaint, ip)
                if error is not None:
                    self._answers += 1
                    back(error)
                return

    def _unconnected(self, _: Packet) -> None:
        self._dropped["no uplink"] += 1


def _is_multicast(packed: bytes) -> bool:
    """224.0.0.0/4 or ff00::/8."""
    return packed[0] >> 4 == 14 if len(packed) == 4 else packed[0] == 0xFF
