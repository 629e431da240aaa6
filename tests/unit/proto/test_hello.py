"""The TCP handshake: every way it goes right, and every way it must not."""

from __future__ import annotations

import hmac

import pytest

from warpgate.errors import AuthenticationError, DecodeError
from warpgate.model.endpoint import Mode
from warpgate.proto.hello import (
    HEADER_SIZE,
    MAX_UNPROVED,
    Authenticated,
    Handshake,
    HandshakeEvent,
    HelloReceived,
    Nominated,
    Refused,
    Role,
    State,
    rest_of_message,
)

SESSION = bytes(range(16))
KEY = b"K" * 32
ALICE, BOB = b"\x02" + b"a" * 32, b"\x03" + b"b" * 32
NONCE_A, NONCE_B = b"A" * 16, b"B" * 16


def dial(
    role: Role,
    *,
    session: bytes = SESSION,
    key: bytes = KEY,
    public_key: bytes = ALICE,
    peer_key: bytes = BOB,
    nonce: bytes = NONCE_A,
    plugin: str = "direct",
) -> Handshake:
    return Handshake.dial(
        role=role,
        session=session,
        session_key=key,
        public_key=public_key,
        peer_key=peer_key,
        nonce=nonce,
        plugin=plugin,
    )


def alice_dials(role: Role = Role.INITIATOR, key: bytes = KEY, nonce: bytes = NONCE_A) -> Handshake:
    return dial(role, key=key, nonce=nonce)


def bob_dials(role: Role = Role.RESPONDER, session: bytes = SESSION) -> Handshake:
    return dial(role, session=session, public_key=BOB, peer_key=ALICE, nonce=NONCE_B, plugin="punch")


def events(handshake: Handshake) -> list[HandshakeEvent]:
    found = []
    while (event := handshake.next_event()) is not None:
        found.append(event)
    return found


def accepted(dialler: Handshake) -> Handshake:
    """An acceptor that has proved `dialler`, whose WELCOME has been delivered."""
    acceptor = Handshake.accept(NONCE_B)
    acceptor.receive(dialler.data_to_send())
    acceptor.prove(KEY)
    dialler.receive(acceptor.data_to_send())
    return acceptor


def test_dial_and_accept_with_data_behind_the_nomination() -> None:
    alice, bob = alice_dials(), Handshake.accept(NONCE_B)
    bob.receive(alice.data_to_send())
    assert events(bob) == [HelloReceived(SESSION, Role.INITIATOR, ALICE, NONCE_A, Mode.STREAM, "direct")]
    bob.prove(KEY)
    assert events(bob) == [Authenticated(SESSION, Role.INITIATOR, ALICE, NONCE_A, Mode.STREAM, "direct")]
    alice.receive(bob.data_to_send())
    assert events(alice) == [Authenticated(SESSION, Role.RESPONDER, BOB, NONCE_B, Mode.STREAM, "direct")]
    alice.nominate()
    bob.receive(alice.data_to_send() + b"user bytes" * 500)
    assert events(bob) == [Nominated()]
    assert bob.leftover() == b"user bytes" * 500
    alice.receive(b"an answer")
    assert alice.leftover() == b"an answer"
    assert alice.leftover() == b""


def test_a_responder_may_dial_and_the_initiator_accept() -> None:
    bob = bob_dials()
    alice = Handshake.accept(NONCE_A)
    alice.receive(bob.data_to_send())
    alice.prove(KEY)
    bob.receive(alice.data_to_send())
    alice.nominate()
    bob.receive(alice.data_to_send())
    assert events(bob)[-1] == Nominated()


def test_simultaneous_open_the_hellos_cross() -> None:
    alice, bob = alice_dials(), bob_dials()
    from_alice, from_bob = alice.data_to_send(), bob.data_to_send()
    alice.receive(from_bob)
    assert events(alice) == [Authenticated(SESSION, Role.RESPONDER, BOB, NONCE_B, Mode.STREAM, "punch")]
    alice.nominate()
    assert alice.data_to_send()[3] == 3  # no WELCOME, straight to NOMINATE
    alice, bob = alice_dials(), bob_dials()
    alice.receive(bob.data_to_send())
    hello = alice.data_to_send()
    alice.nominate()
    bob.receive(hello + alice.data_to_send() + b"x" * 5000)
    assert [type(event) for event in events(bob)] == [Authenticated, Nominated]
    assert bob.leftover() == b"x" * 5000
    assert bob.data_to_send() == b""
    assert from_alice == hello


