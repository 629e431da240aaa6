"""Service records in DNS (RFC 2782): one question, and what of an answer can be used. Values and bytes only.

Anybody on the way, and the owner of the zone, says what he likes: an answer is bounded in records, in steps through its
compressed names, and in what is kept of it. Where the targets lead is judged by who dials them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

from warpgate.errors import DecodeError
from warpgate.lazy_dataclass import dataclass

ID_SIZE = 2
# RFC 6891 section 6.2.5, and DNS Flag Day 2020: what passes without fragments.
LARGEST_DATAGRAM = 1232
# Of an answer over TCP: sixty records with names of 200 bytes. What is longer is no fleet's.
LARGEST_ANSWER = 16 * 1024
MOST_RECORDS = 64
MOST_ALIASES = 8
# Of those, who are tried in the end (`net/reach.py` takes eight addresses).
MOST_TARGETS = 4
_HEAD = struct.Struct("!HHHHHH")
_FIXED = struct.Struct("!HHIH")
_SRV_HEAD = struct.Struct("!HHH")
_IN, _CNAME, _SRV, _OPT = 1, 5, 33, 41
_QUERY = 0x0100  # recursion desired
_RESPONSE, _TRUNCATED, _CODE = 0x8000, 0x0200, 0x000F
_NXDOMAIN = 3
_POINTER = 0xC0
_MOST_JUMPS = 16
_LONGEST_NAME = 255
_LONGEST_LABEL = 63
_LABEL = re.compile(rb"[A-Za-z0-9_-]+")  # of hosts and services; resolvers read more out of other characters


@dataclass(frozen=True, slots=True)
class ServiceTarget:
    """`host` in lower case; "" where the owner says that there is no such service."""

    priority: int
    weight: int
    port: int
    host: str


class Truncated(Exception):
    """The answer is longer than a datagram: ask over TCP."""


class ResolverFailed(DecodeError):
    """The resolver's own word that it has no answer (RFC 1035 section 4.1.1, RCODE)."""


def encode_question(message_id: bytes, name: str) -> bytes:
    """A datagram; over TCP its length goes in front (RFC 1035 section 4.2.2). DecodeError for no name of DNS."""
    (number,) = struct.unpack("!H", message_id)
    head = _HEAD.pack(number, _QUERY, 1, 0, 0, 1)
    option = b"\0" + struct.pack("!HHIH", _OPT, LARGEST_DATAGRAM, 0, 0)
    return head + _name(name) + struct.pack("!HH", _SRV, _IN) + option


def decode_answer(data: bytes, message_id: bytes, name: str) -> tuple[ServiceTarget, ...]:
    """What it says of `name`, () when there is nothing. DecodeError for what is no answer to this
    question, ResolverFailed; Truncated.

    Aliases are followed within the answer, as resolvers give them.
    """
    if len(data) < _HEAD.size or len(data) > LARGEST_ANSWER:
        raise DecodeError(f"no DNS message has {len(data)} bytes")
    number, flags, questions, answers, _, _ = _HEAD.unpack_from(data)
    if number.to_bytes(ID_SIZE, "big") != message_id or not flags & _RESPONSE or questions != 1:
        raise DecodeError("no answer to this question")
    asked, at = _read_name(data, _HEAD.size)
    if asked != name.lower().rstrip(".") or data[at : at + 4] != struct.pack("!HH", _SRV, _IN):
        raise DecodeError("an answer to another question")
    if flags & _TRUNCATED:
        raise Truncated
    if flags & _CODE == _NXDOMAIN:
        return ()
    if flags & _CODE:
        raise ResolverFailed(f"the resolver answers with error {flags & _CODE}")
    return _targets(asked, list(_records(data, at + 4, min(answers, MOST_RECORDS))), data)


def by_priority(targets: Iterable[ServiceTarget], draw: Callable[[float, float], float]) -> tuple[ServiceTarget, ...]:
    """Whom to try, in order: by priority, and within one at random by weight (RFC 2782, "Usage rules").

    `draw` gives a number by chance from the first to the second.
    """
    ordered: list[ServiceTarget] = []
    waiting = sorted((target for target in targets if target.host and target.port), key=lambda each: each.priority)
    while waiting and len(ordered) < MOST_TARGETS:
        first = [target for target in waiting if target.priority == waiting[0].priority]
        first.sort(key=lambda each: each.weight > 0)
        chosen = draw(0, sum(target.weight for target in first))
        for target in first:
            chosen -= target.weight
            if chosen <= 0:
                break
        ordered.append(target)
        waiting.remove(target)
    return tuple(ordered)


def _targets(asked: str, records: Sequence[tuple[str, int, int, int]], data: bytes) -> tuple[ServiceTarget, ...]:
    aliases = {owner: place for owner, kind, place, _ in records if kind == _CNAME}
    name = asked
    for _ in range(MOST_ALIASES):
        if name not in aliases:
            break
        name = _read_name(data, aliases[name])[0]
    found: dict[ServiceTarget, None] = {}
    for owner, kind, place, size in records:
        if kind == _SRV and owner == name and size > _SRV_HEAD.size:
            priority, weight, port = _SRV_HEAD.unpack_from(data, place)
            host, _ = _read_name(data, place + _SRV_HEAD.size)
            found[ServiceTarget(priority, weight, port, host)] = None
    return tuple(found)


def _records(data: bytes, at: int, count: int) -> Iterator[tuple[str, int, int, int]]:
    """Owner, type, and where its data are and how long, of those of the internet."""
    for _ in range(count):
        owner, at = _read_name(data, at)
        if at + _FIXED.size > len(data):
            raise DecodeError("a DNS record ends early")
        kind, of, _, size = _FIXED.unpack_from(data, at)
        at += _FIXED.size
        if at + size > len(data):
            raise DecodeError("a DNS record ends early")
        if of == _IN:
            yield owner, kind, at, size
        at += size


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    """The name in lower case without its last dot, and what follows it. RFC 1035 section 4.1.4: pointers lead back."""
    labels: list[str] = []
    end, jumps, length = 0, 0, 0
    while True:
        if at >= len(data):
            raise DecodeError("a DNS name ends early")
        size = data[at]
        if size >= _POINTER:
            if at + 1 >= len(data) or jumps >= _MOST_JUMPS:
                raise DecodeError("a DNS name leads astray")
            to = (size - _POINTER) << 8 | data[at + 1]
            if to >= at:
                raise DecodeError("a DNS name leads astray")
            end, jumps, at = end or at + 2, jumps + 1, to
            continue
        if size > _LONGEST_LABEL:
            raise DecodeError("a DNS label of no known kind")
        length += size + 1
        if length > _LONGEST_NAME or at + 1 + size > len(data):
            raise DecodeError("a DNS name is too long")
        if not size:
            return ".".join(labels), end or at + 1
        label = data[at + 1 : at + 1 + size]
        if _LABEL.fullmatch(label) is None:
            raise DecodeError("a DNS label that no host has")
        labels.append(label.decode("ascii").lower())
        at += 1 + size


def _name(text: str) -> bytes:
    labels = text.rstrip(".").encode("ascii", "replace").split(b".")
    if not all(0 < len(label) <= _LONGEST_LABEL for label in labels) or len(text) > _LONGEST_NAME - 2:
        raise DecodeError(f"{text[:80]!r} is no name of DNS")
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
