"""Which external ports an endpoint-dependent NAT will give its next mappings, from samples taken just before. Pure."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

from warpgate.lazy_dataclass import dataclass
from warpgate.model.nat import Assignment, NatProfile

# RFC 6335 section 6: ports 0-1023 are the system's; NATs hand out the rest (RFC 4787 section 4.2.2), counting round.
FIRST_PORT = 1024
LAST_PORT = 65535
ALL_PORTS = LAST_PORT + 1 - FIRST_PORT
# How many of the next ports are worth a probe each: what else is behind the NAT takes a few within a round trip.
CANDIDATES = 8
# Carriers' blocks are powers of two, 512 to 4096 (RFC 7422 section 2, RFC 6888 REQ-4).
LARGEST_BLOCK = 4096


# So many of these in random order, as `random.Random.sample` draws them.
Draw = Callable[[Sequence[int], int], list[int]]


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports `low` to `high`, both inclusive; of these, the ones whose `fixed` bits are those of `bits`."""

    low: int
    high: int
    fixed: int = 0
    bits: int = 0

    @property
    def size(self) -> int:
        return len(self.ports)

    @property
    def ports(self) -> Sequence[int]:
        """In ascending order."""
        return _ports(self.low, self.high, self.fixed, self.bits & self.fixed)

    def drawn(self, draw: Draw, most: int) -> list[int]:
        """At most so many ports in random order, none twice; those whose bits differ in one place come last.

        A bit that was the same in all samples by chance costs time then, not the connection.
        """
        chosen = draw(self.ports, min(self.size, most))
        for loosened in _loosened(self.fixed):
            others = _ports(self.low, self.high, self.fixed, (self.bits ^ loosened) & self.fixed)
            chosen += draw(others, min(len(others), most - len(chosen)))
        return chosen

    def drawn_of_a_count(self, draw: Draw, step: int, sockets: int) -> list[int]:
        """Ports so far apart that `sockets` mappings one `step` after the other, wherever they begin, have one of them.

        Then, for when others' mappings came in between, the ports half way.
        """
        apart = max(1, abs(step) * sockets)
        surely = [port for start in range(abs(step) or 1) for port in self.ports[start::apart]]
        perhaps = [port for start in range(abs(step) or 1) for port in self.ports[start + apart // 2 :: apart]]
        return list(dict.fromkeys((*draw(surely, len(surely)), *draw(perhaps, len(perhaps)))))


# Peers name ranges, so what is kept of them is small: 128 KiB each.
@lru_cache(maxsize=32)
def _ports(low: int, high: int, fixed: int, bits: int) -> Sequence[int]:
    if not fixed:
        return range(low, high + 1)
    return array("H", (port for port in range(low, high + 1) if port & fixed == bits))


def _loosened(fixed: int) -> list[int]:
    return [1 << place for place in range(16) if fixed >> place & 1]


FULL_RANGE = PortRange(FIRST_PORT, LAST_PORT)


def next_ports(ports: Sequence[int], step: int) -> tuple[int, ...]:
    """The likeliest ports of the next mapping of a NAT that counts in `step` (may be negative), likeliest first.

    `ports`: of mappings in the order in which they were asked for, the last one just now. Where others' mappings come
    in between, gaps are multiples of the step: those seen most often first, then upwards, as time passes.
    """
    if not ports or not step:
        return ()
    gaps = Counter(steps_between(before, after, step) for before, after in pairwise(ports))
    likeliest = sorted(range(1, CANDIDATES + 1), key=lambda gap: (-gaps[gap], gap))
    found = (wrapped(ports[-1] + gap * step) for gap in likeliest)
    return tuple(dict.fromkeys(found))


def steps_between(before: int, after: int, step: int) -> int:
    """0 when `after` is not reached from `before` in whole steps."""
    distance = (after - before) % ALL_PORTS if step > 0 else (before - after) % ALL_PORTS
    return 0 if distance % abs(step) else distance // abs(step)


def wrapped(port: int) -> int:
    """As a NAT counts that begins anew after the last port."""
    return (port - FIRST_PORT) % ALL_PORTS + FIRST_PORT


def likely_block(low: int, high: int, samples: int) -> PortRange:
    """Where the other ports of a block lie of which `samples` were seen, from `low` to `high`.

    The ends of a block lie beyond the outermost samples by span / (n - 1) on average. Carriers' blocks are aligned
    to their size: where the samples fill most of such a block, it does not go further.
    """
    if samples < 2:
        return FULL_RANGE
    margin = max(1, -(-(high - low) // (samples - 1)))
    wide_low, wide_high = max(FIRST_PORT, low - margin), min(LAST_PORT, high + margin)
    size = 1 << (low ^ high).bit_length()  # the smallest aligned block that holds both
    start = low & -size
    if size <= min(LARGEST_BLOCK, 2 * (high - low + 1)):
        return PortRange(max(wide_low, start), min(wide_high, start + size - 1))
    return PortRange(wide_low, wide_high)


def ports_to_guess(nat: NatProfile) -> PortRange:
    """Where the external port of a new mapping of this NAT lies, as far as is known."""
    assignment = nat.assignment
    if assignment.kind is not Assignment.BLOCK:
        return FULL_RANGE
    around = likely_block(assignment.low, assignment.high, nat.assignment_samples)
    return replace(around, fixed=assignment.fixed, bits=assignment.low & assignment.fixed)


def of_parity(ports: PortRange, parity: int) -> PortRange:
    """Those that a NAT which preserves parity gives to inside ports of this one (0 or 1)."""
    return replace(ports, fixed=ports.fixed | 1, bits=ports.bits & ~1 | parity)
