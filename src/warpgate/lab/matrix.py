"""The pair matrix: which strategy connects a host of each kind to a host of each other kind, and what that costs.

    matrix = await measure(("eim", "edm"), (Mode.DATAGRAM,), count=3, report=print)

Every attempt is made by real nodes in namespaces, new ones on new ports, so that no mapping of an earlier attempt
helps. `matrix_picture` draws the result.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from warpgate.errors import ConfigError, DecodeError, ServiceError
from warpgate.lab.host import Host
from warpgate.lab.kinds import kind_of
from warpgate.lab.line import Quality
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.steered import Connected, SteeredNode
from warpgate.lab.topology import Lab
from warpgate.model.endpoint import Mode

DEFAULT_KINDS: Final = (
    "public",
    "firewalled",
    "eim-eif",
    "eim-adf",
    "eim-apdf",
    "edm-seq",
    "edm-block",
    "edm",
)
DEFAULT_MODES: Final = (Mode.DATAGRAM, Mode.STREAM)
DEFAULT_COUNT: Final = 3
ROUND_TRIP: Final = 4 * Quality().delay  # out and back, over two hosts' lines each way
# What a user waits at most (Timing.attempt_timeout).
TIMEOUT: Final = 20.0
# Attempts begin one at a time, or they would disturb each other's clocks. One that takes longer than this is no
# longer a matter of milliseconds: others may begin beside it, or the pairs that fail would take most of the time.
# Longer than Timing.relay_patience, so that relayed pipes are measured in peace, too.
HEAD_START: Final = 1.2
# Labs at once; each has four namespaces and four processes.
PAIRS_AT_ONCE: Final = 6


@dataclass(frozen=True, slots=True)
class Attempt:
    """One connect: what the initiator saw, and what both sites spent on it until the pipe was closed again."""

    seen: Connected
    packets: int
    mappings: int
    flows: int


@dataclass(frozen=True, slots=True)
class Cell:
    """What `count` connects from one kind to another came to.

    `winner`, `transport` and `relayed` are those of most connects that succeeded ("" and False when none did),
    `seconds` is their median time until `connect` returned and `worst` the longest. `packets` (IP packets that both
    hosts sent, signals and one echo included), `mappings` and `flows` (created in all routers of both sites) are
    medians of all connects. `failures` has a reason for each connect that failed.
    """

    initiator: str
    responder: str
    mode: Mode
    count: int
    connected: int
    winner: str
    transport: str
    relayed: bool
    seconds: float | None
    worst: float | None
    packets: int
    mappings: int
    flows: int
    failures: tuple[str, ...]

    @classmethod
    def of(cls, initiator: str, responder: str, mode: Mode, attempts: Sequence[Attempt]) -> Cell:
        """`attempts`: one or more."""
        good = [attempt.seen for attempt in attempts if attempt.seen.ok]
        ways = Counter((seen.plugin, seen.transport, seen.relayed) for seen in good)
        winner, transport, relayed = ways.most_common(1)[0][0] if ways else ("", "", False)
        return cls(
            initiator=initiator,
            responder=responder,
            mode=mode,
            count=len(attempts),
            connected=len(good),
            winner=winner,
            transport=transport,
            relayed=relayed,
            seconds=statistics.median(seen.seconds for seen in good) if good else None,
            worst=max((seen.seconds for seen in good), default=None),
            packets=round(statistics.median(attempt.packets for attempt in attempts)),
            mappings=round(statistics.median(attempt.mappings for attempt in attempts)),
            flows=round(statistics.median(attempt.flows for attempt in attempts)),
            failures=tuple(
                attempt.seen.error or "connected, but no echo came back"
                for attempt in attempts
                if not attempt.seen.ok
            ),
        )

    @property
    def entries(self) -> int:
        """Rows in the tables of all routers together: mappings and flows."""
        return self.mappings + self.flows


@dataclass(frozen=True, slots=True)
class Matrix:
    """All cells, row by row (initiators), for one mode after the other. `round_trip` (s) is that of any two hosts."""

    kinds: tuple[str, ...]
    modes: tuple[Mode, ...]
    count: int
    round_trip: float
    cells: tuple[Cell, ...]

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Matrix:
        """Raises DecodeError."""
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DecodeError(f"no matrix: {error}") from error


async def measure(
    kinds: Sequence[str] = DEFAULT_KINDS,
    modes: Sequence[Mode] = DEFAULT_MODES,
    count: int = DEFAULT_COUNT,
    *,
    relay: bool = True,
    report: Callable[[Cell], None] = lambda _: None,
) -> Matrix:
    """Every ordered pair of `kinds`, each in a lab of its own; `report` is given each cell as soon as it is known.

    `relay`: both nodes know a TURN server. Raises ConfigError for kinds that do not exist or occur twice, and where
    there can be no lab; ServiceError when a server does not start.
    """
    if len(set(kinds)) != len(kinds) or not kinds or not modes or count < 1:
        raise ConfigError("a matrix needs kinds, each once, a mode, and one connect or more a pair")
    for kind in kinds:
        kind_of(kind)
    series = _Series(tuple(modes), count, relay, report)
    pairs = [(initiator, responder) for initiator in kinds for responder in kinds]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(series.measure_pair(*pair)) for pair in pairs]
    except ExceptionGroup as errors:
        raise _first_of(errors) from None
    found = [cell for task in tasks for cell in task.result()]
    cells = tuple(cell for mode in modes for cell in found if cell.mode is mode)
    return Matrix(tuple(kinds), tuple(modes), count, ROUND_TRIP, cells)


class _Series:
    """Measures pairs, several at a time; whatever could disturb a measurement waits for `_quiet`."""

    def __init__(
        self, modes: tuple[Mode, ...], count: int, relay: bool, report: Callable[[Cell], None]
    ) -> None:
        self._modes = modes
        self._count = count
        self._relay = relay
        self._report = report
        self._quiet = asyncio.Lock()
        self._places = asyncio.Semaphore(PAIRS_AT_ONCE)

    async def measure_pair(self, initiator: str, responder: str) -> list[Cell]:
        cells = []
        async with self._places, AsyncExitStack() as stack:
            async with self._quiet:  # building a lab takes 70 ms of this very loop
                pair = await stack.enter_async_context(_pair(initiator, responder, relay=self._relay))
            for mode in self._modes:
                attempts = [await self._attempt(pair, mode) for _ in range(self._count)]
                cells.append(Cell.of(initiator, responder, mode, attempts))
                self._report(cells[-1])
            async with self._quiet:
                await stack.aclose()
        return cells

    async def _attempt(self, pair: _Pair, mode: Mode) -> Attempt:
        async with (
            asyncio.TaskGroup() as group,
            self._quiet,
        ):  # the group goes on after the others' wait is over
            await pair.fresh()
            before = pair.spent()
            connecting = group.create_task(pair.connect(mode))
            await asyncio.wait((connecting,), timeout=HEAD_START)
        after = pair.spent()
        return Attempt(
            connecting.result(), *(late - early for early, late in zip(before, after, strict=True))
        )


@dataclass(slots=True)
class _Pair:
    """Two hosts in a lab of their own; the processes in them are replaced when one hangs or dies."""

    hosts: tuple[Host, Host]
    settings: dict[str, list[str]]
    nodes: tuple[SteeredNode, ...] = ()

    async def fresh(self) -> None:
        """New nodes on new ports."""
        if not self.nodes:
            self.nodes = tuple([await SteeredNode.launch(host) for host in self.hosts])
        try:
            async with asyncio.TaskGroup() as group:
                for node in self.nodes:
                    group.create_task(node.start(**self.settings))
        except ExceptionGroup as errors:
            raise ServiceError(f"the lab's nodes did not start: {_first_of(errors)}") from errors

    async def connect(self, mode: Mode) -> Connected:
        a, b = self.nodes
        try:
            return await a.connect(b.address, mode=mode.value, timeout=TIMEOUT)
        except (ServiceError, TimeoutError, OSError) as error:
            self.nodes = ()  # the lab ends the processes
            return Connected(error=f"the initiator's process is lost: {error or 'no answer'}")

    def spent(self) -> tuple[int, int, int]:
        """So far: packets sent by the hosts, mappings and flows created in their routers."""
        routers = [router.counters() for host in self.hosts for router in host.routers]
        models = [model for router in routers for model in (router.nat, router.firewall) if model is not None]
        return (
            sum(uplink.packets_out for host in self.hosts for uplink in host.counters),
            sum(model.mappings_created for model in models),
            sum(model.flows_created for model in models),
        )


@asynccontextmanager
async def _pair(initiator: str, responder: str, *, relay: bool) -> AsyncIterator[_Pair]:
    async with Lab() as lab:
        # Two addresses: only then can a STUN server tell how NATs filter (RFC 5780).
        server = lab.add_host("server", ipv4=2)
        hosts = lab.add_host("a", behind=initiator), lab.add_host("b", behind=responder)
        broker, stun = await asyncio.gather(start_mosquitto(server), start_coturn(server))
        settings = {"brokers": [broker.mqtt_url], "stun": [str(stun.endpoint)]}
        if relay:
            settings["turn"] = [f"turn:user:password@{stun.endpoint}?transport=udp"]
        yield _Pair(hosts, settings)


def _first_of(errors: ExceptionGroup[Exception]) -> Exception:
    """Pairs fail alike when something is missing; people want one sentence."""
    first = errors.exceptions[0]
    return _first_of(first) if isinstance(first, ExceptionGroup) else first
