"""Everything that a strategy may touch in one connect; `plugins.base` says what a strategy is."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from warpgate.config import Config
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Endpoint, IPAddress, Mode, Transport
from warpgate.net.link import Link
from warpgate.net.network import Network, TcpStream
from warpgate.plan.classify import Observation
from warpgate.plan.targets import Pair


class Relay(Protocol):
    """What an attempt may do with TURN servers. All that is opened is given back, unless the winning link is on it."""

    @property
    def configured(self) -> bool:
        """Whether there is any server of ours."""

    @property
    def heard(self) -> bool:
        """Whether anything of the peer's has come by one that we have opened."""

    async def open_udp(self) -> tuple[Endpoint, ...]:
        """Relayed endpoints, to be told to the peer; they let in what comes from its outside addresses.

        Each may be the `base` of `probe`. The next call is for another server's, or for the same one's where that has
        forgotten what it gave, once. ServiceError with the reasons.
        """

    async def lost_udp(self, silence: float, patience: float) -> bool:
        """True when the newest of `open_udp` is over, or its server silent for the first time, while there is another
        that has not been asked; False when it has lasted. In seconds.
        """

    async def open_tcp(self) -> tuple[Endpoint, ...]:
        """Relayed endpoints that the peer may dial: its links arrive by `inbound`. The next call is for
        another server's. ServiceError with the reasons.
        """

    async def dial(self, remote: Endpoint) -> TcpStream:
        """From our relay of `open_tcp` to a relayed endpoint of the peer's; for `adopt`. ServiceError, NetworkError."""

    def admit(self, endpoints: Sequence[Endpoint], *, again: bool = False) -> tuple[Endpoint, ...]:
        """The peer's relayed endpoints, as far as they may be tried; AttemptFailed when none may.

        One that is private may be at our own relay, which is known when that is open: `again` says that the attempt
        will ask once more then, and a refusal is not told yet.
        """

    def reachable(self, endpoint: Endpoint) -> bool:
        """Whether an admitted endpoint may be called from here; else it may be from our own relay only."""


class RandomPunch(Protocol):
    """Many sockets or many ports, within the node's budgets, which it shares with others."""

    @property
    def mappings_left(self) -> int:
        """How many more sockets or probes this peer may cost: AttemptFailed beyond."""

    @property
    def sockets(self) -> int:
        """How many of `open_towards` there are."""

    @property
    def shortage(self) -> str:
        """Why the system gave no more sockets, empty when it did."""

    @property
    def times_held(self) -> int:
        """How often `hold_back` stopped it."""

    async def plan(self, near: Endpoint, target: Endpoint, wanted: int) -> int:
        """How many sockets to open towards it: fewer than wanted where others have some open, of which those towards
        the same endpoint are shared. Those of an earlier plan are left alone. AttemptFailed when none may be opened.
        """

    def open_towards(
        self,
        near: Endpoint,
        target: Endpoint,
        schedule: Sequence[tuple[float, int | None]],
        parity: int | None = None,
    ) -> bool:
        """One more socket that sends to `target` at these times from now, each with a ttl (None: full); on an even or
        odd port (0, 1) if that matters.

        Closed with the session unless it wins. False when the system has no more: then the last few were closed again,
        for everything else in the process that needs one.
        """

    async def probe(self, base: Endpoint, remote: Endpoint) -> None:
        """One check to a guessed endpoint, as soon as the node's rate allows it and nothing holds it back."""

    async def repeat(self, remote: Endpoint, ttl: int | None) -> None:
        """Once more from each of `open_towards`, at the node's rate: it costs a mapping only where there was none.

        Nothing once it is over.
        """

    async def maps_anew(self, near: Endpoint) -> float | None:
        """Seconds until a STUN server has seen a fresh socket on this interface; None: our router has no mapping.

        It costs a mapping. 0.0 where no server can be asked, or none is left of the budget.
        """

    @property
    def rate(self) -> float:
        """Probes a second."""

    def slow_down(self) -> None:
        """Half as many probes a second from now on, an eighth of the node's rate at least."""

    def speed_up(self) -> None:
        """An eighth of the node's rate more, up to that."""

    def hold_back(self) -> None:
        """Let probes wait until `go_on`: our router has no mappings left. Idempotent."""

    def go_on(self) -> None:
        """Idempotent."""

    def close(self) -> None:
        """Nothing more is to be sent; its sockets are for those that share them. Idempotent."""