def test_the_bytes_are_those_of_the_description() -> None:
    body = SESSION + b"\x01" + ALICE + NONCE_A + b"\x01\x06direct"
    hello = b"WG2\x01" + len(body).to_bytes(2, "big") + body
    alice = alice_dials()
    assert alice.data_to_send() == hello + hmac.digest(KEY, b"tcp hello" + hello, "sha256")
    welcome = b"WG2\x02\x00\x10" + NONCE_B
    alice.receive(welcome + hmac.digest(KEY, b"tcp welcome" + NONCE_A + b"\x02" + welcome, "sha256"))
    alice.nominate()
    nominate = b"WG2\x03\x00\x00" + hmac.digest(KEY, b"tcp nominate" + NONCE_A + NONCE_B + b"WG2\x03\x00\x00", "sha256")
    assert alice.data_to_send() == nominate


def test_one_byte_at_a_time_is_as_good() -> None:
    alice, bob = alice_dials(), Handshake.accept(NONCE_B)
    for byte in alice.data_to_send():
        assert bob.state is State.LISTENING
        bob.receive(bytes((byte,)))
    bob.prove(KEY)
    for byte in bob.data_to_send():
        alice.receive(bytes((byte,)))
    alice.nominate()
    for byte in alice.data_to_send():
        bob.receive(bytes((byte,)))
    assert bob.state is State.NOMINATED


def test_every_flipped_byte_of_a_hello_is_refused() -> None:
    hello = alice_dials().data_to_send()
    for index in range(len(hello)):
        bob = Handshake.accept(NONCE_B)
        flipped = hello[:index] + bytes((hello[index] ^ 1,)) + hello[index + 1 :]
        try:
            bob.receive(flipped)
        except DecodeError:
            continue
        if bob.next_event() is None:
            continue  # a longer length: still waiting for more
        with pytest.raises(AuthenticationError):
            bob.prove(KEY)
        assert bob.data_to_send() == b""


def test_a_hello_under_another_key_is_not_answered() -> None:
    bob = Handshake.accept(NONCE_B)
    bob.receive(alice_dials(key=b"x" * 32).data_to_send())
    with pytest.raises(AuthenticationError):
        bob.prove(KEY)
    assert bob.data_to_send() == b""


def test_a_welcome_fits_one_hello_and_one_role_only() -> None:
    bob = Handshake.accept(NONCE_B)
    bob.receive(alice_dials().data_to_send())
    bob.prove(KEY)
    welcome = bob.data_to_send()
    for other in (alice_dials(nonce=b"C" * 16), alice_dials(role=Role.RESPONDER), alice_dials(key=b"x" * 32)):
        with pytest.raises(AuthenticationError):
            other.receive(welcome)


def test_our_own_hello_reflected_to_us_proves_nothing() -> None:
    alice = alice_dials()
    with pytest.raises(AuthenticationError):
        alice.receive(alice.data_to_send())


@pytest.mark.parametrize(
    "peer",
    [
        bob_dials(role=Role.INITIATOR),
        bob_dials(session=bytes(16)),
        dial(Role.RESPONDER, public_key=b"\x02" + b"e" * 32, peer_key=ALICE, nonce=NONCE_B),
    ],
    ids=["same role", "another session", "another key"],
)
def test_a_crossing_hello_must_be_the_expected_peers(peer: Handshake) -> None:
    with pytest.raises(AuthenticationError):
        alice_dials().receive(peer.data_to_send())


def test_a_nomination_is_bound_to_both_nonces() -> None:
    recorded = alice_dials()
    accepted(recorded)
    recorded.nominate()
    nomination = recorded.data_to_send()
    bob = Handshake.accept(b"D" * 16)  # the same HELLO replayed to a fresh connection
    bob.receive(alice_dials().data_to_send())
    bob.prove(KEY)
    with pytest.raises(AuthenticationError):
        bob.receive(nomination)


def test_only_the_initiator_nominates_and_only_once() -> None:
    alice = alice_dials()
    with pytest.raises(RuntimeError):
        alice.nominate()
    bob = accepted(alice)
    with pytest.raises(RuntimeError):
        bob.nominate()
    alice.nominate()
    with pytest.raises(RuntimeError):
        alice.nominate()


