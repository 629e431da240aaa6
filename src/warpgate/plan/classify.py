"""From what STUN servers saw to a NAT's fingerprint, in the terms of RFC 4787. Pure.

Nothing is guessed past the samples: too few of them give UNKNOWN, which is a value like the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, groupby, pairwise
from math import gcd

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment

# Sequential allocators count in small steps (1, or 2 where parity is preserved), and other hosts' mappings
# come in between ours. Two random gaps of one direction within 32 ports come by chance once in 4 million.
SEQUENTIAL_SAMPLES = 3
MAX_GAP = 32
# Of all gaps, when there are some more: of 14 gaps in a block of 1024, ten lie so by chance once in 10^12.
MOST_GAPS = 0.7
# In a block of a few dozen ports most gaps are that small. There a count shows in the order of all pairs, of which
# requests that overtook each other leave more than this; 16 random ports do so once in some thousand.
SMALL_BLOCK = 8 * MAX_GAP
MOST_PAIRS = 0.85
LEAST_PART = 4
# Carrier NATs give a subscriber 512 to 4096 ports (RFC 7422, RFC 6888 REQ-4). Four random ports out of 64,512
# lie within 4096 by chance once in 1,000 (4 w^3 - 3 w^4, w = 4096/64512), three once in 80: too often.
BLOCK_SAMPLES = 4
MAX_BLOCK = 4096
# Three ports that lie further apart than any block and do not count up: nothing to hold on to, unless they have as many
# bits in common as the ports of a set of 1,024 (one of three random ones in five has, of four one in 250).
RANDOM_SAMPLES = 3
PORT_BITS = 16
SET_BITS = 6
# That as many bits are the same by chance, for what is taken for a rule.
UNLIKELY = 0.001
# Parity shows in one bit, of ports inside that are even and odd by chance: by chance it holds once in 4,096.
PARITY_SAMPLES = 12
# A count for each address is seen through several of them, which leaves more to chance.
PER_ADDRESS_GAPS = 4


@dataclass(frozen=True, slots=True)
class Observation:
    """From our socket `local`, `server` saw `mapped`. All of one interface and family."""

    local: Endpoint
    server: Endpoint
    mapped: Endpoint


def classify(
    observations: Sequence[Observation],
    filtering: Filtering = Filtering.UNKNOWN,
    filtering_samples: int = 0,
) -> NatProfile:
    """The fingerprint of the NAT before one interface.

    `observations` are in the order in which the requests were sent (that is the order in which a NAT assigns
    ports; answers may overtake each other). Several local sockets may be mixed: mapping behaviour is compared
    per socket, port assignment over all.
    """
    current = _current(observations)
    mapping, mapping_samples = _mapping(current)
    assignment, assignment_samples = _assignment(observations)
    return NatProfile(
        mapping=mapping,
        filtering=filtering,
        assignment=assignment,
        udp_blocked=False if observations else None,
        mapping_samples=mapping_samples,
        filtering_samples=0 if filtering is Filtering.UNKNOWN else filtering_samples,
        assignment_samples=assignment_samples,
        pooled=len({seen.mapped.ip for seen in current}) > 1,
    )


def _current(observations: Sequence[Observation]) -> tuple[Observation, ...]:
    """What holds now: per socket, the latest from each server since one of them last saw another endpoint.

    A changed answer from the same server means that the mapping expired or the network changed, not that the
    mapping depends on the destination; what was seen before it must not be compared with what was seen after.
    """
    sockets: dict[Endpoint, dict[Endpoint, Observation]] = {}
    for seen in observations:
        by_server = sockets.setdefault(seen.local, {})
        earlier = by_server.get(seen.server)
        if earlier is not None and earlier.mapped != seen.mapped:
            by_server.clear()
        by_server[seen.server] = seen
    return tuple(seen for by_server in sockets.values() for seen in by_server.values())


def _mapping(current: Sequence[Observation]) -> tuple[Mapping, int]:
    """RFC 4787 section 4.1, and how many observations it rests on."""
    if not current:
        return Mapping.UNKNOWN, 0
    if all(seen.mapped == seen.local for seen in current):
        return Mapping.NONE, len(current)
    evidence = Counter(_evidence(current))
    for mapping in (Mapping.APDM, Mapping.ADM, Mapping.EIM):
        if evidence[mapping]:
            return mapping, len(current)
    return Mapping.UNKNOWN, 0


def _evidence(current: Sequence[Observation]) -> Iterator[Mapping]:
    """What each pair of servers says about one socket.

    Equal mappings for one address's two ports fit EIM and ADM alike: such a pair says nothing.
    """
    by_socket = sorted(current, key=lambda seen: (int(seen.local.ip), seen.local.port))
    for _, group in groupby(by_socket, key=lambda seen: seen.local):
        for one, another in combinations(group, 2):
            same_address = one.server.ip == another.server.ip
            if one.mapped == another.mapped:
                if not same_address:
                    yield Mapping.EIM
            else:
                yield Mapping.APDM if same_address else Mapping.ADM


def _assignment(observations: Sequence[Observation]) -> tuple[PortAssignment, int]:
    """RFC 4787 section 4.2, and how many mappings it rests on."""
    first: dict[tuple[Endpoint, Endpoint], Observation] = {}
    for seen in observations:
        first.setdefault((seen.local, seen.mapped), seen)
    made = list(first.values())
    chosen = [seen for seen in made if seen.mapped.port != seen.local.port]
    if not chosen:
        kind = Assignment.PRESERVING if made else Assignment.UNKNOWN
        return PortAssignment(kind), len(made)
    # A NAT that preserves where it can and chose these where it could not will choose the next one so, too.
    assignment = _counted(chosen)
    if assignment.kind is Assignment.UNKNOWN:
        assignment = _of_ports([seen.mapped.port for seen in chosen])
        parity = len(chosen) >= PARITY_SAMPLES and _parity_preserved(chosen)
        assignment = replace(assignment, parity=parity)
    return assignment, 0 if assignment.kind is Assignment.UNKNOWN else len(chosen)


def _counted(made: Sequence[Observation]) -> PortAssignment:
    """UNKNOWN when no count is seen. Each external address has ports of its own, and so counts for itself."""
    by_address = _grouped(made, lambda seen: seen.mapped.ip)
    step = _step(by_address, SEQUENTIAL_SAMPLES - 1)
    if step:
        return PortAssignment(Assignment.SEQUENTIAL, step=step)
    step = _step(_grouped(made, lambda seen: (seen.mapped.ip, seen.server.ip)), PER_ADDRESS_GAPS)
    return PortAssignment(Assignment.PER_ADDRESS, step=step) if step else PortAssignment()


def _grouped(made: Sequence[Observation], key: Callable[[Observation], object]) -> list[list[int]]:
    """The ports of each group in the order in which they were given out."""
    groups: dict[object, list[int]] = {}
    for seen in made:
        groups.setdefault(key(seen), []).append(seen.mapped.port)
    return list(groups.values())


def _of_ports(ports: Sequence[int]) -> PortAssignment:
    """What the ports of mappings have in common: the bits that never change, whatever part of the number they are.

    In ports that lie close together the first ones are no sign of anything.
    """
    low, high = min(ports), max(ports)
    samples, wide = len(set(ports)), high - low >= MAX_BLOCK
    fixed = _constant_bits(ports)
    leading = 0 if wide else _leading_bits(low, high)
    beyond = (fixed & ~leading).bit_count()
    marked = beyond > 0 and _by_chance(beyond, PORT_BITS - leading.bit_count(), samples) < UNLIKELY
    if samples >= BLOCK_SAMPLES and (marked or not wide):
        return PortAssignment(Assignment.BLOCK, low=low, high=high, fixed=fixed if marked else 0)
    if wide and samples >= RANDOM_SAMPLES:
        may_be_a_set = fixed.bit_count() >= SET_BITS
        return PortAssignment() if may_be_a_set else PortAssignment(Assignment.RANDOM)
    return PortAssignment()


def _constant_bits(ports: Sequence[int]) -> int:
    """A mask of the bits that are the same in all of them."""
    changed = 0
    for port in ports:
        changed |= port ^ ports[0]
    return ~changed & 0xFFFF


def _leading_bits(low: int, high: int) -> int:
    """A mask of the bits that all numbers from `low` to `high` begin with."""
    return 0xFFFF >> (changed := (low ^ high).bit_length()) << changed


def _by_chance(constant: int, of: int, samples: int) -> float:
    """How often at least so many `of` random bits are all the same in as many samples (an upper bound)."""
    return math.comb(of, constant) * 2.0 ** (-constant * (samples - 1))


def _parity_preserved(made: Sequence[Observation]) -> bool:
    """Even for even and odd for odd, and both were seen."""
    same = all((seen.mapped.port ^ seen.local.port) & 1 == 0 for seen in made)
    return same and len({seen.local.port & 1 for seen in made}) == 2


def _step(groups: Sequence[Sequence[int]], least: int) -> int:
    """The step of an allocator that counts, 0 when it does not; `groups` have a count each.

    Others' mappings make some gaps multiples of it; one gap out of range is the allocator's wrap-around, and a few are
    those before and after a port that was given out long ago, to an earlier program on the same local port.
    """
    gaps = [after - before for ports in groups for before, after in pairwise(ports)]
    near = [gap for gap in gaps if 0 < abs(gap) <= MAX_GAP]
    up = sum(gap > 0 for gap in near) * 2 >= len(near)
    counted = [gap for gap in near if (gap > 0) is up]
    wrapped = [gap for gap in gaps if abs(gap) > MAX_BLOCK and (gap > 0) is not up]
    explained = len(counted) + min(len(wrapped), 1)
    if len(counted) < least or explained < math.ceil(MOST_GAPS * len(gaps)) or not _in_order(groups, up):
        return 0
    return gcd(*counted) if up else -gcd(*counted)


def _in_order(groups: Sequence[Sequence[int]], up: bool) -> bool:
    """Whether later ports are higher (lower) ones; true where few gaps are small by chance, so that it matters not."""
    ports = [port for group in groups for port in group]
    if max(ports) - min(ports) >= SMALL_BLOCK:
        return True
    parts = [part for group in groups for part in _as_sent(group, up)]
    differences = [after - before for part in parts for before, after in combinations(part, 2)]
    return sum((difference > 0) is up for difference in differences) >= MOST_PAIRS * len(differences)


def _as_sent(ports: Sequence[int], up: bool) -> tuple[Sequence[int], Sequence[int]]:
    """Two parts that are in the order of their requests each: mappings that have been asked for anew since stand where
    the old ones did, before the samples. They meet where the count goes back the most; in a few ports that is no sign.
    """
    sign = 1 if up else -1
    back = {at: (ports[at] - ports[at - 1]) * sign for at in range(LEAST_PART, len(ports) - LEAST_PART + 1)}
    cut = min(back, key=back.__getitem__, default=0)
    return (ports[:cut], ports[cut:]) if cut and back[cut] < 0 else (ports, ())
