"""Answers about services as resolvers give them, and as whoever likes to lead others astray would."""

from __future__ import annotations

import random
import struct
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpgate.errors import DecodeError
from warpgate.proto.dns_srv import (
    LARGEST_ANSWER,
    MOST_RECORDS,
    MOST_TARGETS,
    ResolverFailed,
    ServiceTarget,
    Truncated,
    by_priority,
    decode_answer,
    encode_question,
)

ID = b"\x12\x34"
NAME = "_turn._udp.example.org"
WITHIN = b"\xc0\x0c"  # the question's name


def wire(name: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"


def record(target: bytes, port: int = 3478, priority: int = 10, weight: int = 5, owner: bytes = WITHIN) -> bytes:
    data = struct.pack("!HHH", priority, weight, port) + target
    return owner + struct.pack("!HHIH", 33, 1, 300, len(data)) + data


def answer(
    *records: bytes, flags: int = 0x8180, name: str = NAME, count: int | None = None, message_id: bytes = ID
) -> bytes:
    head = message_id + struct.pack("!HHHHH", flags, 1, len(records) if count is None else count, 0, 0)
    return head + wire(name) + struct.pack("!HH", 33, 1) + b"".join(records)


def test_a_question() -> None:
    """RFC 1035 section 4.1, with the option of RFC 6891."""
    assert encode_question(ID, NAME).hex() == (
        "1234 0100 0001 0000 0000 0001 055f7475726e 045f756470 076578616d706c65 036f7267 00 0021 0001"
        "00 0029 04d0 00000000 0000"
    ).replace(" ", "")


@pytest.mark.parametrize("host", ["*", "127.0.0.1\0.example", "\x1b[2J.example", "a b.example", "fe80::1%eth0", "ü.x"])
def test_a_target_that_is_no_host_name(host: str) -> None:
    """Resolvers read loopback out of the first two."""
    with pytest.raises(DecodeError, match="no host has"):
        decode_answer(answer(record(wire(host))), ID, NAME)


def test_an_answer() -> None:
    data = answer(record(wire("r1.Example.org")), record(wire("r2.example.org"), 443, 20, 0))
    assert decode_answer(data, ID, NAME) == (
        ServiceTarget(10, 5, 3478, "r1.example.org"),
        ServiceTarget(20, 0, 443, "r2.example.org"),
    )
    assert decode_answer(answer(), ID, NAME) == ()
    assert decode_answer(answer(flags=0x8183), ID, NAME) == (), "NXDOMAIN"


def test_an_alias() -> None:
    elsewhere = wire("_turn._udp.provider.example")
    alias = WITHIN + struct.pack("!HHIH", 5, 1, 300, len(elsewhere)) + elsewhere
    found = decode_answer(answer(alias, record(wire("r.provider.example"), owner=elsewhere)), ID, NAME)
    assert [target.host for target in found] == ["r.provider.example"]
    assert decode_answer(answer(record(wire("r.provider.example"), owner=elsewhere)), ID, NAME) == ()
    circle = WITHIN + struct.pack("!HHIH", 5, 1, 300, 2) + WITHIN
    assert decode_answer(answer(circle), ID, NAME) == ()


def test_what_the_resolver_says_of_itself() -> None:
    with pytest.raises(ResolverFailed, match="error 2"):
        decode_answer(answer(flags=0x8182), ID, NAME)
    with pytest.raises(Truncated):
        decode_answer(answer(flags=0x8380), ID, NAME)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        answer(message_id=b"\x12\x35"),
        answer(flags=0x0100),
        answer(name="_turn._udp.example.net"),
        answer()[:-4] + struct.pack("!HH", 1, 1),
        answer(count=1),
        answer(record(wire("r.example.org"))[:-3]),
        answer(record(b"\xc0\xff")),
        answer(record(struct.pack("!H", 0xC000 + 12 + len(wire(NAME)) + 4 + 12 + 6))),
        answer(record(b"\x80abc\0")),
        answer(record(b"\x03a.b\0")),
        answer(record(b"\x01\xff\0")),
        answer(record((b"\x3f" + b"a" * 63) * 5 + b"\0")),
        answer(*[record(wire("r.example.org"))] * 600),
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_answer(data, ID, NAME)


def test_thousands_of_records_are_some() -> None:
    many = answer(*(record(WITHIN, port) for port in range(1, 600)))
    assert len(many) < LARGEST_ANSWER
    found = decode_answer(many, ID, NAME)
    assert len(found) == MOST_RECORDS
    assert len(by_priority(found, random.Random(1).uniform)) == MOST_TARGETS


def test_pointers_do_not_make_it_slow() -> None:
    """Names of pointers to pointers to pointers lead astray; so does what points forwards."""
    chain, start = record(WITHIN), len(answer())
    while len(chain) < 1000:
        chain += record(struct.pack("!H", 0xC000 | start + len(chain) - 2))
    with pytest.raises(DecodeError, match="astray"):
        decode_answer(answer(chain, count=50), ID, NAME)


@given(st.binary(max_size=200), st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_garbage(data: bytes, kept: int) -> None:
    for garbage in (data, answer(record(wire("r.example.org")))[: kept + 12] + data, answer(data, count=3)):
        try:
            found = decode_answer(garbage, ID, NAME)
        except (DecodeError, Truncated):
            continue
        assert len(found) <= MOST_RECORDS


@pytest.mark.parametrize("name", ["a..b", "a" * 64 + ".b", ".".join(["a" * 60] * 5)])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(DecodeError):
        encode_question(ID, name)


def test_the_order_is_by_priority_then_by_weight() -> None:
    targets = [
        ServiceTarget(20, 100, 1, "spare"),
        ServiceTarget(10, 30, 1, "large"),
        ServiceTarget(10, 10, 1, "small"),
        ServiceTarget(0, 0, 0, "portless"),
        ServiceTarget(0, 0, 1, ""),
    ]
    draw = random.Random(1).uniform
    orders = [tuple(target.host for target in by_priority(targets, draw)) for _ in range(1000)]
    assert {order[2] for order in orders} == {"spare"}
    assert 700 < Counter(order[0] for order in orders)["large"] < 800
