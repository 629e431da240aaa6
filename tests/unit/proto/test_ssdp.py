"""The search for a gateway: what is asked when, and whose answers count."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from warpgate.errors import DecodeError
from warpgate.model.endpoint import Endpoint
from warpgate.proto.ssdp import MOST_LOCATIONS, Found, Over, Search, decode_answer, encode_search

BASE = Endpoint.parse("192.168.1.2:40000")
GATEWAY = ip_address("192.168.1.1")
ANSWER = b"HTTP/1.1 200 OK\r\nST: x\r\nEXT:\r\nLocation:  http://192.168.1.1:5000/d.xml \r\n\r\n"


def drain(search: Search) -> tuple[list[str], list[Found | Over]]:
    sent, events = [], []
    while (packet := search.poll_transmit()) is not None:
        sent.append(str(packet.remote))
    while (event := search.poll_event()) is not None:
        events.append(event)
    return sent, events


def test_the_question_is_that_of_the_architecture() -> None:
    assert encode_search("239.255.255.250", "urn:x", 1) == (
        b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: urn:x\r\n\r\n'
    )
    assert b"MX" not in encode_search("fe80::1", "urn:x", None)
    assert b"HOST: [fe80::1]:1900\r\n" in encode_search("fe80::1", "urn:x", None)


def test_the_group_and_the_gateway_are_asked_twice_and_then_it_is_over() -> None:
    search = Search(BASE, GATEWAY, 10.0)
    search.handle_timeout(10.0)
    sent, _ = drain(search)
    assert sent == ["239.255.255.250:1900"] * 2 + ["192.168.1.1:1900"] * 2
    assert search.poll_timeout() == 11.0
    search.handle_timeout(11.0)
    sent, events = drain(search)
    assert (len(sent), events) == (5, [])
    assert search.poll_timeout() == 12.5
    search.handle_timeout(12.5)
    assert drain(search) == ([], [Over()])
    assert search.poll_timeout() is None
    search.receive(ANSWER, Endpoint(GATEWAY, 1900), 12.6)
    assert drain(search) == ([], [])


def test_only_the_gateways_answers_count_each_place_once_and_not_many() -> None:
    search = Search(BASE, GATEWAY, 0.0)
    search.receive(ANSWER, Endpoint.parse("192.168.1.9:1900"), 0.1)
    search.receive(b"NOTIFY * HTTP/1.1\r\nLOCATION: http://192.168.1.1/\r\n\r\n", Endpoint(GATEWAY, 1900), 0.1)
    assert drain(search)[1] == []
    search.receive(ANSWER, Endpoint(GATEWAY, 51_234), 0.1)
    search.receive(ANSWER, Endpoint(GATEWAY, 1900), 0.2)
    assert drain(search)[1] == [Found("http://192.168.1.1:5000/d.xml")]
    for number in range(20):
        search.receive(ANSWER.replace(b"d.xml", b"%d" % number), Endpoint(GATEWAY, 1900), 0.3)
    assert len(drain(search)[1]) == MOST_LOCATIONS - 1


def test_a_link_local_gateway_is_asked_on_its_own_link() -> None:
    search = Search(Endpoint.parse("[::]:4000"), ip_address("fe80::1%eth0"), 0.0)
    search.handle_timeout(0.0)
    assert set(drain(search)[0]) == {"[ff02::c%eth0]:1900", "[fe80::1%eth0]:1900"}
    search.receive(ANSWER, Endpoint.of("fe80::1%eth0", 1900), 0.1)
    assert len(drain(search)[1]) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe\0",
        b"HTTP/1.1 404 No\r\nLOCATION: http://192.168.1.1/\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLOCATION:\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1/a b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1/\x1b[2J\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1/" + b"a" * 600 + b"\r\n\r\n",
        ANSWER + b"x" * 2048,
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_answer(data)


def test_bare_line_feeds_will_do() -> None:
    assert decode_answer(b"HTTP/1.0 200 OK\nlocation:http://192.168.1.1/\n\n") == "http://192.168.1.1/"
