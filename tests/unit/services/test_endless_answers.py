"""Servers that are asked one thing over TCP and go on talking: a question has an end, and little is held meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from warpgate.errors import ServiceError
from warpgate.model.endpoint import Endpoint
from warpgate.model.turn_server import Credentials
from warpgate.net.network import TcpStream
from warpgate.proto.stun import BINDING, StunClass, StunMessage, encode
from warpgate.proto.turn_auth import LongTermAuth
from warpgate.services.relay_allocation import Allocation
from warpgate.services.relay_tcp import bind_connection
from warpgate.services.stun_tcp import StunStream

SERVER = Endpoint.parse("203.0.113.1:3478")
FOREIGN = encode(StunMessage(BINDING, StunClass.SUCCESS, bytes(12), ()))


class Talker:
    """A connection over which somebody says `word` as often as it is read from, 4 MiB at most."""

    def __init__(self, word: bytes) -> None:
        self._word = word
        self.read = 0
        self.local, self.remote = Endpoint.parse("192.0.2.1:5000"), SERVER

    async def send(self, data: bytes) -> None: ...

    async def recv(self, limit: int) -> bytes:
        assert self.read < 4 * 2**20, "it is listened to for ever"
        data = (self._word * (limit // len(self._word) + 1))[:limit]
        data = data[: limit - limit % len(self._word)]
        self.read += len(data)
        return data

    @property
    def stream(self) -> TcpStream:
        return cast("TcpStream", self)


def _data_connection(talker: Talker) -> Coroutine[Any, Any, object]:
    auth = LongTermAuth(Credentials("user", "password"))
    allocation = SimpleNamespace(auth=auth, route=SimpleNamespace(endpoint=SERVER))
    return bind_connection(talker.stream, cast("Allocation", allocation), 1)


def _binding(talker: Talker) -> Coroutine[Any, Any, object]:
    return StunStream(talker.stream).bind()


@pytest.mark.parametrize("ask", [_data_connection, _binding])
@pytest.mark.parametrize(
    "word", [FOREIGN, b"\x01\x01\xff\xfc" + FOREIGN[4:20]], ids=["answers to others", "one that never ends"]
)
def test_a_server_that_talks_and_does_not_answer(ask: Any, word: bytes) -> None:
    talker = Talker(word)
    with pytest.raises(ServiceError, match=r"does not answer|more than"):
        asyncio.run(ask(talker))
    assert talker.read <= 64 * 1024
