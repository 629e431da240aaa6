"""The TCP handshake against garbage and tampering, in pieces of any size."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from strategies import fixed, mutated, plugin_names, sixteen

from warpgate.errors import ProtocolError
from warpgate.proto.hello import MAX_UNPROVED, Authenticated, Handshake, HelloReceived, Nominated, Role, State

KEY = b"k" * 32
ALICE, BOB = b"\x02" + b"a" * 32, b"\x03" + b"b" * 32
SESSION = b"s" * 16
cut_points = st.lists(st.integers(0, 400), max_size=5)


def alice(nonce: bytes, plugin: str = "direct", secure: bool = False) -> Handshake:
    return Handshake.dial(
        role=Role.INITIATOR,
        session=SESSION,
        session_key=KEY,
        public_key=ALICE,
        peer_key=BOB,
        nonce=nonce,
        plugin=plugin,
        secure=secure,
    )


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@fixed
@given(sixteen, sixteen, st.just("") | plugin_names, st.booleans(), cut_points, st.binary(max_size=50))
def test_it_works_however_the_stream_is_cut(
    ours: bytes, theirs: bytes, plugin: str, secure: bool, cuts: list[int], user: bytes
) -> None:
    dialler, acceptor = alice(ours, plugin, secure), Handshake.accept(theirs)
    for piece in pieces(dialler.data_to_send(), cuts):
        acceptor.receive(piece)
    assert isinstance(acceptor.next_event(), HelloReceived)
    acceptor.prove(KEY)
    authenticated = acceptor.next_event()
    assert isinstance(authenticated, Authenticated)
    assert (authenticated.peer_key, authenticated.plugin) == (ALICE, plugin)
    assert authenticated.secure is secure
    for piece in pieces(acceptor.data_to_send(), cuts):
        dialler.receive(piece)
    assert isinstance(dialler.next_event(), Authenticated)
    dialler.nominate()
    for piece in pieces(dialler.data_to_send() + user, cuts):
        acceptor.receive(piece)
    assert acceptor.next_event() == Nominated()
    assert acceptor.leftover() == user


hellos = sixteen.map(lambda nonce: alice(nonce).data_to_send())


@fixed
@given(st.binary(max_size=2000) | st.binary(max_size=200).map(lambda data: b"WG1\x01" + data) | mutated(hellos))
def test_garbage_to_an_acceptor_proves_nothing(data: bytes) -> None:
    acceptor = Handshake.accept(b"n" * 16)
    try:
        acceptor.receive(data)
        if isinstance(acceptor.next_event(), HelloReceived):
            acceptor.prove(KEY)
    except ProtocolError:
        assert acceptor.data_to_send() == b""
        return
    # Not refused: still incomplete, or the tampering put back what was there.
    assert len(data) <= MAX_UNPROVED
    assert acceptor.state is State.LISTENING or data == alice(data[56:72]).data_to_send()


@fixed
@given(st.binary(max_size=400) | mutated(hellos))
def test_garbage_to_a_dialler_proves_nothing(data: bytes) -> None:
    dialler = alice(b"n" * 16)
    dialler.data_to_send()
    with suppress(ProtocolError):
        dialler.receive(data)
    assert dialler.next_event() is None
    assert dialler.state is State.DIALLED
