"""tcp_punch: simultaneous open (RFC 9293 section 3.5) through two NATs. Usable after s + 2 R.

Both sides connect from their listening port, whose mapping is kept alive, in the same instant: the responder when the
offer arrives, the initiator after the time that the offer should need. With |skew| < r each SYN finds the other's
NAT open, so that not even a router that answers unsolicited SYNs with RST, or accepts them, sees one.

Low-TTL priming is no option for TCP: the ICMP error kills the socket in SYN_SENT. The listener stays on the port all
the time, so a SYN that comes late is accepted instead of reset.

A later volley uses fresh ports on both sides and measured times, in swapped order: the initiator sends its ports, the
responder answers with its own, waits for the answer's way, and both fire.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from warpgate.errors import AttemptFailed, NetworkError, ServiceError, WarpgateError
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.net.link import Link
from warpgate.net.race import RaceLost, first_of
from warpgate.plan.targets import pairs
from warpgate.plugins.base import Attempt, Plugin, outward, register, signal_delay

# Long enough for the kernel's first SYN retransmission (1 s, RFC 6298) to pass a NAT that the other side opened late.
VOLLEY_PATIENCE = 1.6
VOLLEYS = 4

Route = tuple[Endpoint, Endpoint]  # our local port and where to connect from it


@dataclass(frozen=True, slots=True)
class Meet:
    """`endpoints`: reflexive endpoints of fresh ports as text; none for the first volley (the address has them).

    `delay`: the sender's best estimate of a signal's one-way time in seconds, negative when it has none.
    """

    volley: int
    endpoints: tuple[str, ...] = ()
    delay: float = -1.0


@register
class TcpPunch(Plugin):
    name: ClassVar[str] = "tcp_punch"
    transports: ClassVar[frozenset[Transport]] = frozenset({Transport.TCP})
    message_type: ClassVar[type | None] = Meet

    @classmethod
    def unsuitable(cls, local: NodeAddress, remote: NodeAddress) -> str | None:
        if remote.brokers or any(not pair.nearby for pair in pairs(local, remote, Transport.TCP)):
            return None  # with a broker the peer's answer may know more endpoints than its address does
        return "no TCP endpoint of the peer's outside our own network is known"

    # -- initiating ----------------------------------------------------------------------------------------------

    async def initiate(self, attempt: Attempt) -> Link:
        attempt.signal(Meet(1, (), -1.0))
        fire_at = attempt.now() + signal_delay(attempt)
        tried: set[Route] = set()
        try:
            return await first_of(
                {
                    "inbound": attempt.inbound,
                    "volleys": partial(self._initiate_volleys, attempt, fire_at, tried),
                    "refreshed": partial(_follow_address, attempt, tried),
                },
                Link.abort,
                leader="volleys",
            )
        except RaceLost as lost:
            raise AttemptFailed(str(lost)) from None

    async def _initiate_volleys(self, attempt: Attempt, fire_at: float, tried: set[Route]) -> Link:
        await asyncio.sleep(fire_at - attempt.now())
        try:
            return await _first_volley(attempt, tried)
        except AttemptFailed as error:
            attempt.note(f"first volley: {error}")
        for volley in range(2, VOLLEYS + 1):
            faces = await _fresh(attempt)
            mine = tuple(str(mapped) for _, mapped in faces)
            delay = attempt.signal_delay
            attempt.signal(Meet(volley, mine, -1.0 if delay is None else delay))
            attempt.note(f"volley {volley} from fresh ports: {', '.join(mine)}")
            peers = _parse(await self._answer(attempt, volley))
            attempt.check_targets(peers)
            try:
                return await _fire(attempt, _match(faces, peers))
            except AttemptFailed as error:
                attempt.note(f"volley {volley}: {error}")
        raise AttemptFailed(f"{VOLLEYS} volleys, the later ones from fresh ports, and nothing came through")

    async def _answer(self, attempt: Attempt, volley: int) -> Meet:
        while True:
            message = await attempt.receive()
            if isinstance(message, Meet) and message.volley == volley:
                return message

    # -- responding ----------------------------------------------------------------------------------------------

    async def respond(self, attempt: Attempt) -> Link:
        """A volley that failed is followed by whatever the initiator asks for next."""
        volley: asyncio.Task[Link] | None = None
        for _ in range(VOLLEYS):
            message = await self._next(attempt, volley)
            if not isinstance(message, Meet):
                return message
            if volley is not None:
                volley.cancel()
            volley = asyncio.ensure_future(self._respond_volley(attempt, message))
            attempt.stack.callback(volley.cancel)
        if volley is None:
            raise AttemptFailed("nothing was asked for")
        return await volley

    async def _next(self, attempt: Attempt, volley: asyncio.Task[Link] | None) -> Meet | Link:
        """The link of the volley in progress, or the initiator's next message."""
        receiving = asyncio.ensure_future(attempt.receive())
        attempt.stack.callback(receiving.cancel)
        if volley is not None:
            await asyncio.wait({receiving, volley}, return_when=asyncio.FIRST_COMPLETED)
            if volley.done():
                if (error := volley.exception()) is None:
                    receiving.cancel()
                    return volley.result()
                attempt.note(str(error))
        message = await receiving
        if not isinstance(message, Meet):
            raise AttemptFailed("a message that is none of ours")
        return message

    async def _respond_volley(self, attempt: Attempt, message: Meet) -> Link:
        if not message.endpoints:
            tried: set[Route] = set()
            runners = {
                "volley": partial(_first_volley, attempt, tried),
                "refreshed": partial(_follow_address, attempt, tried),
            }
            return await first_of(runners, Link.abort)
        peers = _parse(message)
        attempt.check_targets(peers)
        faces = await _fresh(attempt)
        mine = tuple(str(mapped) for _, mapped in faces)
        attempt.signal(Meet(message.volley, mine))
        delay = message.delay if 0.0 <= message.delay <= 2.0 else signal_delay(attempt)
        await asyncio.sleep(delay)
        attempt.note(f"volley {message.volley} from fresh ports: {', '.join(mine)}")
        return await _fire(attempt, _match(faces, peers))


