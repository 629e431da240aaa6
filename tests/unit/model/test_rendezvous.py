"""The one word that stands for a self-hosted rendezvous."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.errors import ConfigError
from warpgate.model.rendezvous import Rendezvous
from warpgate.model.servers import BrokerUrl, StunServer
from warpgate.model.turn_server import TurnServer

ports = st.integers(1, 65535)
hosts = st.sampled_from(["203.0.113.5", "2001:db8::5", "gate.example.org"])
SECRET = "k7_pW-x2Qn4vTz9L"
plain = st.builds(Rendezvous, hosts, ports, st.none() | ports, st.lists(ports, max_size=2).map(tuple), st.booleans())
with_relay = st.builds(
    Rendezvous,
    hosts,
    st.none() | ports,
    st.none() | ports,
    st.just(()),
    st.just(True),
    ports,
    st.none() | ports,
    st.just(SECRET),
)
rendezvous = plain | with_relay


def test_every_service() -> None:
    found = Rendezvous.parse("warpgate://203.0.113.5/names=8421,broker=1883,stun=3478+3479")
    assert found.names == ("http://203.0.113.5:8421",)
    assert found.brokers == ("mqtt://203.0.113.5:1883",)
    assert found.stun == ("203.0.113.5:3478", "203.0.113.5:3479")


def test_with_tls_and_a_name() -> None:
    found = Rendezvous.parse("warpgates://Gate.Example.org/broker=8883,names=443")
    assert found.names == ("https://gate.example.org:443",)
    assert found.brokers == ("mqtts://gate.example.org:8883",)
    assert found.stun == ()
    assert str(found) == "warpgates://gate.example.org/names=443,broker=8883"


def test_ipv6() -> None:
    found = Rendezvous.parse("warpgate://[2001:db8::5]/stun=3478")
    assert found.stun == ("[2001:db8::5]:3478",)
    assert (found.names, found.brokers) == ((), ())


@given(rendezvous)
def test_what_is_printed_is_understood(value: Rendezvous) -> None:
    assert Rendezvous.parse(str(value)) == value
    for url in value.brokers:
        BrokerUrl.parse(url)
    for server in value.stun:
        StunServer.parse(server)
    for turn in value.turn:
        assert TurnServer.parse(turn).secret == SECRET


def test_a_relay_with_the_groups_secret_and_a_door() -> None:
    found = Rendezvous.parse(f"warpgates://203.0.113.5/names=8421,broker=8883,relay=3480,door=443,secret={SECRET}")
    assert found.brokers == ("mqtts://203.0.113.5:8883", "mqtts://203.0.113.5:443")
    assert found.turn == (
        f"turn-secret:{SECRET}@203.0.113.5:3480",
        f"turn-secret:{SECRET}@203.0.113.5:443?transport=tls",
    )
    assert SECRET not in repr(found)


def test_a_relay_for_node_ids() -> None:
    found = Rendezvous.parse("warpgates://gate.example.org/names=8421,relay=3480,door=443")
    servers = [TurnServer.parse(text) for text in found.turn]
    assert [str(server) for server in servers] == [
        "turn:gate.example.org:3480",
        "turn:gate.example.org:443?transport=tls",
    ]
    assert [str(server.desk) for server in servers] == [
        "https://gate.example.org:8421",
        "https://gate.example.org",
    ]
    assert str(found) == "warpgates://gate.example.org/names=8421,relay=3480,door=443"


@pytest.mark.parametrize("wrong", ["turn=1", "relay=x", "relay=1", "door=0", "names=1,names=2"])
def test_a_secret_is_in_no_error_message(wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Rendezvous.parse(f"warpgate://203.0.113.5/secret={SECRET},{wrong},secret={SECRET}")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("203.0.113.5", "starts with warpgate://"),
        ("http://203.0.113.5/names=1", "starts with warpgate://"),
        ("warpgate:///names=1", "names no host"),
        ("warpgate://203.0.113.5", "is not one of names=, broker=, stun=, relay=, door=, secret="),
        ("warpgate://203.0.113.5/turn=1", "is not one of"),
        (f"warpgate://203.0.113.5/names=1,secret={SECRET}", "belongs to a relay="),
        ("warpgate://203.0.113.5/relay=3480", "or with names=, where nodes log in"),
        ("warpgate://203.0.113.5/relay=3480,secret=short", "16 to 128"),
        (f"warpgate://203.0.113.5/relay=3480,secret={SECRET},door=443", "begins with warpgates://"),
        ("warpgate://203.0.113.5/names=1,names=2", "once each"),
        ("warpgate://203.0.113.5/names=0", "is not a port"),
        ("warpgate://203.0.113.5/names=", "is not a port"),
        ("warpgate://203.0.113.5/names=1+2", "is not a port"),
        ("warpgate://203.0.113.5/stun=1+2+3", "is not a port"),
        ("warpgate://203.0.113.5:80/names=1", "ports come after the services"),
        ("warpgate://me@203.0.113.5/names=1", "credentials"),
        ("warpgate://bad host/names=1", "neither a host name"),
    ],
)
def test_every_mistake_is_named(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Rendezvous.parse(text)


@given(st.text(max_size=60) | st.text(max_size=40).map("warpgate://h/".__add__))
def test_garbage_is_a_config_error(text: str) -> None:
    try:
        Rendezvous.parse(text)
    except ConfigError:
        return
    assert text.strip().lower().startswith("warpgate")
