"""What is on the streams of durable pipes, and datagrams on a byte stream, cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.errors import DecodeError
from warpgate.model.address import MAX_ADDRESS_SIZE
from warpgate.proto.channel_wire import (
    ALL,
    MAX_REASON,
    NOT_TAKEN,
    TAKEN,
    CreditReader,
    NewsReader,
    PipeHeadReader,
    ReplyReader,
    begins_datagrams,
    decode_datagram,
    encode_credit,
    encode_datagram,
    encode_pipe_head,
    encode_refusal,
)
from warpgate.proto.datagram_frames import LARGEST, SMALLEST, FrameReader, encode_frame
from warpgate.proto.quic_wire import encode_integer

numbers = st.integers(0, ALL)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The same bytes in pieces."""
    at = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


cuts = st.lists(st.integers(0, 10_000), max_size=8)


@given(st.lists(st.tuples(numbers, numbers), max_size=8), cuts)
def test_credit(said: list[tuple[int, int]], places: list[int]) -> None:
    reader, data = CreditReader(), b"".join(encode_credit(*each) for each in said)
    assert [found for piece in cut(data, places) for found in reader.feed(piece)] == said


@given(st.lists(st.binary(min_size=1, max_size=MAX_ADDRESS_SIZE), max_size=4), cuts)
def test_news(addresses: list[bytes], places: list[int]) -> None:
    reader, data = NewsReader(), b"".join(map(encode_frame, addresses))
    assert [found for piece in cut(data, places) for found in reader.feed(piece)] == addresses


@pytest.mark.parametrize("size", [0, MAX_ADDRESS_SIZE + 1, 0xFFFF])
def test_news_of_an_impossible_size(size: int) -> None:
    with pytest.raises(DecodeError):
        NewsReader().feed(size.to_bytes(2, "big") + b"...")


@given(st.sampled_from(["", "ssh", "ä" * 16]), st.booleans(), st.binary(max_size=50), cuts)
def test_the_head_of_a_pipe(service: str, datagrams: bool, rest: bytes, places: list[int]) -> None:
    reader, head = PipeHeadReader(), encode_pipe_head(service, datagrams=datagrams)
    assert begins_datagrams(head) is datagrams
    assert b"".join(map(reader.feed, cut(head + rest, places))) == rest
    assert reader.service == service


@given(st.integers(0, (1 << 62) - 1), st.binary(max_size=50))
def test_a_datagram_of_a_pipe(stream: int, data: bytes) -> None:
    assert decode_datagram(encode_datagram(stream, data)) == (stream, data)


@pytest.mark.parametrize(  # RFC 9000 appendix A.1
    ("octets", "value"),
    [
        ("c2197c5eff14e88c", 151288809941952652),
        ("9d7f3e7d", 494878333),
        ("7bbd", 15293),
        ("25", 37),
        ("4025", 37),
    ],
)
def test_integers_of_quic(octets: str, value: int) -> None:
    assert decode_datagram(bytes.fromhex(octets) + b"x") == (value, b"x")
    assert octets == "4025" or encode_integer(value).hex() == octets


@pytest.mark.parametrize("frame", [b"", b"\x40", b"\x80\0\0", b"\xc0" + bytes(6)])
def test_a_datagram_that_is_of_no_pipe(frame: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_datagram(frame)


def test_an_integer_that_is_none_of_quic() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode_integer(1 << 62)


@pytest.mark.parametrize(
    "head", [b"\x21" + b"a" * 33, b"\xa1" + b"a" * 33, b"\xff", b"\x03a b", b"\x02\xff\xfe", b"\x01\n"]
)
def test_a_head_that_names_no_service(head: bytes) -> None:
    with pytest.raises(DecodeError):
        PipeHeadReader().feed(head)


@given(st.binary(max_size=50), cuts)
def test_a_pipe_that_is_taken(rest: bytes, places: list[int]) -> None:
    reader = ReplyReader()
    assert b"".join(map(reader.feed, cut(TAKEN + rest, places))) == rest
    assert reader.taken


def test_a_pipe_that_is_not_taken() -> None:
    reader = ReplyReader()
    assert reader.feed(NOT_TAKEN) == b""
    assert reader.feed(b"no \x1b[31mssh here" + b"!" * 1000) == b""
    assert reader.taken is False
    assert "\x1b" not in reader.reason
    assert len(reader.reason) <= 2 * MAX_REASON
    assert len(encode_refusal("x" * 1000)) == 1 + MAX_REASON
    with pytest.raises(DecodeError):
        ReplyReader().feed(b"\x02")


@given(st.lists(st.binary(min_size=SMALLEST, max_size=LARGEST), max_size=6), cuts)
def test_datagrams_on_a_byte_stream(datagrams: list[bytes], places: list[int]) -> None:
    reader, data = FrameReader(), b"".join(map(encode_frame, datagrams))
    assert [found for piece in cut(data, places) for found in reader.feed(piece)] == datagrams


@pytest.mark.parametrize("size", [0, 1, SMALLEST - 1, LARGEST + 1, 0xFFFF])
def test_a_frame_that_holds_no_packet_is_an_error_at_its_size(size: int) -> None:
    with pytest.raises(DecodeError, match=f"datagram of {size} bytes"):
        FrameReader().feed(size.to_bytes(2, "big"))
