"""Which external ports a router tries for a new mapping, in order (RFC 4787 section 4.2). Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.model.nat import Assignment, PortAssignment

FIRST_DYNAMIC: Final = 1024
LAST: Final = 65535
# Random draws before falling back to a scan: at half-full tables one in 2**16 new mappings scans.
RANDOM_DRAWS: Final = 16


class PortChooser:
    """Yields candidate ports; the caller takes the first that is free. Remembers the counts and the hosts' blocks."""

    def __init__(self, assignment: PortAssignment, block_size: int, others: int, rng: random.Random) -> None:
        self._assignment = assignment
        self._block_size = block_size
        self._others = others
        self._rng = rng
        self._last: dict[object, int] = {}
        self._blocks: dict[IPAddress, tuple[int, int]] = {}
        self._sets: dict[IPAddress, tuple[int, ...]] = {}

    def candidates(self, inside: Endpoint, external: IPAddress, remote: IPAddress) -> Iterator[int]:
        ports = self._candidates(inside, external, remote)
        if self._assignment.parity:
            return (port for port in ports if port & 1 == inside.port & 1)
        return ports

    def _candidates(self, inside: Endpoint, external: IPAddress, remote: IPAddress) -> Iterator[int]:
        kind = self._assignment.kind
        if kind is Assignment.PRESERVING:
            return self._preserving(inside.port)
        if kind is Assignment.SEQUENTIAL:
            return self._sequential(external)
        if kind is Assignment.PER_ADDRESS:
            return self._sequential((external, remote))
        if kind is Assignment.BLOCK and self._assignment.fixed:
            return self._of_set(self.set_of(inside.ip))
        if kind is Assignment.BLOCK:
            return self._shuffled(*self.block_of(inside.ip))
        return self._shuffled(FIRST_DYNAMIC, LAST)

    def set_of(self, host: IPAddress) -> tuple[int, ...]:
        """The port set that mappings of this inside host come from: all ports with its number in the `fixed` bits.

        RFC 7597 section 5.1: the run that the bits before the number begin with zeros is nobody's.
        """
        if host not in self._sets:
            fixed = self._assignment.fixed
            number = self._rng.getrandbits(16) & fixed
            first = 1 << fixed.bit_length()
            self._sets[host] = tuple(port for port in range(first, LAST + 1) if port & fixed == number)
        return self._sets[host]

    def block_of(self, host: IPAddress) -> tuple[int, int]:
        """The port block (low, high, inclusive) that mappings of this inside host come from."""
        if self._assignment.high:
            return self._assignment.low, self._assignment.high
        if host not in self._blocks:
            size = self._block_size
            start = FIRST_DYNAMIC + size * self._rng.randrange((LAST + 1 - FIRST_DYNAMIC) // size)
            self._blocks[host] = (start, start + size - 1)
        return self._blocks[host]

    def _preserving(self, port: int) -> Iterator[int]:
        yield port
        # Linux (nf_nat_l4proto_unique_tuple) keeps to the class of the port: below 512, below 1024, the
        # rest.
        if port < 512:
            yield from self._shuffled(1, 511)
        elif port < FIRST_DYNAMIC:
            yield from self._shuffled(600, 1023)
        else:
            yield from self._shuffled(FIRST_DYNAMIC, LAST)

    def _sequential(self, counter: object) -> Iterator[int]:
        span = LAST + 1 - FIRST_DYNAMIC
        for _ in range(span):
            last = self._last.get(counter)
            if last is None:
                port = self._rng.randrange(FIRST_DYNAMIC, LAST + 1)
            else:
                steps = 1 + (self._rng.randint(0, self._others) if self._others else 0)
                port = (last - FIRST_DYNAMIC + steps * self._assignment.step) % span + FIRST_DYNAMIC
            self._last[counter] = port
            yield port

    def _of_set(self, ports: tuple[int, ...]) -> Iterator[int]:
        for _ in range(RANDOM_DRAWS):
            yield self._rng.choice(ports)
        start = self._rng.randrange(len(ports))
        yield from ports[start:] + ports[:start]

    def _shuffled(self, low: int, high: int) -> Iterator[int]:
        for _ in range(RANDOM_DRAWS):
            yield self._rng.randint(low, high)
        size = high - low + 1
        start = self._rng.randrange(size)
        for offset in range(size):
            yield low + (start + offset) % size
