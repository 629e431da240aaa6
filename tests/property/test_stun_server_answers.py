"""Whatever is sent to the STUN server: an answer is a well-formed one of Binding, and never much larger."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from strategies import fixed, mutated, stun_messages

from warpgate.model.endpoint import Endpoint
from warpgate.proto.stun import BINDING, Attribute, StunClass, StunMessage, decode, encode
from warpgate.proto.stun_server import LARGEST_SURPLUS, StunServer

A, B = Endpoint.of("198.51.100.1", 3478), Endpoint.of("198.51.100.2", 3479)
A6, B6 = Endpoint.of("2001:db8::1", 3478), Endpoint.of("2001:db8::2", 3479)
SOURCES = {A: Endpoint.of("203.0.113.9", 40000), A6: Endpoint.of("2001:db8:9::9", 40000)}

raw_attributes = st.lists(
    st.tuples(
        st.sampled_from([
            Attribute.CHANGE_REQUEST,
            Attribute.PADDING,
            Attribute.RESPONSE_PORT,
            Attribute.PRIORITY,
            0x0033,
            0x7FFE,
            0xC123,
        ]),
        st.binary(max_size=40),
    ),
    max_size=70,
)  # fmt: skip


def framed(attributes: list[tuple[int, bytes]]) -> bytes:
    body = b"".join(
        number.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
        for number, value in attributes
    )
    return b"\x00\x01" + len(body).to_bytes(2, "big") + bytes.fromhex("2112a442") + bytes(12) + body


requests = raw_attributes.map(framed)
plain = encode(StunMessage(BINDING, StunClass.REQUEST, bytes(12)), fingerprint=True)


@fixed
@given(
    st.binary(max_size=100) | requests | mutated(requests) | mutated(st.just(plain)) | stun_messages.map(encode),
    st.sampled_from([A, A6]),
    st.booleans(),
)
def test_answers_are_small_and_well_formed(data: bytes, local: Endpoint, paired: bool) -> None:
    other = (B if local is A else B6) if paired else None
    server = StunServer({local: other}, 0.0, salt=b"s")
    found = server.receive(data, local, SOURCES[local], 0.0)
    frame = server.receive_frame(data, local, SOURCES[local], 0.0)
    assert (found is None) == (frame is None)
    for answer in (found.data if found else None, frame):
        if answer is None:
            continue
        assert len(answer) <= len(data) + LARGEST_SURPLUS
        message = decode(answer)
        assert message.method == BINDING
        assert message.cls in (StunClass.SUCCESS, StunClass.ERROR)
        assert message.transaction_id == data[8:20]
        assert Attribute.SOFTWARE not in message
    if found is not None:
        assert found.remote.ip == SOURCES[local].ip
        assert found.origin in (local, other) or found.origin.ip in (local.ip, other and other.ip)


def test_many_of_these_are_answered() -> None:
    """The property above means something only if much of what it tries is a request."""
    server = StunServer({A: B}, 0.0, salt=b"s")
    for data in (framed([]), framed([(Attribute.PADDING, b"x" * 40)]), framed([(0x0033, b"")]), plain):
        assert server.receive(data, A, SOURCES[A], 0.0) is not None
