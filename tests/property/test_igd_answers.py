"""Whatever a gateway answers: what it says is read or is a DecodeError, and nothing in it leads to another host."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from strategies import fixed, mutated

from warpgate.errors import DecodeError
from warpgate.model.endpoint import Endpoint
from warpgate.proto.device_xml import LONGEST_TEXT, MOST_ELEMENTS, read_elements
from warpgate.proto.igd import CONNECTION_SERVICES, MOST_SERVICES, decode_description, place_at
from warpgate.proto.igd_soap import Fault, decode_answer, encode_call
from warpgate.proto.igd_tries import MOST_TRIES, Tries, Try
from warpgate.proto.ssdp import MOST_LOCATIONS, Found, Search
from warpgate.proto.ssdp import decode_answer as decode_ssdp

GATEWAY = ip_address("192.168.1.1")
LOCATION = "http://192.168.1.1:5000/root.xml"
SERVICE = f"<service><serviceType>{CONNECTION_SERVICES[1]}</serviceType><controlURL>/ctl</controlURL></service>"
DESCRIPTION = f'<?xml version="1.0"?><root><URLBase>{LOCATION}</URLBase><device>{SERVICE}</device></root>'.encode()
ANSWER = b'<s:Envelope xmlns:s="e"><s:Body><u:GetResponse xmlns:u="x"><A>1</A></u:GetResponse></s:Body></s:Envelope>'
ERROR = b"<UPnPError><errorCode>718</errorCode></UPnPError>"
FAULT = b"<s:Envelope><s:Body><s:Fault>" + ERROR + b"</s:Fault></s:Body></s:Envelope>"
SSDP = b"HTTP/1.1 200 OK\r\nST: x\r\nLOCATION: http://192.168.1.1:5000/d.xml\r\n\r\n"

pieces = st.sampled_from(
    [
        b"<a>",
        b"</a>",
        b"<root>",
        b"<!DOCTYPE a [",
        b"<!ENTITY x 'y'>",
        b"]>",
        b"&x;",
        b"&",
        b"<![CDATA[",
        b"]]>",
        b"\0",
    ]
)
documents = st.lists(pieces | st.binary(max_size=12), max_size=30).map(b"".join)
# What users of the URL standard and of the RFC read differently.
hosts = st.sampled_from(
    [
        "192.168.1.1",
        "192.168.1.9",
        "127.0.0.1",
        "[::1]",
        "example.org",
        "192.168.1.1@127.0.0.1",
        "3232235777",
        "",
    ]
)
urls = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["http://", "HTTP://", "https://", "//", "", "http:/", "http:", "\\\\", "http:\\\\"]),
    hosts,
    st.sampled_from(["", ":80", ":0", ":99999", ":x", "@192.168.1.1", "#@192.168.1.1", "\\@192.168.1.1"]),
    st.sampled_from(["", "/", "/a?b#c", "/..//", "\\", ";x"]),
    st.text(max_size=5),
)


@fixed
@given(documents | mutated(st.just(DESCRIPTION)) | mutated(st.just(ANSWER)))
def test_any_document(document: bytes) -> None:
    seen: list[str] = []
    with contextlib.suppress(DecodeError):
        read_elements(document, lambda path, text: seen.append(text))
    assert len(seen) <= MOST_ELEMENTS
    assert all(len(text) <= LONGEST_TEXT for text in seen)


@fixed
@given(documents | mutated(st.just(DESCRIPTION)))
def test_any_description(document: bytes) -> None:
    try:
        found = decode_description(document, LOCATION, GATEWAY)
    except DecodeError:
        return
    assert len(found) <= MOST_SERVICES
    for service in found:
        assert 0 < service.control.port < 65536
        assert service.control.target.startswith("/")
        assert service.control.target.isascii()
        assert service.control.target.isprintable()


@fixed
@given(urls)
def test_any_url_in_a_description(url: str) -> None:
    """A place has no host: what is checked is that text for another host does not become one at the gateway."""
    escaped = "".join(f"&#{ord(each)};" for each in url if each.isprintable())
    document = DESCRIPTION.replace(b"/ctl", escaped.encode())
    try:
        found = decode_description(document, LOCATION, GATEWAY)
    except DecodeError:
        return
    assert len(found) <= 1
    if url.lower().startswith(("http://", "//")) and found:
        assert url.partition("//")[2].startswith("192.168.1.1")
        assert not url.partition("//")[2].startswith("192.168.1.1@")


@fixed
@given(st.text(max_size=40) | st.integers(0, 2**32).map(lambda number: f"http://{number}/"))
def test_any_text_as_an_url(text: str) -> None:
    for url in (text, f"http://{text}/", f"http://{quote(text)}/"):
        try:
            place = place_at(url, GATEWAY)
        except DecodeError:
            continue
        assert "192.168.1.1" in url or "c0a8:101" in url.lower()
        assert place.target.startswith("/")


@fixed
@given(documents | mutated(st.just(ANSWER)) | mutated(st.just(FAULT)))
def test_any_answer(document: bytes) -> None:
    try:
        found = decode_answer(document, "Get")
    except DecodeError:
        return
    if isinstance(found, Fault):
        assert 0 <= found.code < 10_000
        assert found.reason.isprintable()


@fixed
@given(st.lists(mutated(st.just(SSDP)) | st.binary(max_size=100), max_size=12))
def test_any_datagrams(datagrams: list[bytes]) -> None:
    search = Search(Endpoint.parse("192.168.1.2:4000"), GATEWAY, 0.0)
    for data in datagrams:
        search.receive(data, Endpoint(GATEWAY, 1900), 0.1)
        with contextlib.suppress(DecodeError):
            assert decode_ssdp(data).isprintable()
    found = []
    while (event := search.poll_event()) is not None:
        found.append(event)
    assert len(found) <= MOST_LOCATIONS
    assert all(isinstance(event, Found) for event in found)


@fixed
@given(
    st.lists(st.sampled_from([402, 501, 606, 718, 724, 725, 726, 727, 728, 729]), max_size=40),
    st.integers(0, 9999),
)
def test_any_refusals(codes: list[int], lease: int) -> None:
    tries = Tries(Try(5000, lease), 4000)
    made = [tries.current]
    for number, code in enumerate(codes):
        if not tries.refused(code, 50_000 + number):
            break
        made.append(tries.current)
    assert len(set(made)) == len(made) <= MOST_TRIES
    assert all(each.external_port for each in made)  # 0 would be all ports
    assert all(each.lease in (0, lease) for each in made)


@given(st.dictionaries(st.sampled_from(["A", "B", "C"]), st.integers(0, 65535)))
def test_a_call_can_be_read_back(arguments: dict[str, int]) -> None:
    document = encode_call("urn:x", "Get", arguments).replace(b"u:Get", b"u:GetResponse")
    assert decode_answer(document, "Get") == {name: str(value) for name, value in arguments.items()}
