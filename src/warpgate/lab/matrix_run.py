"""Measuring a pair matrix: which strategy connects a host of each kind to a host of each other kind, and at what cost.

    matrix = await measure(Design(("eim", "edm"), (), (Ask.DATAGRAM,), 3, True, 15.0), report=print)

Every attempt is made by real nodes in namespaces, new ones on new ports, so that no mapping of an earlier attempt
helps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from warpgate.config import Timing
from warpgate.errors import ConfigError, ServiceError
from warpgate.lab.host import Host
from warpgate.lab.kinds import kind_of
from warpgate.lab.line import Quality
from warpgate.lab.matrix import Ask, Attempt, Cell, Design, Matrix, Place, Spent
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.steered import Connected, SteeredNode
from warpgate.lab.theory import Crossing
from warpgate.lab.topology import Lab
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, Family

DEFAULT_KINDS: Final = (
    "public",
    "firewalled",
    "eim-eif",
    "eim-adf",
    "eim-apdf",
    "eim-apdf+rst",
    "masquerade",
    "masquerade+accept",
    "cgn",
    "adm",
    "edm-seq",
    "edm-busy",
    "edm-peraddr",
    "edm-block",
    "mape",
    "edm-parity",
    "edm-pool",
    "edm",
    "udp-blocked",
    "only-443",
)
# Nothing is translated in IPv6: what differs is the filter.
DEFAULT_KINDS6: Final = (
    "public",
    "firewalled-eif",
    "firewalled-adf",
    "firewalled",
    "firewalled+rst",
    "firewalled+noudp",
)
DEFAULT_ASKS: Final = (Ask.DATAGRAM, Ask.TCP)
DEFAULT_COUNT: Final = 3
ROUND_TRIP: Final = 4 * Quality().delay  # out and back, over two hosts' lines each way
# What a user waits at most (Timing.attempt_timeout).
TIMEOUT: Final = 20.0
# Where a port has to be guessed the matrix asks whether that can be done, and lets a relay wait for it; a user who
# would rather have the relay soon gets it after the default.
RELAY_PATIENCE: Final = 15.0
DEFAULT_PATIENCE: Final = Timing().relay_patience
# A search is won nineteen times in twenty, so among a hundred pairs that need one, some do not win most of three: such
# a pair connects so many times as often again.
MORE: Final = 2
# An address that somebody copies is never younger: two round trips to see the mapping, three for a block's samples.
FINGERPRINTED: Final = 0.5
# Attempts begin one at a time, or they would disturb each other's clocks. One that takes longer than this is no
# longer a matter of milliseconds: others may begin beside it, or the pairs that fail would take most of the time.
HEAD_START: Final = 1.2
# Labs at once; each has four namespaces and four processes.
PAIRS_AT_ONCE: Final = 6
STRICT_PORT: Final = 443  # where even the strictest router lets through: there are the broker, and TURN over TLS


async def measure(
    design: Design,
    *,
    known: Iterable[Cell] = (),
    report: Callable[[Cell], None] = lambda _: None,
) -> Matrix:
    """Every place of the design, each pair in a lab of its own; `report` is given each cell as soon as it is known.

    `known`: cells of an earlier run, which are taken as they are. Raises ConfigError for kinds that do not exist or
    occur twice, and where there can be no lab; ServiceError when a server does not start.
    """
    _check(design)
    cells = list(known)
    measured = {cell.place for cell in cells}
    missing: dict[tuple[Family, str, str], list[Ask]] = {}
    for place in design.places():
        if place not in measured:
            missing.setdefault((place.family, place.initiator, place.responder), []).append(place.ask)
    series = _Series(design, report)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(series.measure_pair(*pair, asks)) for pair, asks in missing.items()]
    except ExceptionGroup as errors:
        raise _first_of(errors) from None
    return Matrix.of(design, ROUND_TRIP, [*cells, *(cell for task in tasks for cell in task.result())])


def _check(design: Design) -> None:
    twice = any(len(set(kinds)) != len(kinds) for kinds in (design.kinds, design.kinds6))
    if twice or not design.panels or design.count < 1:
        raise ConfigError("a matrix needs kinds, each once, something to ask for, and a connect a pair or more")
    for kind in (*design.kinds, *design.kinds6):
        kind_of(kind)


class _Series:
    """Measures pairs, several at a time: one attempt is in its first moments (`_quiet`), and one other pair gets ready
    for its own (`_readying`), which is mostly waiting for servers.
    """

    def __init__(self, design: Design, report: Callable[[Cell], None]) -> None:
        self._design = design
        self._report = report
        self._quiet = asyncio.Lock()
        self._readying = asyncio.Lock()
        self._places = asyncio.Semaphore(PAIRS_AT_ONCE)

    async def measure_pair(self, family: Family, initiator: str, responder: str, asks: Sequence[Ask]) -> list[Cell]:
        cells = []
        async with self._places, AsyncExitStack() as stack:
            async with self._readying:
                pair = await stack.enter_async_context(_pair(self._design, self._quiet, family, initiator, responder))
            for ask in asks:
                place = Place(family, ask, initiator, responder)
                cells.append(Cell.of(place, await self._attempts(pair, place)))
                self._report(cells[-1])
            async with self._quiet:
                await stack.aclose()
        return cells

    async def _attempts(self, pair: _Pair, place: Place) -> list[Attempt]:
        attempts = [await self._attempt(pair, place) for _ in range(self._design.count)]
        if place.expected is Crossing.GUESS and Cell.of(place, attempts).problems(relay=self._design.relay):
            attempts += [await self._attempt(pair, place) for _ in range(MORE * self._design.count)]
        return attempts

    async def _attempt(self, pair: _Pair, place: Place) -> Attempt:
        guessing = place.expected is Crossing.GUESS
        async with self._readying:
            await pair.fresh(self._design.relay_patience if guessing else DEFAULT_PATIENCE)
        await asyncio.sleep(FINGERPRINTED)
        # The group goes on after the others' wait is over.
        async with asyncio.TaskGroup() as group, self._quiet:
            address = await pair.address()
            before = pair.spent()
            connecting = group.create_task(pair.connect(address, place.ask))
            await asyncio.wait((connecting,), timeout=HEAD_START)
        after = pair.spent()
        return Attempt(connecting.result(), *(late.since(early) for early, late in zip(before, after, strict=True)))


@dataclass(slots=True)
class _Pair:
    """Two hosts in a lab of their own; the processes in them are replaced when one hangs or dies."""

    hosts: tuple[Host, Host]
    settings: dict[str, Any]
    nodes: tuple[SteeredNode, ...] = ()

    async def fresh(self, relay_patience: float) -> None:
        """New nodes on new ports."""
        settings = {**self.settings, "timing": {"relay_patience": relay_patience}}
        if not self.nodes:
            self.nodes = tuple([await SteeredNode.launch(host) for host in self.hosts])
        try:
            async with asyncio.TaskGroup() as group:
                for node in self.nodes:
                    group.create_task(node.start(**settings))
        except ExceptionGroup as errors:
            raise ServiceError(f"the lab's nodes did not start: {_first_of(errors)}") from errors

    async def address(self) -> str:
        """The responder's, with what it has learnt of its NAT by now."""
        await self.nodes[1].refresh()
        return self.nodes[1].address

    async def connect(self, address: str, ask: Ask) -> Connected:
        transport = ask.transport.value if ask.transport else None
        try:
            return await self.nodes[0].connect(address, mode=ask.mode.value, transport=transport, timeout=TIMEOUT)
        except (ServiceError, TimeoutError, OSError) as error:
            self.nodes = ()  # the lab ends the processes
            return Connected(error=f"the initiator's process is lost: {error or 'no answer'}")

    def spent(self) -> tuple[Spent, Spent]:
        """So far, at the initiator's site and at the responder's."""
        one, other = self.hosts
        return _spent(one), _spent(other)


