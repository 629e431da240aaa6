"""Log-ins for a relay that is for node ids: sealed to a key, and the same for strangers to look at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.errors import AuthenticationError, DecodeError, ProtocolError, ServiceError
from warpgate.model.identity import Identity, hpke_seal
from warpgate.model.turn_server import Credentials, password_of
from warpgate.proto.relay_ticket import TICKET_SIZE, Ticket, open_ticket
from warpgate.server.relay_desk import LIFETIME, TICKETS_PER_MINUTE, RelayDesk
from warpgate.server.rules import Code, Refusal

MEMBER, STRANGER = Identity.generate(), Identity.generate()
NOW = 1_800_000_000.0
HOME = "203.0.113.1/32"


def desk(now: list[float] | None = None) -> RelayDesk:
    times = [0.0] if now is None else now
    return RelayDesk("north", {MEMBER.node_id}, clock=lambda: NOW, timer=lambda: times[0])


def sealed(identity: Identity) -> bytes:
    ticket = desk().ticket(identity.public_key.hex(), HOME)
    assert isinstance(ticket, bytes)
    return ticket


def test_a_member_gets_a_log_in_with_its_id_for_an_hour() -> None:
    ticket = open_ticket(MEMBER, sealed(MEMBER))
    user = f"{int(NOW) + LIFETIME}:{MEMBER.node_id}"
    assert ticket == Ticket(Credentials(user, password_of(user, "north")), LIFETIME)


def test_nobody_else_can_open_it_or_see_whether_there_is_one() -> None:
    with pytest.raises(AuthenticationError):
        open_ticket(STRANGER, sealed(MEMBER))
    assert len(sealed(MEMBER)) == len(sealed(STRANGER)) == TICKET_SIZE
    with pytest.raises(ServiceError, match="not among those"):
        open_ticket(STRANGER, sealed(STRANGER))


def test_what_is_sealed_for_another_purpose_is_none() -> None:
    with pytest.raises(AuthenticationError):
        open_ticket(MEMBER, hpke_seal(MEMBER.public_key, b'{"username":"u","password":"p"}', b"other"))


@given(st.binary(max_size=400))
def test_garbage_from_whoever_can_seal(plain: bytes) -> None:
    with pytest.raises((ProtocolError, ServiceError)):
        open_ticket(MEMBER, hpke_seal(MEMBER.public_key, plain, b"warpgate/1 relay ticket"))
    with pytest.raises(ProtocolError):
        open_ticket(MEMBER, plain)


@pytest.mark.parametrize("plain", [b'{"username":1}', b'{"username":"u","password":"p","ttl":"x"}', b"[]", b"\xff"])
def test_json_of_another_form(plain: bytes) -> None:
    with pytest.raises(DecodeError):
        open_ticket(MEMBER, hpke_seal(MEMBER.public_key, plain, b"warpgate/1 relay ticket"))


@pytest.mark.parametrize("key", ["", "zz", "00", "ff" * 33, "02" * 4000, "ä"])
def test_keys_that_are_none(key: str) -> None:
    refusal = desk().ticket(key, HOME)
    assert isinstance(refusal, Refusal)
    assert refusal.code is Code.MALFORMED


def test_a_network_gets_so_many_a_minute() -> None:
    now = [0.0]
    asked = desk(now)
    outcomes = [asked.ticket(STRANGER.public_key.hex(), HOME) for _ in range(TICKETS_PER_MINUTE + 5)]
    assert sum(isinstance(outcome, bytes) for outcome in outcomes) == TICKETS_PER_MINUTE
    assert isinstance(asked.ticket(MEMBER.public_key.hex(), "203.0.113.2/32"), bytes)
    now[0] = 60.0
    assert isinstance(asked.ticket(MEMBER.public_key.hex(), HOME), bytes)
