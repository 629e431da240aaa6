"""NATs that give each destination the next port of a count: when to foretell a mapping, and what it will be. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from warpgate.model.address import Attachment, NodeAddress
from warpgate.model.endpoint import Endpoint
from warpgate.model.nat import Assignment, Filtering, Mapping
from warpgate.plan.classify import MAX_GAP, Observation, classify
from warpgate.plan.predict import next_ports, steps_between, wrapped
from warpgate.plan.targets import Pair, facing_outside

# How far the n-th of several packets aims beyond the n-th predicted port: see `crosswise`.
_AHEAD = (0, 1, 2, 3)
_AHEAD_TOGETHER = (0, 1, 2, 3, 4, 5)  # see `one_count`
# One count is taken for another's continuation within so many steps of it: two counts of their own lie so close once in
# a thousand times.
ONE_COUNT = MAX_GAP


def hidden(at: Attachment) -> bool:
    """Whether the next destination sees another port than was measured.

    A mapping that is known to depend on the destination shows whether ports are preserved, too: UNKNOWN is one of the
    other assignments.
    """
    return at.nat.mapping.endpoint_dependent and at.nat.assignment.kind is not Assignment.PRESERVING


def counts(at: Attachment) -> bool:
    return at.nat.mapping.endpoint_dependent and at.nat.assignment.kind is Assignment.SEQUENTIAL


def may_count(at: Attachment) -> bool:
    """Known to, or not known yet."""
    return hidden(at) and at.nat.assignment.kind in (Assignment.SEQUENTIAL, Assignment.UNKNOWN)


def being_measured(own: NodeAddress) -> bool:
    """Whether a NAT is between us and the servers, but not enough of them have told what it is like."""
    return any(at.nat.mapping is Mapping.UNKNOWN and at.reflexive not in (None, at.host) for at in own.attachments)


def both_count(own: NodeAddress, peer: NodeAddress) -> bool:
    """Whether each way between the two is through two NATs that count: then neither has an endpoint to aim at before it
    has been foretold.
    """
    routes = [
        (mine, theirs)
        for mine in facing_outside(own)
        for theirs in facing_outside(peer)
        if mine.family is theirs.family
    ]
    return bool(routes) and all(counts(mine) and counts(theirs) for mine, theirs in routes)


def in_aim(candidates: Sequence[Pair], own: NodeAddress, peer: NodeAddress) -> list[Pair]:
    """Without those where our packets are known to be turned away, since the peer cannot tell our port.

    In vain is not all that they are: a router that accepts unsolicited packets gives its own host another port from
    then on (Linux takes the host's later flows along), and neither predicting nor guessing ports finds it any more.
    """
    mine = {at.host for at in own.attachments if hidden(at)}
    strict = {ip for at in peer.attachments if at.nat.filtering is Filtering.APDF for ip in at.outside}
    return [
        pair
        for pair in candidates
        if pair.nearby or pair.open or pair.base.ip not in mine or pair.remote.ip not in strict
    ]


def target_to_foretell(
    candidates: Sequence[Pair], mine: Attachment, peer: NodeAddress, *, certain: bool
) -> Pair | None:
    """The peer's endpoint to foretell a mapping for: behind a NAT that may filter by port (whatever was measured when
    that is `certain`), and does not map anew itself.
    """
    strict = {
        theirs.reflexive
        for theirs in peer.attachments
        if (certain or theirs.nat.filtering in (Filtering.UNKNOWN, Filtering.APDF)) and not hidden(theirs)
    }
    outside = (pair for pair in candidates if pair.base.ip == mine.host and not pair.nearby)
    return next((pair for pair in outside if pair.remote.ip in strict), None)


def foretold(seen: Sequence[Observation], known_step: int) -> tuple[Endpoint, ...]:
    """Where the next mapping will be seen, likeliest first; `seen` in the order of asking, just before.

    () when what was seen is no count and none is known (`known_step` 0).
    """
    step = _common(classify(seen).assignment.step, known_step)
    ports = next_ports(_in_line([each.mapped.port for each in seen]), step)
    return tuple(Endpoint(seen[-1].mapped.ip, port) for port in ports)


def _common(step: int, known_step: int) -> int:
    """Of a few samples all gaps may be twice the step, as others' mappings come in between: many know better."""
    if not step or not known_step or (step > 0) is not (known_step > 0):
        return step or known_step
    common = math.gcd(step, known_step)
    return common if step > 0 else -common


def _in_line(ports: list[int]) -> list[int]:
    """Without a port that was given out long ago, to an earlier program on the same local port."""
    close = [
        port
        for place, port in enumerate(ports)
        if any(0 < abs(port - other) <= MAX_GAP for other in ports[:place] + ports[place + 1 :])
    ]
    return close or ports


def crosswise(peers: Sequence[Endpoint]) -> list[Endpoint]:
    """In which order the answering one of two counting sides sends to the other's foretold endpoints.

    The n-th packet of one side meets the n-th of the other when nobody else's mapping came in between. Each that did
    moves one side's count by one; so the answering side aims ahead of its own count by 0 to 3 in turn, and three
    such mappings on both sides together do no harm. The asking side sends in order. Each address counts alone.
    """
    found: list[Endpoint] = []
    for ip in dict.fromkeys(peer.ip for peer in peers):
        counted = [peer for peer in peers if peer.ip == ip]
        ahead = (number + _AHEAD[number % len(_AHEAD)] for number in range(len(counted)))
        found += [counted[aim] for aim in ahead if aim < len(counted)]
    return found


def one_count(theirs: Sequence[Endpoint], ours: Sequence[Endpoint], step: int) -> list[Endpoint]:
    """The same where one NAT's count serves both sides: both are behind it, and it turns their packets back.

    `theirs` was foretold first, and `ours` afterwards: all that the NAT has counted in between is seen. But what we
    send now moves the count for the other side: its n-th packet leaves from the n-th port after those of our packets,
    of which there are as many as aims. () where the counts are two.

    Each mapping that others, or our own relays, had made since moves both sides: the n-th packet then meets one that
    leaves two ports further on, and aims that far.
    """
    if not (step and theirs and ours) or theirs[0].ip != ours[0].ip:
        return []
    if not 0 < steps_between(theirs[0].port, ours[0].port, step) <= ONE_COUNT:
        return []
    counted = (len(_AHEAD_TOGETHER) + number + ahead for number, ahead in enumerate(_AHEAD_TOGETHER))
    return [Endpoint(ours[0].ip, wrapped(ours[0].port + step * further)) for further in counted]
