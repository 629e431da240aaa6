"""QUIC streams: who is let in, what arrives, and how little is held."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quic_kit import OTHER, SESSION, A, B, Path, key_of_a

from warpgate.core.connection.byte_stream import FIRST_WINDOW, SEND_BUFFER, WINDOW
from warpgate.core.connection.pool import FLOOR
from warpgate.core.connection.quic_bounds import UNREAD_TOTAL, Holdings
from warpgate.core.connection.quic_engine import ABORTED, CLOSED, State
from warpgate.core.connection.quic_stream import CLIENT_CREDIT, USER, QuicStream
from warpgate.errors import AuthenticationError, NetworkError
from warpgate.model.identity import check_certificate
from warpgate.proto.quic_wire import connection_id_of

NOISE = random.Random(7).randbytes(3_000_000)


# -- who is let in ---------------------------------------------------------------------------------------------


def test_one_round_trip_opens_the_client_and_half_a_one_more_the_server() -> None:
    path = Path()
    path.step()
    assert path.server is not None
    assert path.server.state is State.OPENING
    path.step()
    assert path.client.state is State.OPEN
    path.step()
    assert path.server.state is State.OPEN
    assert path.server.session == SESSION


@pytest.mark.parametrize("forger", [OTHER, A], ids=["another node", "the client itself"])
def test_a_server_with_another_key_gets_nothing(forger: object) -> None:
    path = Path(server_identity=forger)  # type: ignore[arg-type]
    path.steps(8)
    assert path.client.state is State.ENDED
    assert isinstance(path.client.failure, AuthenticationError)
    assert path.client.room == 0
    assert path.server is not None
    assert path.server.state is not State.OPEN
    assert not path.server.readable


def test_a_server_that_shows_a_certificate_whose_key_it_lacks_gets_nothing() -> None:
    path = Path(server_identity=OTHER, server_certificate=B.certificate())
    path.steps(2)  # the server's first flight is enough, without waiting for any timer
    assert path.client.state is State.ENDED
    assert isinstance(path.client.failure, AuthenticationError)
    assert path.client.room == 0
    path.step()
    assert path.server is not None
    assert path.server.state is State.ENDED  # it was told


@pytest.mark.parametrize(
    ("identity", "session"),
    [(OTHER, SESSION), (A, bytes(16))],
    ids=["another node's key", "another session"],
)
def test_a_client_that_is_not_the_sessions_peer_is_refused(identity: object, session: bytes) -> None:
    path = Path(client=QuicStream.client(identity, B.public_key, session, 0.0, Holdings()))  # type: ignore[arg-type]
    path.steps(2)
    path.client.write(b"let me in")
    path.steps(60)
    assert path.server is not None
    assert path.server.state is State.ENDED
    assert isinstance(path.server.failure, AuthenticationError)
    assert not path.server.readable
    assert path.client.state is State.ENDED  # it was told


def test_a_replayed_connection_opens_nothing() -> None:
    path = Path()
    path.open()
    path.carry(path.client, path.server, b"pay 100")  # type: ignore[arg-type]
    recorded = path.sent_by_client
    victim = QuicStream.server(B, B.certificate(), connection_id_of(recorded[0]), key_of_a, Holdings())
    for data in recorded:
        victim.receive([data], path.now)
        victim.datagrams(path.now)
    assert victim.state is State.OPENING
    assert not victim.readable


def test_a_proof_is_good_on_its_own_connection_only() -> None:
    """Somebody in the middle with a connection to each side cannot hand the client's head on."""
    one, two = Path(), Path(client=QuicStream.client(OTHER, B.public_key, SESSION, 0.0, Holdings()))
    heads: list[bytes] = []
    put = one.client._put
    one.client._put = lambda stream, data, **end: (heads.append(bytes(data)), put(stream, data, **end))[1]  # type: ignore[method-assign]
    one.open()
    two.client._certain = lambda: two.client._put(USER, heads[0])
    two.steps(8)
    assert two.server is not None
    assert isinstance(two.server.failure, AuthenticationError)


def test_certificates_are_of_keys() -> None:
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    der = x509.load_pem_x509_certificate(A.certificate()).public_bytes(Encoding.DER)
    check_certificate(der, A.public_key)
    with pytest.raises(AuthenticationError, match="not of"):
        check_certificate(der, B.public_key)
    for broken in (b"", der[:-1], der[:40] + b"\xff" + der[41:]):
        with pytest.raises(AuthenticationError):
            check_certificate(broken, B.public_key)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=1400), st.booleans(), st.integers(0, 255))
def test_garbage_changes_nothing(garbage: bytes, to_us: bool, first: int) -> None:
    path = Path()
    client, server = path.open()
    for end in (client, server):
        data = bytes([first | 0x40]) + end.id + garbage if to_us else garbage
        if data:
            end.receive([data], path.now)
    assert path.carry(client, server, b"still here") == b"still here"