class Attempt(Protocol):
    """One plugin's part in one connect: everything it may touch. Times are the loop's clock, seconds."""

    @property
    def session(self) -> bytes:
        """16 bytes, chosen by the initiator."""

    @property
    def initiator(self) -> bool: ...

    @property
    def local(self) -> NodeAddress: ...

    @property
    def remote(self) -> NodeAddress:
        """The peer's address; fresher when the peer has sent a fresher one."""

    @property
    def alone(self) -> bool:
        """False where this strategy began sooner, and is still at work, for another pipe of this kind to the same peer:
        a TCP connection between the same two ports is that one's, as are datagrams between the same two endpoints.
        """

    @property
    def renewing(self) -> bool:
        """Whether this is for a path in place of one whose NAT mappings are about to end: those of the listening ports
        will not do, and what costs a router many mappings is not worth it.
        """

    @property
    def mode(self) -> Mode: ...

    @property
    def transports(self) -> frozenset[Transport]:
        """What the pipe may run over."""

    @property
    def config(self) -> Config: ...

    @property
    def network(self) -> Network: ...

    @property
    def relay(self) -> Relay: ...

    @property
    def stack(self) -> contextlib.ExitStack:
        """Closed when the plugin's part is over; what a winning link needs must be moved out before."""

    @property
    def signal_delay(self) -> float | None:
        """Estimated one-way time of a signal to the peer, measured once an answer has come; None if unknown."""

    @property
    def round_trip(self) -> float | None:
        """Seconds that packets to the peer and back may take: as long as a signal, or as those to the nearest STUN
        server if that is more. None if nothing is known.
        """

    def now(self) -> float: ...

    def note(self, text: str) -> None:
        """One line for `explain`: what was tried or learnt."""

    def signal(self, message: object) -> None:
        """Send the peer's half a message; all plugins' messages of one tick travel in one envelope.

        Delivered once, repeated until acknowledged. ProtocolError when it packs to more than 1,024 bytes, or is no
        `message_type`.
        """

    async def receive(self) -> Any:
        """The next message of the peer's half, decoded as the plugin's `message_type`; DecodeError for anything else.

        The peer may be anybody: what is in it is a claim (`admit`).
        """

    async def first(self, ways: Mapping[str, Callable[[], Awaitable[Link]]]) -> Link:
        """Try all at once: the first link, the other ways are cancelled. AttemptFailed with every way's reason."""

    async def remote_changed(self) -> None:
        """Returns when `remote` has become another address since the last call (or since the start)."""

    async def knowledge_changed(self) -> None:
        """Returns when `local` or `remote` says something else, or more, than now."""

    def pairs(self, transport: Transport) -> tuple[Pair, ...]:
        """Our listening sockets x the peer's endpoints, as far as policy lets them be tried, best first."""

    def admit(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        """Those that are the peer's own and may be tried, in the same order; of what is left out a refusal is counted.

        AttemptFailed, with the reason, when none of them may.
        """

    def probe(
        self,
        base: Endpoint,
        remote: Endpoint,
        *,
        offsets: Sequence[float] | None = None,
        ttl: int | None = None,
    ) -> None:
        """Send connectivity checks from our UDP socket `base`, at these times from now; ttl for priming."""

    def try_found(self) -> bool:
        """Check the pairs of endpoints by which the peer was reached before, and that the addresses do not tell: found
        by a search, which they may save. Whether there are any; the strategy that asks first gets what comes of it.
        """

    def occupied(self, base: Endpoint, remote: Endpoint) -> bool:
        """Whether a datagram pipe is on this pair of endpoints already, or about to be (not `alone`), or an old mapping
        (`renewing`): then another of our sockets is needed.
        """

    async def verified(self) -> Link:
        """The next UDP link of this plugin: the peer has proved its key on it."""

    async def open_udp(self, near: Endpoint) -> Endpoint:
        """One more UDP socket for checks, on the same interface as `near`, closed with the attempt unless it wins."""

    async def reflexive(self, base: Endpoint) -> Endpoint:
        """What the outside sees of a UDP socket of `open_udp`, asked now. ServiceError when no server answers."""

    async def samples(self, base: Endpoint) -> tuple[Observation, ...]:
        """What several servers see of a UDP socket, in the order in which they were asked, now. ServiceError."""

    def priming_ttl(self, base: Endpoint) -> int:
        """Of what goes ahead from this interface: it opens our own filters and dies before the peer's."""

    def primes_surely(self, base: Endpoint) -> bool:
        """Whether that TTL was measured to open all filters on our side."""

    def taken_ports(self, ip: IPAddress) -> frozenset[int]:
        """External UDP ports that sockets of ours on this interface were seen to have."""

    async def random_punch(self, *, alone: bool = False) -> RandomPunch:
        """As soon as others leave room for it; over with the plugin's part. `alone`: for sockets that take all our
        ports. AttemptFailed when a budget is used up, or others' are in the way for too long.
        """

    async def reflexive_tcp(self, near: Endpoint) -> tuple[Endpoint, Endpoint]:
        """(local, reflexive) of a fresh TCP port on the interface of `near`; its mapping is kept open meanwhile."""

    async def samples_tcp(self, near: Endpoint) -> tuple[Observation, ...]:
        """What servers see of several fresh TCP ports on the interface of `near`, in the order of asking, now.

        The mapping of the last one is kept open meanwhile: that is the one to go on from. ServiceError.
        """

    async def dial(self, remote: Endpoint, local: Endpoint | None = None, first_ttl: int | None = None) -> Link:
        """Connect by TCP and let the peer prove its key; `first_ttl` is that of the first SYN, for priming.

        NetworkError, ProtocolError.
        """

    async def listen_tcp(self, local: Endpoint) -> None:
        """Also accept on `local` (a fresh punching port) while the attempt lasts; links arrive by `inbound`."""

    def keep(self, link: Link) -> None:
        """Responder: a link that was dialled waits for the initiator's choice from now on, whatever else is returned.

        Where several dials may succeed, each is to be kept: which one the initiator chooses is not for us to say.
        """

    async def inbound(self) -> Link:
        """The next TCP link that the peer's half dialled to us, already proved.

        In `respond` there is none to have: a link that the initiator dialled is for the initiator to choose. There this
        waits until the attempt is over, which keeps open what the half has opened.
        """

    async def connect(self, remote: Endpoint, local: Endpoint | None = None, first_ttl: int | None = None) -> TcpStream:
        """As `dial`, but nobody has proved anything on it yet; for `adopt`. NetworkError."""

    async def adopt(self, stream: TcpStream) -> Link:
        """Let the peer prove its key on a stream that the plugin opened by its own means; we speak first."""

    def half_open(self, local: Endpoint, remote: Endpoint) -> bool:
        """Whether such a `connect` was broken off lately: our router may still wait for its answer."""