def test_nobody_speaks_before_the_nomination() -> None:
    alice = alice_dials()
    bob = accepted(alice)
    with pytest.raises(DecodeError):
        alice.receive(b"hi")
    with pytest.raises(DecodeError):
        bob.receive(b"WG2\x01")
    with pytest.raises(RuntimeError):
        bob.leftover()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"W\0",
        b"WG1",
        b"WG2\x00",
        b"WG2\x02",
        b"WG2\x03",
        b"WG2\x01\xff\xff",
        b"WG2\x01\x00\x00",
    ],
)
def test_what_cannot_become_a_hello_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Handshake.accept(NONCE_B).receive(data)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(6 + 16, 3), (6 + 16, 0), (6 + 66, 4), (6 + 67, 5), (6 + 68, 0xFF)],
    ids=["role 3", "role 0", "mode", "name size", "not UTF-8"],
)
def test_a_hello_with_impossible_values_is_refused(offset: int, value: int) -> None:
    hello = bytearray(alice_dials().data_to_send())
    hello[offset] = value
    with pytest.raises(DecodeError):
        Handshake.accept(NONCE_B).receive(bytes(hello))


def test_a_flood_behind_an_unproved_hello_is_cut_off() -> None:
    bob = Handshake.accept(NONCE_B)
    with pytest.raises(DecodeError):
        bob.receive(alice_dials().data_to_send() + bytes(MAX_UNPROVED))


def test_misuse_is_told_apart_from_a_bad_peer() -> None:
    with pytest.raises(RuntimeError):
        Handshake.accept(NONCE_B).prove(KEY)
    with pytest.raises(ValueError, match="nonce"):
        Handshake.accept(b"")
    with pytest.raises(ValueError, match="plugin"):
        dial(Role.INITIATOR, plugin="x" * 33)


def test_a_dialler_waits_for_the_answer_to_its_hello() -> None:
    bob = Handshake.accept(NONCE_B)
    bob.receive(alice_dials().data_to_send() + b"W")
    with pytest.raises(DecodeError, match="behind the HELLO"):
        bob.prove(KEY)
    assert bob.data_to_send() == b""


def test_a_reader_can_take_exactly_one_message_and_leave_the_rest() -> None:
    alice = alice_dials()
    hello = alice.data_to_send()
    assert HEADER_SIZE + rest_of_message(hello[:HEADER_SIZE]) == len(hello)
    accepted(again := alice_dials())
    again.nominate()
    nomination = again.data_to_send()
    assert HEADER_SIZE + rest_of_message(nomination[:HEADER_SIZE]) == len(nomination)


def refused(reason: str) -> tuple[Handshake, bytes]:
    """A dialler, and what it is answered."""
    alice, bob = alice_dials(), Handshake.accept(NONCE_B)
    bob.receive(alice.data_to_send())
    bob.prove(KEY)
    bob.refuse(reason)
    assert events(bob) == []
    return alice, bob.data_to_send()


@pytest.mark.parametrize(
    ("reason", "heard"),
    [("no such service", "no such service"), ("x" * 300, "x" * 200), ("a\x1b[2Jb\nc", r"a\x1b[2Jb\nc")],
)
def test_a_refusal_says_why_in_one_harmless_line(reason: str, heard: str) -> None:
    alice, answer = refused(reason)
    with pytest.raises(Refused) as told:
        alice.receive(answer)
    assert str(told.value) == heard


def test_a_refusal_that_somebody_else_made_ends_the_link_and_says_nothing() -> None:
    for position in (HEADER_SIZE, -1):
        alice, answer = refused("no")
        altered = bytearray(answer)
        altered[position] ^= 1
        with pytest.raises(AuthenticationError) as told:
            alice.receive(bytes(altered))
        assert not isinstance(told.value, Refused)
    _, of_another = refused("no")
    with pytest.raises(AuthenticationError, match="MAC does not fit"):
        alice_dials(nonce=b"C" * 16).receive(of_another)


def test_a_refusal_comes_instead_of_a_welcome_or_not_at_all() -> None:
    alice = alice_dials()
    bob = accepted(alice)
    with pytest.raises(RuntimeError, match="too late to refuse"):
        bob.refuse("no")
    _, answer = refused("no")
    with pytest.raises(DecodeError, match="not allowed here"):
        alice.receive(answer)
