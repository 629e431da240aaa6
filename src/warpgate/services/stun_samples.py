"""How a NAT assigns ports: more mappings than a node's own sockets make, from a few sockets that are thrown away.

Only where a mapping depends on the destination: steady counting shows in three mappings, but the bounds of a block, the
bits that a port set has in common (RFC 7597), and others' part in a count in about sixteen. They cost a tenth of what
guessing among all ports does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from warpgate.errors import NetworkError, ServiceError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, SockAddr
from warpgate.model.nat import Assignment, NatProfile
from warpgate.net.network import Network
from warpgate.plan.classify import Observation
from warpgate.services.stun_udp import UdpQuestion

# 16 samples showed most of a block. With four destinations that is the node's own socket and
# three more; whoever has fewer destinations gets by with what eight sockets see.
WANTED = 16
SOCKETS = 8
DESTINATIONS = 4
# The system draws ports; each second one has the parity that is wanted.
PARITY_DRAWS = 32


def worth_sampling(nat: NatProfile) -> bool:
    """Whether more mappings would tell more."""
    open_question = nat.assignment.kind is not Assignment.PRESERVING
    return nat.mapping.endpoint_dependent and open_question and nat.assignment_samples < WANTED


@dataclass(frozen=True, slots=True)
class Sampled:
    """`failures`: of sockets, in the system's words, and of servers; each reason once."""

    seen: tuple[Observation, ...] = ()
    failures: tuple[str, ...] = ()


async def sample_assignment(network: Network, near: Endpoint, servers: Sequence[Endpoint], seen: int) -> Sampled:
    """What fresh sockets on the interface of `near` get, all in one tick, in the order of asking.

    As many as make 16 with the `seen` ones, a round trip; fewer where servers or sockets fail. Parity is kept, or not,
    only where there was even and odd: one of them differs from `near`.
    """
    asked = tuple(servers[:DESTINATIONS])
    if not asked:
        return Sampled()
    sockets = min(SOCKETS, -(-(WANTED - seen) // len(asked)))
    answers = await asyncio.gather(
        *(_ask(network, near, asked, differs=number == 0) for number in range(sockets)),
        return_exceptions=True,
    )
    found: list[Observation] = []
    failures: dict[str, None] = {}
    for answer in answers:
        if isinstance(answer, NetworkError | ServiceError):
            failures.setdefault(str(answer))
            continue
        if isinstance(answer, BaseException):
            raise answer
        found += answer
    return Sampled(tuple(found), tuple(failures))


async def _ask(
    network: Network, near: Endpoint, servers: tuple[Endpoint, ...], *, differs: bool
) -> tuple[Observation, ...]:
    def receive(data: bytes, source: SockAddr) -> None:
        question.receive(data, source)

    sock = network.open_udp(Endpoint(near.ip, 0), receive)
    for _ in range(PARITY_DRAWS if differs else 0):
        if (sock.local.port ^ near.port) & 1:
            break
        sock.close()
        sock = network.open_udp(Endpoint(near.ip, 0), receive)
    question = UdpQuestion(sock, servers, len(servers))
    try:
        return await question.answers()
    finally:
        sock.close()
