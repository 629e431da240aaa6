"""TURN servers as people write them; nothing of the credentials may ever show."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.errors import ConfigError
from warpgate.model.turn_server import Credentials, TurnServer, TurnTransport, time_limited


@pytest.mark.parametrize(
    ("text", "host", "port", "transport", "login"),
    [
        ("turn:u:p@relay.example:3479?transport=udp", "relay.example", 3479, TurnTransport.UDP, ("u", "p")),
        ("turn:u:p@192.0.2.1", "192.0.2.1", 3478, None, ("u", "p")),
        ("turn:u:p@[2001:db8::1]:443?transport=tls", "2001:db8::1", 443, TurnTransport.TLS, ("u", "p")),
        ("turn:u:p@relay.example?transport=tls", "relay.example", 5349, TurnTransport.TLS, ("u", "p")),
        ("turns:u:p@relay.example", "relay.example", 5349, TurnTransport.TLS, ("u", "p")),
        ("turn:u:p:a@s?s@relay.example", "relay.example", 3478, None, ("u", "p:a@s?s")),
        ("turn:1700000000%3Aname:p%25@relay.example", "relay.example", 3478, None, ("1700000000:name", "p%")),
    ],
)
def test_what_is_written_is_what_is_meant(
    text: str, host: str, port: int, transport: TurnTransport | None, login: tuple[str, str]
) -> None:
    server = TurnServer.parse(text)
    assert (server.host, server.port, server.transport) == (host, port, transport)
    assert server.credentials(0.0) == Credentials(*login)
    assert TurnServer.parse(str(server).replace("turn:", "turn:u:p@")).transport == transport


@pytest.mark.parametrize(
    "text",
    [
        "relay.example",
        "turn:relay.example:3478",
        "turn:hunter2@relay.example",
        "turn::hunter2@relay.example",
        "turn:user:@relay.example",
        "turn:user:hunter2@",
        "turn:user:hunter2@relay.example:99999",
        "turn:user:hunter2@relay.example?transport=sctp",
        "turns:user:hunter2@relay.example?transport=udp",
        "turn:user:hunter2%00@relay.example",
        "turn:user:hunter2%ff@relay.example",
        "turn:us\udcffer:hunter2@relay.example",  # as a shell passes a byte that is not UTF-8
        "turn:user:hunter2\udcff@relay.example",
        "turn-secret:hunter2\udcff@relay.example",
        "turn:user:hunter2@relay\udcff.example",
        f"turn:{'u' * 509}:hunter2@relay.example",
        "stun:user:hunter2@relay.example",
    ],
)
def test_what_makes_no_sense_is_refused_without_a_word_of_the_password(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        TurnServer.parse(text)
    assert "hunter2" not in str(refused.value)


@given(st.text(max_size=60))
def test_nothing_else_than_a_config_error_comes_out(text: str) -> None:
    for scheme in ("", "turn:", "turn-secret:"):
        with contextlib.suppress(ConfigError):
            TurnServer.parse(scheme + text)


def test_credentials_do_not_show() -> None:
    for text in ("turn:user:hunter2@relay.example", "turn-secret:hunter2@relay.example"):
        server = TurnServer.parse(text)
        assert "hunter2" not in f"{server!r} {server} {server.credentials(0.0)!r}"


def test_a_shared_secret_makes_the_credentials_that_coturn_makes() -> None:
    # echo -n 1700086400:warpgate | openssl dgst -sha1 -hmac north -binary | base64
    server = TurnServer.parse("turn-secret:north@relay.example")
    assert server.credentials(1700000000.9) == time_limited("north", 1700086400, "warpgate")
    assert server.credentials(1700000000.9) == Credentials("1700086400:warpgate", "sM5H46Q8qQP70PRdKET6EhXxxtI=")
