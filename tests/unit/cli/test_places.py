"""Where forwarded traffic enters and leaves, as typed."""

from __future__ import annotations

import argparse

import pytest

from warpgate.cli.places import TcpPlace, UnixPlace, entrance_place, service_place


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