async def _first_volley(attempt: Attempt, tried: set[Route]) -> Link:
    """From the listening ports to what the peer's address lists, as far as not tried yet."""
    routes = [(pair.base, pair.remote) for pair in attempt.pairs(Transport.TCP) if not pair.nearby]
    fresh = [route for route in routes if route not in tried]
    tried.update(fresh)
    attempt.note(f"fired at {', '.join(str(remote) for _, remote in fresh) or 'nothing'}")
    if not fresh:  # what the peer says next may change that
        await asyncio.sleep(VOLLEY_PATIENCE)
    return await _fire(attempt, fresh)


async def _follow_address(attempt: Attempt, tried: set[Route]) -> Link:
    """The peer's endpoints have changed, or become known: it fires at us already."""
    while True:
        await attempt.remote_changed()
        try:
            return await _first_volley(attempt, tried)
        except AttemptFailed as error:
            attempt.note(f"after the peer's new address: {error}")


async def _fire(attempt: Attempt, routes: list[Route]) -> Link:
    """Connect along all routes in one tick; AttemptFailed when none is through in time."""
    if not routes:
        raise AttemptFailed("no endpoint to connect to")
    runners = {f"{local} -> {remote}": partial(attempt.dial, remote, local) for local, remote in routes}
    try:
        async with asyncio.timeout(VOLLEY_PATIENCE):
            return await first_of(runners, Link.abort)
    except TimeoutError:
        raise AttemptFailed(f"no connection within {VOLLEY_PATIENCE:g} s") from None
    except RaceLost as lost:
        raise AttemptFailed(str(lost)) from None


async def _fresh(attempt: Attempt) -> list[tuple[Endpoint, Endpoint]]:
    """(local, reflexive) of new ports on the interfaces that face the peer; we listen on them too."""
    faces = []
    for near in outward(attempt, Transport.TCP):
        try:
            local, mapped = await attempt.reflexive_tcp(near)
        except (ServiceError, NetworkError) as error:
            attempt.note(f"no fresh port on {near.ip}: {error}")
            continue
        try:
            await attempt.listen_tcp(local)
        except WarpgateError as error:
            attempt.note(f"not listening on {local}: {error}")
        faces.append((local, mapped))
    if not faces:
        raise AttemptFailed("no fresh port whose outside endpoint is known")
    return faces


def _match(faces: list[Route], peers: list[Endpoint]) -> list[Route]:
    return [(local, peer) for local, _ in faces for peer in peers if peer.family is local.family]


def _parse(message: Meet) -> list[Endpoint]:
    return [Endpoint.parse(text) for text in message.endpoints[:8]]
