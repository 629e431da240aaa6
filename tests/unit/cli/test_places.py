"""Where forwarded traffic enters and leaves, as typed."""

from __future__ import annotations

import argparse
from ipaddress import ip_address
from types import SimpleNamespace

import pytest

from warpgate.cli import socks
from warpgate.cli.places import (
    SocksEntrance,
    SocksPlace,
    TcpPlace,
    UdpPlace,
    UnixPlace,
    entrance_place,
    entrance_to_service,
    named_service_place,
    service_place,
    socks_to_service,
)
from warpgate.platform import SOCKETS


@pytest.mark.parametrize("text", ["/run/app.sock", "unix:app.sock"])
def test_where_there_are_no_sockets_in_the_file_system_that_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(SOCKETS, "in_file_system", False)
    for parse in (service_place, entrance_place):
        with pytest.raises(argparse.ArgumentTypeError, match="has no sockets in the file system"):
            parse(text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("8080", TcpPlace("localhost", 8080)),
        ("nas.home:80", TcpPlace("nas.home", 80)),
        ("[2001:db8::1]:80", TcpPlace("2001:db8::1", 80)),
        ("/run/app.sock", UnixPlace("/run/app.sock")),
        ("./app.sock", UnixPlace("./app.sock")),
        ("unix:app.sock", UnixPlace("app.sock")),
        ("unix:/run/a:80", UnixPlace("/run/a:80")),
    ],
)
def test_services(text, place):
    assert service_place(text) == place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("8080", TcpPlace("127.0.0.1", 8080)),
        ("localhost:8080", TcpPlace("127.0.0.1", 8080)),
        ("0.0.0.0:80", TcpPlace("0.0.0.0", 80)),
        ("[::1]:80", TcpPlace("::1", 80)),
        ("/run/app.sock", UnixPlace("/run/app.sock")),
    ],
)
def test_entrances(text, place):
    assert entrance_place(text) == place


@pytest.mark.parametrize("parse", [service_place, entrance_place])
@pytest.mark.parametrize(
    "text", ["", ":", ":80", "host", "host:", "::1:80", "[::1]", "0", "65536", "a:b:80", "unix:", "²"]
)
def test_what_is_no_place(parse, text):
    with pytest.raises(argparse.ArgumentTypeError):
        parse(text)


def test_a_port_is_opened_at_an_address_not_at_a_name():
    with pytest.raises(argparse.ArgumentTypeError, match=r"'nas\.home' is no address"):
        entrance_place("nas.home:80")


@pytest.mark.parametrize("text", ["localhost:80", "[2001:db8::1]:80", "/run/app.sock"])
def test_a_place_is_shown_as_it_is_typed(text):
    assert str(service_place(text)) == text


@pytest.mark.parametrize(
    ("text", "name", "place"),
    [
        ("ssh=localhost:22", "ssh", TcpPlace("localhost", 22)),
        ("web=8080", "web", TcpPlace("localhost", 8080)),
        ("8080", "", TcpPlace("localhost", 8080)),
        ("app=/run/app.sock", "app", UnixPlace("/run/app.sock")),
        ("/run/a=b.sock", "", UnixPlace("/run/a=b.sock")),
        ("unix:a=b", "", UnixPlace("a=b")),
        ("v6=[::1]:22", "v6", TcpPlace("::1", 22)),
        ("dns=udp:53", "dns", UdpPlace("localhost", 53)),
        ("web=socks", "web", SocksPlace()),
    ],
)
def test_services_with_names(text, name, place):
    assert named_service_place(text) == (name, place)


@pytest.mark.parametrize("text", ["=22", "a b=22", "ssh=", "ssh=host"])
def test_what_is_no_service_with_a_name(text):
    with pytest.raises(argparse.ArgumentTypeError):
        named_service_place(text)


@pytest.mark.parametrize(
    ("text", "place", "service"),
    [
        ("15432:pg", TcpPlace("127.0.0.1", 15432), "pg"),
        ("127.0.0.1:8000:web", TcpPlace("127.0.0.1", 8000), "web"),
        ("127.0.0.1:8000", TcpPlace("127.0.0.1", 8000), ""),
        ("8000", TcpPlace("127.0.0.1", 8000), ""),
        ("[::1]:80:web", TcpPlace("::1", 80), "web"),
        ("[::1]:80", TcpPlace("::1", 80), ""),
        ("8000:9000", TcpPlace("127.0.0.1", 8000), "9000"),
        ("/run/a:80", UnixPlace("/run/a:80"), ""),
        ("udp:53", UdpPlace("127.0.0.1", 53), ""),
        ("udp:53:dns", UdpPlace("127.0.0.1", 53), "dns"),
        ("udp:127.0.0.1:53:dns", UdpPlace("127.0.0.1", 53), "dns"),
        ("udp:[::1]:53:dns", UdpPlace("::1", 53), "dns"),
    ],
)
def test_entrances_to_services(text, place, service):
    assert entrance_to_service(text) == (place, service)


def test_the_proxy_of_a_named_service():
    assert socks_to_service("1080:web") == (SocksEntrance(TcpPlace("127.0.0.1", 1080)), "web")
    assert socks_to_service("/run/app.sock") == (SocksEntrance(UnixPlace("/run/app.sock")), "")


@pytest.mark.parametrize(
    "text",
    ["8000:", "8000:a b", "8000:a:b", "::1:80", "[::1]:80:", "web:8000", "udp:53:", "udp:/run/a", "udp:"],
)
def test_what_is_no_entrance_to_a_service(text):
    with pytest.raises(argparse.ArgumentTypeError):
        entrance_to_service(text)


def test_a_proxy_reaches_public_addresses_but_none_of_its_own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in a cloud has public addresses, and services that trust who comes from there."""
    own, another = ip_address("203.0.113.9"), ip_address("203.0.113.8")
    monkeypatch.setattr(socks, "INTERFACES", SimpleNamespace(assigned=lambda: [SimpleNamespace(ip=own)]))
    assert not socks._may_reach(own, SocksPlace())
    assert socks._may_reach(another, SocksPlace())