def _spent(host: Host) -> Spent:
    routers = [router.counters() for router in host.routers]
    models = [model for router in routers for model in (router.nat, router.firewall) if model is not None]
    return Spent(
        packets=sum(uplink.packets_out for uplink in host.counters),
        mappings=sum(model.mappings_created for model in models),
        flows=sum(model.flows_created for model in models),
    )


@asynccontextmanager
async def _pair(
    design: Design, quiet: asyncio.Lock, family: Family, initiator: str, responder: str
) -> AsyncIterator[_Pair]:
    """Building takes 70 ms of this very loop, in which no packet moves: not while an attempt is measured."""
    async with Lab() as lab:

        def add(name: str, behind: str = "public", addresses: int = 1) -> Host:
            ipv4, ipv6 = (addresses, 0) if family is Family.V4 else (0, addresses)
            return lab.add_host(name, behind, ipv4=ipv4, ipv6=ipv6)

        async with quiet:
            broker_host = add("broker")
            # Two addresses: only then can a STUN server tell how NATs filter (RFC 5780).
            server_host = add("server", addresses=2)
            hosts = add("a", initiator), add("b", responder)
        broker, server = await asyncio.gather(
            start_mosquitto(broker_host, STRICT_PORT), start_coturn(server_host, tls_port=STRICT_PORT)
        )
        settings: dict[str, Any] = {
            "brokers": [broker.mqtt_url],
            "stun": [str(server.endpoint)],
        }
        if design.relay:
            tls = Endpoint(server.endpoint.ip, STRICT_PORT)
            settings["turn"] = [f"turn:user:password@{server.endpoint}", f"turns:user:password@{tls}"]
            settings["ca_file"] = str(server.certificate)
        yield _Pair(hosts, settings)


def _first_of(errors: ExceptionGroup[Exception]) -> Exception:
    """Pairs fail alike when something is missing; people want one sentence."""
    first = errors.exceptions[0]
    return _first_of(first) if isinstance(first, ExceptionGroup) else first
