"""Mutation without coverage, and what counts as a finding: for where atheris does not install, and for the test-suite.

A finding is any exception but those that the decoder documents, and more time or memory than one input may cost.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# Of one input, of the processor's time: datagrams and frames are decoded on the node's only thread.
LONGEST = 0.5
# What one target's inputs may add to the most memory that the process has had. No decoder keeps anything.
MOST_MEMORY = 64 * 2**20
LONGEST_INPUT = 9000
# Numbers at which sizes and signs change.
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Target:
    """`run` takes what a stranger sent; `refuses` are the errors by which it may say no; `seeds` are genuine."""

    name: str
    run: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]
    seeds: Sequence[bytes]


class Finding(AssertionError):
    """An input that did what none may do; the cause is the exception that came out of the decoder, if one did."""

    def __init__(self, target: Target, data: bytes, what: str) -> None:
        super().__init__(f"{target.name}: {what}, by {data.hex()}")


def attempt(target: Target, data: bytes) -> None:
    """One input. Finding."""
    memory, began = _peak(), time.process_time()
    try:
        target.run(data)
    except target.refuses:
        pass
    except Exception as error:
        raise Finding(target, data, f"{type(error).__name__}: {error}") from error
    if (took := time.process_time() - began) > LONGEST:
        raise Finding(target, data, f"{took:.1f} s")
    if (grown := _peak() - memory) > MOST_MEMORY:
        raise Finding(target, data, f"{grown >> 20} MiB")


def inputs(target: Target, seed: int) -> Iterator[bytes]:
    """Without end: the seeds, and then what becomes of them. The same for the same seed."""
    yield b""
    yield from target.seeds
    rng = random.Random(f"{target.name} {seed}")
    while True:
        data = bytearray(rng.choice(target.seeds) if target.seeds and rng.random() < 0.95 else b"")
        for _ in range(rng.choice((1, 1, 2, 3, 5, 12))):
            rng.choice(_CHANGES)(rng, data, target.seeds)
        yield bytes(data[:LONGEST_INPUT])


def run_for(target: Target, seconds: float, seed: int) -> int:
    """How many inputs were tried. Finding."""
    count, until = 0, time.monotonic() + seconds
    for data in inputs(target, seed):
        attempt(target, data)
        count += 1
        if time.monotonic() > until:
            break
    return count


def _peak() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _flip(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _edge(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    number, width = rng.choice(EDGES), rng.choice((1, 2, 4))
    place = rng.randint(0, len(data))
    data[place : place + width] = (number % 256**width).to_bytes(width, rng.choice(("big", "little")))


def _cut(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    start = rng.randint(0, len(data))
    del data[start : start + rng.choice((1, 1, 2, 4, 16, len(data)))]


def _repeat(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    start = rng.randint(0, len(data))
    piece = data[start : start + rng.randint(1, 40)]
    data[start:start] = piece * rng.choice((1, 2, 10, 200))


def _noise(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    place = rng.randint(0, len(data))
    data[place:place] = rng.randbytes(rng.choice((1, 2, 4, 30)))


def _splice(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    """A part of another one, at a multiple of four as often as not: attributes and headers begin there."""
    if seeds:
        other = rng.choice(seeds)
        start = rng.randint(0, len(other)) & rng.choice((-1, -4))
        place = rng.randint(0, len(data)) & rng.choice((-1, -4))
        data[place:place] = other[start : start + rng.randint(1, 60)]


_CHANGES: tuple[Callable[[random.Random, bytearray, Sequence[bytes]], None], ...] = (
    _flip,
    _edge,
    _cut,
    _repeat,
    _noise,
    _splice,
)
