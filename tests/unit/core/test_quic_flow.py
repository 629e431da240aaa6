"""What a QUIC flow sends to somebody who does not answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from quic_kit import SESSION, A, B

from warpgate.core.connection.quic_bounds import Holdings
from warpgate.core.connection.quic_flow import QuicFlow
from warpgate.core.connection.quic_stream import QuicStream
from warpgate.core.udp.demultiplexer import UNVALIDATED_DATAGRAMS, Port
from warpgate.model.endpoint import Endpoint
from warpgate_testing.clock import run_virtual

BYSTANDER = Endpoint.of("203.0.113.7", 9000)


def test_a_bystander_gets_no_more_than_a_few_datagrams() -> None:
    """A malicious responder has its check forged with somebody else's address, and the client believes it."""

    async def main() -> list[bytes]:
        sent: list[bytes] = []

        def send_all(datagrams: list[bytes], _to: object) -> int:
            sent.extend(datagrams)
            return len(datagrams)

        socket = SimpleNamespace(local=BYSTANDER, send_all=send_all, gather=lambda _take_run: None)
        port = Port(cast(Any, None), cast(Any, lambda _receiver: socket))
        stream = QuicStream.client(A, B.public_key, SESSION, asyncio.get_running_loop().time(), Holdings())
        flow = QuicFlow(stream, port, BYSTANDER)
        await asyncio.sleep(300)
        assert 2 <= len(sent) <= UNVALIDATED_DATAGRAMS
        flow.close()
        assert not port.in_use
        return sent

    assert len(run_virtual(main())) <= UNVALIDATED_DATAGRAMS + 1  # and one that it is over
