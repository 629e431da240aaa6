"""What a SOCKS client says, in whatever bytes: a destination or one error, and no byte more is read than is due."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.cli.places import SocksPlace
from warpgate.cli.socks import asked_for, serve_socks
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, Mode
from warpgate.proto import socks
from warpgate.proto.socks import Destination, Reply
from warpgate_testing.clock import run_virtual

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


class Slow:
    """A peer that says what a client does, a byte at a time."""

    def __init__(self, said: bytes, pause: float) -> None:
        self._client = Client(said)
        self._pause = pause
        self.mode = Mode.STREAM
        self.send = self._client.write

    async def recv_n(self, count: int) -> bytes:
        await asyncio.sleep(self._pause * count)
        return await self._client.read(count)

    async def close(self) -> None: ...

    async def served(self) -> tuple[str, float, bytes]:
        """Why not, when, and what it was told."""
        with pytest.raises(NetworkError) as refused:
            await serve_socks(self, SocksPlace(anywhere=True))  # type: ignore[arg-type]
        return str(refused.value), asyncio.get_running_loop().time(), self._client.heard


REQUEST = socks.GREETING + socks.request(Destination("192.0.2.1", 80))


def test_a_request_has_thirty_seconds_however_it_comes() -> None:
    reason, seconds, _ = run_virtual(Slow(REQUEST, 5.0).served())
    assert (reason, seconds) == ("the SOCKS request took too long", pytest.approx(30.0))


def test_a_host_has_fifteen_seconds_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        async def resolve(self, host: str, port: int) -> list[Endpoint]:
            return [Endpoint.of(host, port)]

        async def dial_tcp(self, remote: Endpoint, local: Endpoint | None) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr("warpgate.cli.socks.SystemNetwork", Silent)
    reason, seconds, heard = run_virtual(Slow(REQUEST, 0.0).served())
    assert (reason, seconds) == ("connect to 192.0.2.1:80: no answer", pytest.approx(15.0))
    assert heard == socks.CHOSEN + socks.reply(Reply.HOST_UNREACHABLE)
