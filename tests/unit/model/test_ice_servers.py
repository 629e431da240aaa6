"""What providers hand out, as their documentation shows it, and what they must not."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.errors import ConfigError, DecodeError
from warpgate.model.ice_servers import LONGEST_LIFE, MOST_KEPT, AccountUrl, IceServers, parse_ice_servers
from warpgate.model.turn_server import Credentials, TurnTransport

NOW = 1_800_000_000.0

CLOUDFLARE = {
    "iceServers": [
        {"urls": ["stun:stun.cloudflare.com:3478", "stun:stun.cloudflare.com:53"]},
        {
            "urls": [
                "turn:turn.cloudflare.com:3478?transport=udp",
                "turn:turn.cloudflare.com:53?transport=udp",
                "turn:turn.cloudflare.com:3478?transport=tcp",
                "turns:turn.cloudflare.com:5349?transport=tcp",
                "turns:turn.cloudflare.com:443?transport=tcp",
            ],
            "username": "bc91b63e",
            "credential": "ebd71f",
        },
    ]
}
CLOUDFLARE_OLD = {"iceServers": CLOUDFLARE["iceServers"][1]}
METERED = [
    {"urls": "stun:stun.relay.metered.ca:80"},
    {"urls": "turn:global.relay.metered.ca:80", "username": "u:1", "credential": "p@/%"},
    {"urls": "turn:global.relay.metered.ca:80?transport=tcp", "username": "u:1", "credential": "p@/%"},
    {"urls": "turns:global.relay.metered.ca:443?transport=tcp", "username": "u:1", "credential": "p@/%"},
]
TWILIO = {
    "username": "dc2d",
    "password": "tE2Xd",
    "ttl": "86400",
    "ice_servers": [
        {"url": "stun:global.stun.twilio.com:3478", "urls": "stun:global.stun.twilio.com:3478"},
        {
            "url": "turn:global.turn.twilio.com:3478?transport=udp",
            "urls": "turn:global.turn.twilio.com:3478?transport=udp",
            "username": "dc2d",
            "credential": "tE2Xd",
        },
    ],
}
XIRSYS = {
    "s": "ok",
    "v": {
        "iceServers": {
            "username": "Rz1",
            "credential": "a28",
            "urls": ["stun:ss-turn2.xirsys.com", "turn:ss-turn2.xirsys.com:80?transport=udp"],
        }
    },
}
GOOGLE = {"lifetimeDuration": "86400s", "iceServers": METERED[:2]}
REST = {"username": "1800043200:me", "password": "pw", "ttl": 86400, "uris": ["turn:192.0.2.1:3478"]}


def parsed(value: Any) -> IceServers:
    return parse_ice_servers(json.dumps(value).encode(), NOW)


@pytest.mark.parametrize(
    ("answer", "servers", "lifetime"),
    [
        (CLOUDFLARE, 5, None),
        (CLOUDFLARE_OLD, 5, None),
        (METERED, 3, None),
        (TWILIO, 1, 86400.0),
        (XIRSYS, 1, None),
        (GOOGLE, 1, 86400.0),
        (REST, 1, 43200.0),
    ],
)
def test_each_shape(answer: Any, servers: int, lifetime: float | None) -> None:
    given = parsed(answer)
    assert len(given.turn) == servers
    assert given.lifetime == lifetime
    assert all(server.login is not None for server in given.turn)


def test_the_values_are_the_providers() -> None:
    last = parsed(METERED).turn[-1]
    assert (last.host, last.port, last.transport) == ("global.relay.metered.ca", 443, TurnTransport.TLS)
    assert last.login == Credentials("u:1", "p@/%")


def entry(**changes: Any) -> list[dict[str, Any]]:
    return [{"urls": "turn:a.example", "username": "user", "credential": "se-cret", **changes}]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        7,
        "turn:a.example",
        [[[]]],
        entry(urls=7),
        entry(urls=[7, None]),
        entry(urls="stun:a.example"),
        entry(urls="turn:se-cret@a.example"),
        entry(urls="turn:a b"),
        entry(urls="turn:a.example:99999"),
        entry(urls="turns:a.example?transport=udp"),
        entry(urls="turn:a.example\r\nX: y"),
        entry(username=None),
        entry(username=""),
        entry(username="x" * 600),
        entry(username="\ud800"),
        entry(credential={"macKey": "oauth"}),
        entry(credential="new\nline se-cret"),
        {"ttl": 0, "iceServers": entry()},
        {"ttl": -5, "iceServers": entry()},
        {"ttl": "30", "iceServers": entry()},
        entry(username="1799999000:me"),
    ],
)
def test_what_gives_no_server_is_one_error_without_the_credentials(answer: Any) -> None:
    with pytest.raises(DecodeError) as caught:
        parsed(answer)
    assert "se-cret" not in str(caught.value)


def test_one_that_is_wrong_does_not_spoil_the_others() -> None:
    assert len(parsed(entry(urls=["turns:a.example?transport=udp", "turn:a.example"])).turn) == 1


def test_many_urls_of_one_transport_leave_room_for_the_others() -> None:
    """Some networks let out nothing but what looks like the web, which a list may name last."""
    urls = [f"turn:h{n}.example?transport=udp" for n in range(12)] + ["turns:h.example:443?transport=tcp"]
    kept = parsed(entry(urls=urls)).turn
    assert len(kept) == MOST_KEPT
    assert [server.transport for server in kept].count(TurnTransport.TLS) == 1
    assert kept[0].host == "h0.example"


def test_bounds() -> None:
    many = [entry(urls=[f"turn:h{n}-{m}.example" for m in range(20)])[0] for n in range(200)]
    assert len(parsed(many).turn) == MOST_KEPT
    assert parsed({"ttl": 1e308, "iceServers": entry()}).lifetime == LONGEST_LIFE
    assert parsed({"ttl": "999999999s", "iceServers": entry()}).lifetime == LONGEST_LIFE
    for ttl in (True, None, [], "soon", "9" * 40):
        assert parsed({"ttl": ttl, "iceServers": entry()}).lifetime is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["iceServers", "v", "urls", "uris", "username", "credential", "ttl", "x"]),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_servers_or_the_error(value: Any) -> None:
    with suppress(DecodeError):
        parse_ice_servers(json.dumps(value).encode(), NOW)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 16_000, b"<html>", b"9" * 16_000])
def test_what_is_no_json_at_all(data: bytes) -> None:
    began = time.process_time()
    with pytest.raises(DecodeError):
        parse_ice_servers(data, NOW)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("text", "shown", "path"),
    [
        ("https://rtc.example/v1/turn?apiKey=se-cret", "https://rtc.example/...", "/v1/turn?apiKey=se-cret"),
        ("https://sid:se-cret@api.example:8443/Tokens.json", "https://api.example:8443/...", "/Tokens.json"),
        ("https://rtc.example?key=x", "https://rtc.example/...", "/?key=x"),
        ("HTTPS://rtc.example", "https://rtc.example", "/"),
        ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080/...", "/x"),
    ],
)
def test_accounts(text: str, shown: str, path: str) -> None:
    account = AccountUrl.parse(text)
    assert (str(account), account.at.path) == (shown, path)
    assert "se-cret" not in repr(str(account))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rtc.example",
        "http://rtc.example/?k=se-cret",
        "ftp://rtc.example",
        "https://",
        "https://a b/se-cret",
        "https://a.example/ x",
        "https://a.example/#se-cret",
        "https://a.example/" + "x" * 600,
        "https://a.example/\r\nHost: b",
        "https://se-cret@a.example/",
    ],
)
def test_no_accounts(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AccountUrl.parse(text)
    assert "se-cret" not in str(caught.value)
