from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.errors import ProtocolError, ServiceError
from warpgate.proto.http_tunnel import ConnectReader, connect_request
from warpgate.proto.websocket import BINARY, MOST_FRAMES, PING, PONG, WebSocketReader, frame, upgrade

NONCE = b"the sample nonce"
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)


def opened() -> WebSocketReader:
    reader = WebSocketReader(NONCE, "mqtt")
    assert reader.receive(ANSWER) == b""
    assert reader.open
    return reader


def served(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """A frame of a server's: not masked."""
    size = len(payload)
    if size < 126:
        length = bytes((size,))
    else:
        length = b"\x7e" + size.to_bytes(2, "big") if size < 1 << 16 else b"\x7f" + size.to_bytes(8, "big")
    return bytes((final << 7 | opcode,)) + length + payload


def test_the_key_of_the_rfc() -> None:
    """RFC 6455 section 1.3."""
    request = upgrade("server.example.com", "/chat", NONCE, "mqtt")
    assert b"\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" in request
    assert request.startswith(b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\n")
    opened()


def test_a_masked_frame_of_the_rfc() -> None:
    """RFC 6455 section 5.7: "Hello", there as text."""
    assert frame(1, b"Hello", bytes.fromhex("37fa213d")) == bytes.fromhex("818537fa213d7f9f4d5158")


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 100_001])
def test_frames_of_every_length(size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    payload = payload[:size]
    masked = frame(BINARY, payload, b"\x00\x00\x00\x00")
    assert masked.endswith(payload)
    assert opened().receive(served(BINARY, payload)) == payload


@given(st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=8), st.lists(st.integers(1, 80)))
def test_the_payload_is_the_same_however_it_is_cut(messages: list[tuple[bytes, bool]], cuts: list[int]) -> None:
    stream = ANSWER
    for payload, split in messages:
        if split:
            stream += served(BINARY, payload[:7], final=False) + served(PING, b"in between")
            stream += served(0, payload[7:])
        else:
            stream += served(BINARY, payload)
    reader, found = WebSocketReader(NONCE, "mqtt"), b""
    for cut in cuts:
        found += reader.receive(stream[:cut])
        stream = stream[cut:]
    assert found + reader.receive(stream) == b"".join(payload for payload, _ in messages)


@given(st.binary(max_size=400), st.booleans())
def test_garbage_has_one_error(data: bytes, is_open: bool) -> None:
    reader = opened() if is_open else WebSocketReader(NONCE, "mqtt")
    with suppress(ProtocolError):
        reader.receive(data)
    assert len(reader._held) <= max(len(data), 131)


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (b"101 Switching Protocols", b"200 OK"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"HTTP/1.1", b"\x20\x02\x00\x00"),
        (ACCEPT, b"AAAA"),
        (b"Upgrade: WebSocket", b"Upgrade: h2c"),
        (b"keep-alive, Upgrade", b"close"),
        (b"mqtt", b"chat"),
        (b"Sec-WebSocket-Protocol: mqtt", b"Sec-WebSocket-Extensions: permessage-deflate"),
        (b"Sec-WebSocket-Protocol: mqtt", b"a field without a colon"),
    ],
)
def test_an_answer_that_opens_no_websocket(was: bytes, becomes: bytes) -> None:
    with pytest.raises(ProtocolError):
        WebSocketReader(NONCE, "mqtt").receive(ANSWER.replace(was, becomes))


def test_a_server_that_leaves_out_the_protocol_is_believed() -> None:
    reader = WebSocketReader(NONCE, "mqtt")
    reader.receive(ANSWER.replace(b"Sec-WebSocket-Protocol: mqtt\r\n", b""))
    assert reader.open


def test_an_endless_answer_is_given_up() -> None:
    reader = WebSocketReader(NONCE, "mqtt")
    for _ in range(8):
        reader.receive(b"X-Padding: " + b"x" * 1000 + b"\r\n")
    with pytest.raises(ProtocolError, match="more than"):
        reader.receive(b"X-Padding: " + b"x" * 1000 + b"\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x01x",  # text
        b"\x80\x01x",  # continues nothing
        b"\xc2\x01x",  # compressed
        b"\x82\x84abcd",  # masked
        b"\x82\x7f" + b"\xff" * 8,
        b"\x09\x01x",  # a Ping in fragments
        b"\x89\x7e\x00\x80" + bytes(200),  # one that is too long
        b"\x8b\x00",
        b"\x02\x01x\x82\x01x",  # a message inside another
    ],
)
def test_frames_that_are_none(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        opened().receive(data)


def test_the_last_ping_is_the_one_to_answer_and_a_close_ends_it() -> None:
    reader = opened()
    assert reader.receive(served(PING, b"one") + served(PONG, b"") + served(PING, b"two")) == b""
    assert reader.ping == b"two"
    assert reader.receive(served(BINARY, b"last") + served(8, b"\x03\xe9bye") + served(BINARY, b"no")) == b"last"
    assert reader.closed == "the broker closed the WebSocket (1001)"


def test_a_flood_of_the_smallest_frames_ends_it() -> None:
    """131,072 of them come in one arrival: most of a second."""
    reader = opened()
    with pytest.raises(ProtocolError, match="too many"):
        reader.receive(served(BINARY, b"") * 131_072)
    assert reader.frames == MOST_FRAMES + 1


def test_connect_asks_for_host_and_port() -> None:
    request = connect_request("broker.example:443", ("user", "p:w"))
    assert request.startswith(b"CONNECT broker.example:443 HTTP/1.1\r\nHost: broker.example:443\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpwOnc=\r\n" in request


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 204 \r\nVia: x\r\n\r\n"])
def test_a_tunnel_begins_after_the_answer(answer: bytes) -> None:
    reader = ConnectReader()
    for place in range(len(answer)):
        assert not reader.done
        reader.receive(answer[place : place + 1])
    assert reader.done


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\nlog in", ServiceError),
        (b"HTTP/1.1 100 Continue\r\n\r\n", ServiceError),
        (b"SSH-2.0-OpenSSH\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\n\r\nand more", ProtocolError),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 9000, ProtocolError),
        (b"HTTP/1.1 200 OK" + b"x" * 100_000 + b"\r\n\r\n", ProtocolError),
    ],
)
def test_a_proxy_that_refuses_or_is_none(answer: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        ConnectReader().receive(answer)