# -- what arrives ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [0.0, 0.05])
@pytest.mark.parametrize("forth", [True, False], ids=["client to server", "server to client"])
def test_bytes_arrive_whole_and_in_order(loss: float, forth: bool) -> None:
    path = Path()
    client, server = path.open()
    path.loss = loss
    ends = (client, server) if forth else (server, client)
    data = NOISE if not loss else NOISE[:300_000]
    assert path.carry(*ends, data) == data


def test_a_half_closed_stream_goes_on_in_the_other_direction() -> None:
    path = Path()
    client, server = path.open()
    client.write(b"question")
    client.finish()
    path.steps(4)
    assert server.read() == b"question"
    assert server.peer_finished
    assert client.delivered
    assert client.room == 0
    assert path.carry(server, client, b"answer" * 1000) == b"answer" * 1000
    assert not client.peer_finished
    server.finish()
    path.steps(4)
    assert client.peer_finished
    assert server.delivered


def test_delivered_means_that_every_byte_has_come() -> None:
    path = Path()
    client, server = path.open()
    path.loss = 0.3
    client.write(NOISE[:20_000])
    client.finish()
    while not client.delivered:
        assert path.now < 60.0
        path.step()
    assert server.read() == NOISE[:20_000]


def test_a_close_is_told_and_leaves_what_came_before_it() -> None:
    path = Path()
    client, server = path.open()
    client.write(b"last words")
    path.steps(3)
    client.close(ABORTED, "reset by the peer")
    path.steps(60)
    assert server.state is State.ENDED
    assert isinstance(server.failure, NetworkError)
    assert server.read() == b"last words"
    assert not server.peer_finished


def test_a_client_that_closes_right_after_its_proof_is_heard_to_the_end() -> None:
    path = Path()
    path.steps(2)
    client, server = path.client, path.server
    assert server is not None
    client.write(b"last words")
    flight = client.datagrams(path.now)
    client.close(ABORTED, "reset by the peer")
    server.receive(flight + client.datagrams(path.now), path.now)
    assert str(server.failure) == "the QUIC connection ended: reset by the peer"
    assert server.read() == b"last words"


# -- how little is held ------------------------------------------------------------------------------------------


def test_a_reader_who_does_not_read_stops_the_writer() -> None:
    path = Path()
    client, server = path.open()
    written = 0
    for _ in range(400):
        room = client.room
        client.write(bytes(room))
        written += room
        path.step()
    assert client.room == 0
    assert written == FIRST_WINDOW
    read = 0
    while server.readable:
        read += len(server.read())
    assert read == FIRST_WINDOW
    path.steps(4)
    assert client.room > 0  # what was read may be sent anew


def test_not_more_than_the_send_buffer_is_taken_before_anything_has_left() -> None:
    client, _ = Path().open()
    client.write(bytes(client.room))
    assert client.room <= 0 < SEND_BUFFER


def test_a_peer_that_sends_more_than_it_may_is_cut_off() -> None:
    path = Path()
    client, server = path.open()
    client._put(USER, bytes(WINDOW + 1))
    path.steps(400)
    assert server.state is State.ENDED
    assert "more than it may" in str(server.failure)


def test_other_streams_are_refused() -> None:
    path = Path()
    client, server = path.open()
    client._quic.send_stream_data(4, b"what about this")
    path.steps(3)
    assert server.state is State.ENDED


def test_credit_may_come_in_pieces() -> None:
    path = Path()
    client, server = path.open()
    message = (WINDOW + 5).to_bytes(8, "big")
    for piece in (message[:3], message[3:]):
        client._quic.send_stream_data(CLIENT_CREDIT, piece)
        path.steps(2)
    assert server._allowed == WINDOW + 5


def test_many_streams_that_nobody_reads_hold_little_together() -> None:
    """64 of one peer, each filled as far as it may be, then those that come later."""
    holdings = Holdings()
    streams = []
    for _ in range(64):
        path = Path(holdings=holdings)
        client, server = path.open()
        server._read = server._received = server._granted = WINDOW  # as if much had been read
        server._grant(server._read + server._window)
        streams.append((client, server))
    promised = sum(server._granted - server._read for _, server in streams)
    assert promised <= UNREAD_TOTAL + 64 * FLOOR
    assert min(server._granted - server._read for _, server in streams) >= FLOOR
    for _, server in streams:
        server.close(CLOSED, "over")
    assert holdings.unread.held == 0


def test_the_last_word_of_a_peer_steers_no_terminal() -> None:
    path = Path()
    client, server = path.open()
    client.close(ABORTED, "bye\x1b[2J\nwarpgate: all is well")
    path.steps(2)
    assert "bye" in str(server.failure)
    assert str(server.failure).isprintable()
