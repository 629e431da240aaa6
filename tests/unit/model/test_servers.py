from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.errors import ConfigError
from warpgate.model.broker import BrokerRef
from warpgate.model.endpoint import Transport
from warpgate.model.servers import BrokerUrl, NameServerUrl, StunServer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mqtt://broker.example", BrokerUrl("broker.example", 1883, tls=False)),
        ("mqtts://broker.example", BrokerUrl("broker.example", 8883, tls=True)),
        ("MQTTS://Broker.Example:443", BrokerUrl("broker.example", 443, tls=True)),
        (" mqtt://192.0.2.7:1884 ", BrokerUrl("192.0.2.7", 1884, tls=False)),
        ("mqtt://[2001:DB8::1]", BrokerUrl("2001:db8::1", 1883, tls=False)),
        ("mqtt://localhost:01883", BrokerUrl("localhost", 1883, tls=False)),
        ("wss://Broker.Example", BrokerUrl("broker.example", 443, tls=True, path="/mqtt")),
        ("wss://broker.example/", BrokerUrl("broker.example", 443, tls=True, path="/")),
        ("WS://[2001:db8::1]:8080/a/B-c/", BrokerUrl("2001:db8::1", 8080, tls=False, path="/a/B-c/")),
    ],
)
def test_broker_urls(text: str, expected: BrokerUrl) -> None:
    assert BrokerUrl.parse(text) == expected
    assert BrokerUrl.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "mqtt://a.example",
        "mqtts://192.0.2.1",
        "mqtt://[2001:db8::1]:99",
        "mqtt://[::ffff:192.0.2.1]",
        "wss://a.example",
        "ws://a.example:81/x",
    ],
)
def test_broker_text_is_the_canonical_url_of_addresses(text: str) -> None:
    assert BrokerRef(str(BrokerUrl.parse(text))).url == BrokerRef.of(text).url


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "starts with mqtt://"),
        ("broker.example:1883", "starts with mqtt://"),
        ("http://broker.example", "starts with mqtt://"),
        ("mqtt://", "names no host"),
        ("mqtt://:1883", "names no host"),
        ("mqtt://broker.example:", "port must be a number"),
        ("mqtt://broker.example:0", "port must be a number"),
        ("mqtt://broker.example:65536", "port must be a number"),
        ("mqtt://broker.example:http", "port must be a number"),
        ("mqtt://broker.example/topic", "nothing may follow"),
        ("mqtt://broker.example?x=1", "nothing may follow"),
        ("mqtt://secret@broker.example", "user:password"),
        ("mqtt://:secret@broker.example", "user:password"),
        ("mqtt://user:%00secret@broker.example", "user:password"),
        ("mqtt://user:%ffsecret@broker.example", "UTF-8"),
        ("mqtt://user:" + "secret" * 50 + "@broker.example", "user:password"),
        ("wss://broker.example/a?b", "path"),
        ("wss://broker.example//", "path"),
        ("wss://broker.example/" + "x" * 64, "path"),
        ("mqtt://2001:db8::1", "[address]:port"),
        ("mqtt://[2001:db8::1", "[address]:port"),
        ("mqtt://[broker.example]", "not an IP address"),
        ("mqtt://[fe80::1%eth0]", "zone"),
        ("mqtt://192.0.2.300", "not an IP address"),
        ("mqtt://bro ker", "neither a host name"),
        ("mqtt://" + "a" * 300, "neither a host name"),
    ],
)
def test_broker_nonsense(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint.replace("[", r"\[")):
        BrokerUrl.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "mqtt://user:secret@bro ker",
        "mqtt://user:secret@broker.example:x",
        "wss://user:secret@broker.example//",
        "amqp://user:secret@broker.example",
        "mqtt://secret@broker.example",
    ],
)
def test_credentials_do_not_show_up_in_the_error(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BrokerUrl.parse(text)
    assert "secret" not in str(caught.value)


def test_credentials_are_no_part_of_the_text() -> None:
    broker = BrokerUrl.parse("wss://us%40er:se:cret@broker.example/")
    assert broker.login == ("us@er", "se:cret")
    assert str(broker) == "wss://broker.example:443/"
    assert "cret" not in repr(broker)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stun.example", StunServer("stun.example", 3478, by_service=True)),
        ("stun:stun.example:19302", StunServer("stun.example", 19302)),
        ("stun.example:443?transport=tcp", StunServer("stun.example", 443, Transport.TCP)),
        ("192.0.2.1?transport=UDP", StunServer("192.0.2.1", 3478, Transport.UDP)),
        ("[2001:db8::1]:5349", StunServer("2001:db8::1", 5349)),
    ],
)
def test_stun_servers(text: str, expected: StunServer) -> None:
    assert StunServer.parse(text) == expected
    assert StunServer.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "stun:",
        ":3478",
        "stun://stun.example",
        "https://x",
        "a.example:x",
        "a.example/b",
        "u@a.example",
        "a.example?transport=sctp",
        "a.example?tcp",
        "a.example?transport=tcp&x=1",
        "2001:db8::1",
    ],
)
def test_stun_nonsense(text: str) -> None:
    with pytest.raises(ConfigError):
        StunServer.parse(text)


@pytest.mark.parametrize(
    ("text", "udp", "tcp"),
    [
        ("a.example", True, True),
        ("a.example?transport=udp", True, False),
        ("a.example?transport=tcp", False, True),
    ],
)
def test_what_a_stun_server_serves(text: str, udp: bool, tcp: bool) -> None:
    server = StunServer.parse(text)
    assert (server.serves(Transport.UDP), server.serves(Transport.TCP)) == (udp, tcp)


@given(st.text(max_size=40))
def test_any_text_is_a_server_or_a_config_error(text: str) -> None:
    for parse in (lambda t: BrokerUrl.parse("mqtt://" + t), StunServer.parse):
        try:
            server = parse(text)
        except ConfigError:
            continue
        assert type(server).parse(str(server)) == server


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("http://names.example", "http://names.example"),
        (" HTTPS://Names.Example/ ", "https://names.example"),
        ("https://names.example:443", "https://names.example"),
        ("http://names.example:443/", "http://names.example:443"),
        ("http://192.0.2.1:8421", "http://192.0.2.1:8421"),
        ("https://[2001:DB8::1]:8421/a/b%20c/", "https://[2001:db8::1]:8421/a/b%20c"),
    ],
)
def test_a_name_servers_url(text: str, canonical: str) -> None:
    parsed = NameServerUrl.parse(text)
    assert str(parsed) == canonical
    assert NameServerUrl.parse(canonical) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "names.example",
        "ftp://names.example",
        "http://",
        "http:///path",
        "http://names.example?x",
        "http://names.example/?x=1",
        "http://names.example/#x",
        "http://names.example//x",
        "http://names.example/a b",
        "http://names.example/\r\nHost:evil",
        "http://user:secret@names.example",
        "http://names.example:0",
        "http://names.example:99999",
        "http://a b",
    ],
)
def test_what_is_no_name_servers_url(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NameServerUrl.parse(text)
    assert "secret" not in str(caught.value)
