"""What a SOCKS client says, in whatever bytes: a destination or one error, and no byte more is read than is due."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.cli.socks import asked_for
from warpgate.errors import NetworkError
from warpgate.proto import socks
from warpgate.proto.socks import Destination

HOSTS = st.one_of(st.ip_addresses().map(str), st.from_regex(r"[a-z0-9-]{1,60}(\.[a-z0-9-]{1,60}){0,3}", fullmatch=True))


class Client:
    def __init__(self, said: bytes) -> None:
        self.said = said
        self.heard = b""

    async def read(self, count: int) -> bytes:
        if len(self.said) < count:
            raise NetworkError("it has gone")
        data, self.said = self.said[:count], self.said[count:]
        return data

    async def write(self, data: bytes) -> None:
        self.heard += data


@given(host=HOSTS, port=st.integers(0, 65535), more=st.binary(max_size=20))
def test_what_is_asked_for_is_what_is_understood(host: str, port: int, more: bytes) -> None:
    client = Client(socks.GREETING + socks.request(Destination(host, port)) + more)
    found = asyncio.run(asked_for(client.read, client.write))
    assert found.port == port
    try:
        assert ip_address(found.host) == ip_address(host)
    except ValueError:
        assert found.host == host
    assert (client.said, client.heard) == (more, socks.CHOSEN)


@given(st.binary(max_size=300))
def test_whatever_is_said(said: bytes) -> None:
    for before in (b"", socks.GREETING, socks.GREETING + b"\5\1\0"):
        client = Client(before + said)
        try:
            found = asyncio.run(asked_for(client.read, client.write))
        except NetworkError:
            continue
        assert found.host.isprintable()
        assert 0 <= found.port <= 65535


@pytest.mark.parametrize("command", [2, 3])
def test_what_is_not_connect_is_refused_with_a_reply(command: int) -> None:
    request = bytearray(socks.request(Destination("192.0.2.1", 80)))
    request[1] = command
    client = Client(socks.GREETING + bytes(request))
    with pytest.raises(NetworkError, match="only CONNECT") as caught:
        asyncio.run(asked_for(client.read, client.write))
    assert caught.value.answer == socks.reply(socks.Reply.NO_SUCH_COMMAND)  # type: ignore[attr-defined]
