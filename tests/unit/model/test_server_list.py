"""Lists of public servers as strangers, thieves of old keys and tired maintainers would have them."""

from __future__ import annotations

import re
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from warpgate.errors import AuthenticationError, DecodeError
from warpgate.model.identity import Identity
from warpgate.model.server_list import (
    LARGEST_LIST,
    MOST_SERVERS,
    MOST_SIGNATURES,
    check_public,
    open_list,
    parse_list,
    signed,
    without_signatures,
)
from warpgate.model.turn_server import time_limited
from warpgate.proto.relay_ticket import open_ticket
from warpgate.services.defaults import public_servers

KEY, NEXT_KEY, STRANGER = (Identity.generate() for _ in range(3))
TRUSTED = (KEY.public_key,)


def body(
    sequence: object = 7,
    expires: str = "2027-05-31",
    brokers: str = '"mqtts://one.example.com"',
    stun: str = '"stun.example.com:3478"',
) -> bytes:
    return f"sequence = {sequence}\nexpires = {expires}\nbrokers = [{brokers}]\nstun = [{stun}]\n".encode()


def test_what_a_key_of_the_package_has_signed_is_read() -> None:
    listed = open_list(signed(body(), KEY), TRUSTED)
    assert (listed.sequence, listed.expires) == (7, 1_811_808_000.0)  # 2027-06-01 0:00 UTC
    assert [str(broker) for broker in listed.brokers] == ["mqtts://one.example.com:8883"]
    assert [str(server) for server in listed.stun] == ["stun.example.com:3478"]


def test_the_package_s_own_list_is_one() -> None:
    assert public_servers().sequence >= 1


def test_while_keys_change_a_list_is_for_those_who_know_either() -> None:
    both = signed(body(), KEY, NEXT_KEY)
    for key in (KEY, NEXT_KEY):
        assert open_list(both, (key.public_key,)).sequence == 7
    assert open_list(signed(body(), NEXT_KEY), (KEY.public_key, NEXT_KEY.public_key)).sequence == 7


@pytest.mark.parametrize(
    "data",
    [
        body(),
        signed(body(), STRANGER),
        signed(body(), KEY).replace(b"sequence = 7", b"sequence = 8"),
        signed(body(), KEY) + b"# more\n",
        signed(body(), STRANGER).replace(STRANGER.node_id.encode(), KEY.node_id.encode()),
        signed(signed(body(), KEY), STRANGER)[len(signed(b"", STRANGER)) :].replace(b"# signed", b"# sighed"),
        # Another purpose: what a node key signs elsewhere is no list.
        f"# signed {KEY.node_id} {b64encode(KEY.sign(body())).decode()}\n".encode() + body(),
        b"",
    ],
)
def test_what_no_key_of_the_package_has_signed_is_refused(data: bytes) -> None:
    with pytest.raises(AuthenticationError):
        open_list(data, TRUSTED)
    with pytest.raises(AuthenticationError):
        open_list(signed(body(), KEY), ())


def test_nothing_is_read_before_its_signature() -> None:
    with pytest.raises(AuthenticationError):
        open_list(signed(b"[" * 5000, STRANGER), TRUSTED)
    with pytest.raises(DecodeError):
        open_list(signed(b"[" * 5000, KEY), TRUSTED)
    with pytest.raises(DecodeError, match="more than"):
        open_list(signed(b"#" * LARGEST_LIST, KEY), TRUSTED)
    many = signed(body(), *(Identity.generate() for _ in range(MOST_SIGNATURES)), KEY)
    with pytest.raises(DecodeError, match="no signatures of ours"):
        open_list(many, TRUSTED)


@pytest.mark.parametrize(
    "text",
    [
        body(sequence=0),
        body(sequence=2**31),
        body(sequence="true"),
        body(sequence='"7"'),
        body(expires='"2027-05-31"'),
        body(expires="2027-05-31T00:00:00Z"),
        body(expires="9999-12-31"),
        body(expires="2027-02-31"),
        body(brokers=""),
        body(stun='"quic://new.example.com"'),
        body(stun="1"),
        body(brokers=",".join(['"mqtts://a.example.com"'] * (MOST_SERVERS + 1))),
        b"sequence = 7\n",
        b"\xff",
    ],
)
def test_what_a_maintainer_must_not_sign(text: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_list(text)


def test_entries_of_a_later_version_are_passed_over() -> None:
    listed = parse_list(body(brokers='"nats://new.example.com", "mqtts://one.example.com"') + b"more = 1\n")
    assert [broker.host for broker in listed.brokers] == ["one.example.com"]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1",
        "fe80::1", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "localhost", "a.localhost",
        "router", "router.local", "db.internal", "x.home.arpa", "nas.lan", "127.0x1", "0x7f.1x", "a.b1",
    ],
)  # fmt: skip
def test_a_list_leads_nobody_into_his_own_network(host: str) -> None:
    with pytest.raises(DecodeError, match="no host of the internet"):
        check_public(host)
    written = f'"mqtt://{host}:1883"' if ":" not in host else f'"mqtt://[{host}]:1883"'
    if host not in ("0x7f.1x", "a.b1"):
        with pytest.raises(DecodeError):
            parse_list(body(brokers=written + ', "mqtts://one.example.com"'))


@pytest.mark.parametrize("host", ["broker.example.com", "203.0.113.1", "2606:4700::1", "a.xn--p1ai"])
def test_hosts_of_the_internet(host: str) -> None:
    check_public(host)


@given(st.binary(max_size=300), st.booleans())
def test_garbage_is_refused(data: bytes, begins_well: bool) -> None:
    garbage = b"# signed " * begins_well + data
    with pytest.raises((AuthenticationError, DecodeError)):
        open_list(garbage, TRUSTED)
    with pytest.raises(DecodeError):
        parse_list(data)


def test_the_signatures_of_a_list_and_the_rest() -> None:
    rest, signatures = without_signatures(signed(body(), KEY, NEXT_KEY))
    assert rest == body()
    assert set(signatures) == {KEY.node_id, NEXT_KEY.node_id}


def test_the_list_and_the_ticket_of_the_protocol_s_page() -> None:
    alice, bob = (Identity(ec.derive_private_key(number, ec.SECP256R1())) for number in (1, 2))
    page = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
    *_, ticket, shown = re.findall(r"^```[^\n]*\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    listed = open_list(shown.encode(), (alice.public_key,))
    assert (listed.sequence, listed.brokers[0].host) == (7, "broker.example.com")
    told = open_ticket(bob, bytes.fromhex(ticket))
    assert told.login == time_limited("north", 1_800_003_600, bob.node_id)
