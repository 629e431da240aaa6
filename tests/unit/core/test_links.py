"""How TCP links end that nobody has chosen: routers are to forget them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from warpgate.core.search.links import TcpLink, prove
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint


class Stream:
    """Writes down how it was ended; whatever is read never comes."""

    remote = Endpoint.parse("198.51.100.1:5000")

    def __init__(self) -> None:
        self.ends: list[str] = []

    async def send(self, data: bytes) -> None: ...

    async def recv(self, limit: int) -> bytes:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    def write_eof(self) -> None:
        self.ends.append("FIN")

    def abort(self) -> None:
        self.ends.append("RST")


class Broken(Stream):
    def write_eof(self) -> None:
        raise NetworkError("the peer has reset it")


class Hello:
    def nominate(self) -> None: ...

    def data_to_send(self) -> bytes:
        return b"hello"


def link_on(stream: Any) -> TcpLink:
    hello: Any = Hello()
    return TcpLink(stream, hello, "tcp_punch")


async def test_a_link_that_was_not_chosen_ends_with_fin_and_rst() -> None:
    stream, broken = Stream(), Broken()
    link_on(stream).abort()
    link_on(broken).abort()
    assert (stream.ends, broken.ends) == (["FIN", "RST"], ["RST"])


async def test_one_that_was_chosen_is_reset_or_the_peer_would_take_it_for_the_end_of_the_data() -> None:
    stream = Stream()
    link = link_on(stream)
    await link.nominate()
    link.abort()
    assert stream.ends == ["RST"]


async def test_so_does_one_whose_peer_has_not_proved_its_key() -> None:
    given, silent = Stream(), Stream()
    hello: Any = Hello()
    proving = asyncio.ensure_future(prove(given, hello, 60.0))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    proving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await proving
    with pytest.raises(NetworkError, match="said nothing"):
        await prove(silent, hello, 0.0)  # type: ignore[arg-type]
    assert given.ends == silent.ends == ["FIN", "RST"]
