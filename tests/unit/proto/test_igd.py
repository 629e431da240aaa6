"""Descriptions, calls and their answers, and what is tried after a refusal."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from warpgate.errors import DecodeError
from warpgate.proto.igd import (
    IP_CONNECTION_1,
    IP_CONNECTION_2,
    IPV6_FIREWALL_1,
    MOST_SERVICES,
    PPP_CONNECTION_1,
    Place,
    Service,
    decode_description,
    place_at,
)
from warpgate.proto.igd_soap import Fault, call_fields, decode_answer, encode_call
from warpgate.proto.igd_tries import MOST_TRIES, Tries, Try

GATEWAY = ip_address("192.168.1.1")
LOCATION = "http://192.168.1.1:5000/dir/root.xml"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://192.168.1.1:5000/root.xml", Place(5000, "/root.xml")),
        ("http://192.168.1.1", Place(80, "/")),
        ("HTTP://192.168.1.1/a?b=c#d", Place(80, "/a?b=c")),
        ("http://[::ffff:192.168.1.1]/", Place(80, "/")),
    ],
)
def test_a_place_at_the_gateway(url: str, place: Place) -> None:
    assert place_at(url, GATEWAY) == place


@pytest.mark.parametrize(
    "url",
    [
        "http://192.168.1.9:5000/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://[2001:db8::1]/",
        "http://example.org/",
        "http://192.168.1.1.example.org/",
        "http://192.168.1.1@example.org/",
        "http://example.org@192.168.1.1/",
        "http://0300.0250.1.1/",
        "http://3232235777/",
        "https://192.168.1.1/",
        "ftp://192.168.1.1/",
        "file:///etc/passwd",
        "//192.168.1.1/",
        "http://192.168.1.1:0/",
        "http://192.168.1.1:70000/",
        "http://192.168.1.1:5000/a b",
        "http://192.168.1.1/\r\nX: y",
        "http://192.168.1.1/\x1b",
        "http://192.168.1.1/" + "a" * 2000,
        "http://[",
        "",
    ],
)
def test_no_other_place(url: str) -> None:
    with pytest.raises(DecodeError):
        place_at(url, GATEWAY)


def test_a_link_local_gateway_may_call_itself_by_another_ipv6_address() -> None:
    gateway = ip_address("fe80::1%eth0")
    for url in ("http://[2001:db8:1::1]:5000/x", "http://[fe80::1]:5000/x", "http://[fe80::1%25eth0]:5000/x"):
        assert place_at(url, gateway) == Place(5000, "/x")
    for elsewhere in (
        "http://192.168.1.1:5000/",
        "http://[::1]:5000/",
        "http://[ff02::1]/",
        "http://example.org/",
    ):
        with pytest.raises(DecodeError):
            place_at(elsewhere, gateway)
    with pytest.raises(DecodeError):  # known by a global address, it has that and no other
        place_at("http://[2001:db8:1::9]/", ip_address("2001:db8:1::1"))


def service(kind: str, control: str) -> str:
    return f"<service><serviceType>{kind}</serviceType><controlURL>{control}</controlURL></service>"


def description(*services: str, base: str = "") -> bytes:
    inner = "".join(f"<device><serviceList>{each}</serviceList></device>" for each in services)
    url = f"<URLBase>{base}</URLBase>" if base else ""
    return f"<root>{url}<device><deviceList>{inner}</deviceList></device></root>".encode()


def test_the_best_connection_comes_first_whatever_else_there_is() -> None:
    document = description(
        service(PPP_CONNECTION_1, "/ppp"),
        service("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/l3"),
        service(IPV6_FIREWALL_1, "/fw"),
        service(IP_CONNECTION_1, "ip?x=1&amp;y=2") + service(IP_CONNECTION_2, "/ip2"),
        service(IP_CONNECTION_2, "/ip2"),
        "<service><serviceType>only</serviceType></service>",
    )
    assert decode_description(document, LOCATION, GATEWAY) == (
        Service(IP_CONNECTION_2, Place(5000, "/ip2")),
        Service(IP_CONNECTION_1, Place(5000, "/dir/ip?x=1&y=2")),
        Service(PPP_CONNECTION_1, Place(5000, "/ppp")),
        Service(IPV6_FIREWALL_1, Place(5000, "/fw")),
    )


@pytest.mark.parametrize(
    ("base", "place"),
    [
        ("http://192.168.1.1:49000/", Place(49000, "/dir/ctl")),
        ("http://192.168.0.1:80/", Place(5000, "/dir/ctl")),  # set in the factory
        ("http://example.org/", Place(5000, "/dir/ctl")),
        ("garbage", Place(5000, "/dir/ctl")),
        ("http://[", Place(5000, "/dir/ctl")),
    ],
)
def test_a_base_counts_where_it_is_the_gateway(base: str, place: Place) -> None:
    document = description(service(IP_CONNECTION_1, "/dir/ctl"), base=base)
    assert decode_description(document, LOCATION, GATEWAY) == (Service(IP_CONNECTION_1, place),)


def test_services_elsewhere_are_left_out_and_told_if_there_are_no_others() -> None:
    foreign = service(IP_CONNECTION_2, "http://127.0.0.1:8080/ctl")
    own = service(IP_CONNECTION_1, "http://192.168.1.1:8080/ctl")
    found = decode_description(description(foreign, own), LOCATION, GATEWAY)
    assert found == (Service(IP_CONNECTION_1, Place(8080, "/ctl")),)
    with pytest.raises(DecodeError, match="another host"):
        decode_description(description(foreign), LOCATION, GATEWAY)
    assert decode_description(description(), LOCATION, GATEWAY) == ()


def test_a_thousand_services_are_not_a_thousand_places() -> None:
    many = [service(IP_CONNECTION_1, f"/{number}") for number in range(100)]
    assert len(decode_description(description(*many), LOCATION, GATEWAY)) == MOST_SERVICES


def test_a_call_keeps_the_order_of_its_arguments() -> None:
    body = encode_call(IP_CONNECTION_1, "AddPortMapping", {"NewRemoteHost": "", "NewExternalPort": 7})
    assert (
        f'<u:AddPortMapping xmlns:u="{IP_CONNECTION_1}"><NewRemoteHost></NewRemoteHost>'
        "<NewExternalPort>7</NewExternalPort></u:AddPortMapping>"
    ).encode() in body
    assert ("SOAPAction", f'"{IP_CONNECTION_1}#AddPortMapping"') in call_fields(IP_CONNECTION_1, "AddPortMapping")


def envelope(body: str) -> bytes:
    return f'<s:Envelope xmlns:s="e"><s:Body>{body}</s:Body></s:Envelope>'.encode()


def fault(code: str, reason: str = "") -> bytes:
    error = f"<UPnPError><errorCode>{code}</errorCode><errorDescription>{reason}</errorDescription></UPnPError>"
    return envelope(f"<s:Fault><faultcode>s:Client</faultcode><detail>{error}</detail></s:Fault>")


def test_answers_and_faults() -> None:
    answer = envelope('<u:GetXResponse xmlns:u="x"><A>1</A><B/></u:GetXResponse>')
    assert decode_answer(answer, "GetX") == {"A": "1", "B": ""}
    assert decode_answer(envelope("<GetXResponse/>"), "GetX") == {}
    assert decode_answer(fault("718", "Conflict"), "GetX") == Fault(718, "Conflict")
    assert decode_answer(fault("many"), "GetX") == Fault(0, "")
    assert decode_answer(envelope("<Fault/>"), "GetX") == Fault(0, "")
    for nothing in (
        answer.replace(b"GetX", b"GetY"),
        envelope(""),
        b"<html/>",
        b"<root><GetXResponse/></root>",
    ):
        with pytest.raises(DecodeError):
            decode_answer(nothing, "GetX")


def test_an_error_text_is_short_and_has_nothing_that_steers_a_terminal() -> None:
    found = decode_answer(fault("501", "no&#x9b;2J&#x202e;" + "long " * 100), "GetX")
    assert isinstance(found, Fault)
    assert found.reason.startswith("no\\x9b2J\\u202elong")
    assert found.reason.isprintable()
    assert len(found.reason) < 120
    with pytest.raises(DecodeError):  # not a character of XML at all
        decode_answer(fault("501", "\x1b]0;title\x07"), "GetX")


def walk(*codes: int, any_port: bool = True) -> list[tuple[int, int, str]]:
    """What is asked for when it is refused with these codes in turn: port, lease, remote host."""
    tries = Tries(Try(5000, 1200), 4000, any_port=any_port)
    made = [tries.current]
    for number, code in enumerate(codes):
        if not tries.refused(code, 60_000 + number):
            break
        made.append(tries.current)
    return [(each.external_port, each.lease, each.remote_host) for each in made]


FIRST = (5000, 1200, "")


@pytest.mark.parametrize(
    ("codes", "made"),
    [
        ((725,), [FIRST, (5000, 0, "")]),
        ((725, 718), [FIRST, (5000, 0, ""), (60_001, 0, "")]),
        ((402,), [FIRST, (5000, 0, "")]),
        ((402, 402, 402), [FIRST, (5000, 0, ""), (60_001, 1200, ""), (60_001, 0, "")]),
        ((501, 501), [FIRST, (5000, 0, ""), (60_001, 1200, "")]),
        ((718, 718), [FIRST, (60_000, 1200, ""), (60_001, 1200, "")]),
        ((728,), [FIRST, (60_000, 1200, "")]),
        ((729,), [FIRST, (60_000, 1200, "")]),
        ((724,), [FIRST, (4000, 1200, "")]),
        ((724, 724), [FIRST, (4000, 1200, "")]),
        ((726,), [FIRST, (5000, 1200, "0.0.0.0")]),
        ((726, 726), [FIRST, (5000, 1200, "0.0.0.0")]),
        ((727,), [FIRST]),  # all ports of this host at once: no
        ((606,), [FIRST]),
        ((401,), [FIRST]),
        ((0,), [FIRST]),
    ],
)
def test_what_is_tried_after_a_refusal(codes: tuple[int, ...], made: list[tuple[int, int, str]]) -> None:
    assert walk(*codes) == made


def test_tries_end() -> None:
    assert len(walk(*[718] * 50)) == len(walk(*[501] * 50)) == MOST_TRIES
    assert walk(718, 718, any_port=False) == [FIRST]
    assert walk(725, 718, any_port=False) == [FIRST, (5000, 0, "")]


def test_a_well_known_port_that_is_not_allowed_means_another() -> None:
    tries = Tries(Try(443, 1200), 443)
    assert tries.refused(606, 50_000)
    assert tries.current == Try(50_000, 1200)
    assert not tries.refused(606, 50_001)
