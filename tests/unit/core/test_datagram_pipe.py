"""Datagram pipes on shared sockets: filters, bounds, ends, and what is not the user's."""

from __future__ import annotations

import asyncio

import pytest
from pipe_kit import HOP, TIMING, Datagrams, virtually

from warpgate.core.pipes.plain_datagram import PlainDatagramPipe
from warpgate.core.pipes.subscription import Subscription
from warpgate.errors import ConfigError, NetworkError, PipeClosed
from warpgate.model.endpoint import Endpoint, Mode, Transport
from warpgate.proto.stun import BINDING, StunClass, StunMessage, encode


def test_datagrams_keep_their_bounds() -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            assert (pipes.a.mode, pipes.a.transport) == (Mode.DATAGRAM, Transport.UDP)
            for data in (b"one", b"", bytearray(b"two"), memoryview(b"three"), bytes(65507)):
                await pipes.a.send(data)
            received = [await pipes.b.recv() for _ in range(5)]
            assert received == [b"one", b"", b"two", b"three", bytes(65507)]
            with pytest.raises(ConfigError, match="65508 bytes do not fit"):
                await pipes.a.send(bytes(65508))

    virtually(main)


def test_a_content_filter_takes_the_oldest_match_and_leaves_the_others() -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            for data in (b"a1", b"b1", b"a2", b"b2"):
                await pipes.a.send(data)
            await asyncio.sleep(0.1)
            letters = Subscription(content=b"b.")
            assert await pipes.b.recv(letters) == b"b1"
            assert await pipes.b.recv(Subscription(content=b"^a")) == b"a1"
            assert await pipes.b.recv(letters) == b"b2"
            with pytest.raises(TimeoutError):
                await pipes.b.recv(letters, timeout=0.5)
            assert await pipes.b.recv() == b"a2"

    virtually(main)


def test_each_waits_for_his_own() -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            for_b = asyncio.ensure_future(pipes.b.recv(Subscription(content=b"^b")))
            for_a = asyncio.ensure_future(pipes.b.recv(Subscription(content=b"^a")))
            await asyncio.sleep(0.1)
            await pipes.a.send(b"a")
            await asyncio.sleep(0.1)
            assert for_a.done()
            assert not for_b.done()
            await pipes.a.send(b"b")
            assert (await for_a, await for_b) == (b"a", b"b")

    virtually(main)


def test_a_sender_filter() -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            await pipes.a.send(b"x")
            with pytest.raises(TimeoutError):
                await pipes.b.recv(Subscription(sender=Endpoint.of("192.0.2.1", 1)), timeout=0.5)
            assert await pipes.b.recv(Subscription(sender=pipes.b.remote)) == b"x"

    virtually(main)


def test_the_queue_is_bounded_and_drops_the_newest() -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            for number in range(12):
                await pipes.a.send(b"%d" % number)
            await asyncio.sleep(0.1)
            assert pipes.b.dropped == 4
            assert [await pipes.b.recv() for _ in range(8)] == [b"%d" % number for number in range(8)]
            await pipes.a.send(b"again")
            assert await pipes.b.recv() == b"again"

    virtually(main)


def test_timeouts_lose_nothing_and_leave_nothing() -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            for _ in range(100):
                with pytest.raises(TimeoutError):
                    await pipes.b.recv(timeout=0.01)
            assert len(pipes.b._waiters) == 0  # polling must not grow
            await pipes.a.send(b"x")
            assert await pipes.b.recv(timeout=1.0) == b"x"

    virtually(main)


def test_there_is_no_count_and_no_end_of_stream() -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            with pytest.raises(ConfigError, match="this pipe carries datagrams"):
                await pipes.a.recv_n(1)
            with pytest.raises(ConfigError, match="no end of stream"):
                pipes.a.write_eof()

    virtually(main)


def test_what_overtakes_the_nomination_waits_for_the_pipe() -> None:
    """The nomination is lost, the user's first datagrams are not."""

    async def main() -> None:
        pipes = Datagrams()
        lost: list[bytes] = []
        one, other = pipes.one, pipes.other
        send = one.port.socket.send

        def lossy(data: bytes, *rest: object) -> bool:
            if not lost and len(sent) == 1:
                lost.append(data)  # the second message of this side: the nomination
                return True
            sent.append(data)
            return send(data, *rest)  # type: ignore[arg-type]

        sent: list[bytes] = []
        one.port.socket.send = lossy  # type: ignore[method-assign]
        one.checks.probe(one.port.base, other.port.base, "direct", (0.0,), None)
        await asyncio.sleep(2 * HOP + 0.001)
        assert lost
        await pipes.a.send(b"early")
        await pipes.a.send(b"and earlier")
        await asyncio.sleep(HOP + 0.001)
        assert other.pipe is None
        await asyncio.sleep(0.5)
        assert [await pipes.b.recv(), await pipes.b.recv()] == [b"early", b"and earlier"]
        one.udp.close()
        other.udp.close()

    virtually(main)


def test_a_pipe_keeps_one_pair_of_endpoints_and_gives_back_the_others() -> None:
    async def main() -> None:
        pipes = Datagrams()
        one = pipes.one
        elsewhere = Endpoint.of("198.51.100.2", 9)
        for remote in (elsewhere, pipes.other.port.base):  # verified as well, before the choice was made
            assert one.udp.claim(one.checks, one.port.base, remote)
        async with pipes:
            assert list(one.port.owners) == [pipes.a.remote.sockaddr]
            assert one.udp.owner(one.port.base, elsewhere) is None

    virtually(main)


def test_the_peer_closes() -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            await pipes.a.send(b"last")
            waiting = asyncio.ensure_future(pipes.b.recv(Subscription(content=b"never")))
            await asyncio.sleep(0.1)
            await pipes.a.close()
            with pytest.raises(PipeClosed, match="closed by the peer"):
                await waiting
            assert pipes.b.closed
            assert await pipes.b.recv() == b"last"  # what has come can still be read
            with pytest.raises(PipeClosed, match="closed by the peer"):
                await pipes.b.recv()
            with pytest.raises(PipeClosed, match="closed by the peer"):
                await pipes.b.send(b"x")
            assert (pipes.one.ended, pipes.other.ended) == (["closed on this side"], ["closed by the peer"])
            await asyncio.sleep(1.0)
            assert pipes.one.udp.sessions == {}
            assert pipes.other.udp.sessions == {}
            assert pipes.one.port.owners == {}
            assert pipes.one.port.flows == {}

    virtually(main)


def test_iteration_ends_when_the_peer_closes() -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            await pipes.a.send(b"x")
            await pipes.a.send(b"")
            await asyncio.sleep(0.1)
            await pipes.a.close()
            assert [data async for data in pipes.b] == [b"x", b""]

    virtually(main)


def test_a_silent_peer_is_gone_after_the_consent_timeout() -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            loop = asyncio.get_running_loop()
            pipes.internet.partition(pipes.one.network, pipes.other.network)
            began = loop.time()
            with pytest.raises(PipeClosed, match="no answer from the peer for 3"):
                await pipes.b.recv()
            assert TIMING.consent_timeout - 1 <= loop.time() - began <= TIMING.consent_timeout + 5

    virtually(main)


def test_an_idle_pipe_lives_by_its_consent_checks() -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            await asyncio.sleep(300.0)
            await pipes.a.send(b"still there")
            assert await pipes.b.recv() == b"still there"

    virtually(main)


def test_data_that_comes_is_no_consent() -> None:
    """It may be forged: whoever keeps sending a byte in the name of a victim must not keep our data going there."""

    async def main() -> None:
        async with Datagrams() as pipes:
            pipes.other.checks.driver.close()  # b's data goes on, but it does not answer checks any more
            got = 0
            while not pipes.a.closed and got < 40:
                pipes.other.port.socket.send(b"y", pipes.a.local.sockaddr)
                await asyncio.sleep(1.0)
                got += 1
            assert 29 <= got <= 33
            assert pipes.one.ended[0].startswith("no answer from the peer for 3")

    virtually(main)


@pytest.mark.parametrize("size", [1200, 5000, 12001])
def test_until_the_peer_has_answered_from_there_an_address_gets_a_few_datagrams(size: int) -> None:
    async def main() -> None:
        pipes = Datagrams()
        one, other = pipes.one, pipes.other
        # The other side's check arrives and makes the pipe, but what we send is lost: as if its source were forged.
        other.checks.probe(other.port.base, one.port.base, "direct", (0.0,), None)
        other.port.socket.close()
        await asyncio.sleep(2 * HOP + 0.001)
        pipe = pipes.a
        packets = pipes.internet.capture()
        sending = asyncio.ensure_future(flood(pipe))
        await asyncio.sleep(10.0)
        with pytest.raises(PipeClosed):
            await sending
        data = [seen.packet.payload for seen in packets if seen.sent and seen.packet.payload[:1] == b"d"]
        assert len(data) <= 10
        assert sum(map(len, data)) <= 12000
        one.udp.close()
        other.udp.close()

    async def flood(pipe: PlainDatagramPipe) -> None:
        while True:
            await pipe.send(b"d" * size)

    virtually(main)


def test_nothing_waits_where_the_peer_does_answer() -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            for _ in range(100):
                await asyncio.wait_for(pipes.a.send(bytes(1200)), 0.0001)
                await asyncio.wait_for(pipes.b.send(bytes(1200)), 0.0001)

    virtually(main)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_ending_it_here_ends_what_waits_here(how: str) -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            waiting = asyncio.ensure_future(pipes.a.recv())
            await asyncio.sleep(0.1)
            if how == "close":
                await pipes.a.close()
                await pipes.a.close()
            else:
                pipes.a.abort()
                pipes.a.abort()
            for call in (waiting, pipes.a.recv(), pipes.a.send(b"x")):
                with pytest.raises(PipeClosed, match="on this side"):
                    await call
            with pytest.raises(PipeClosed):
                pipes.a.detach()
            assert len(pipes.one.ended) == 1
            await asyncio.sleep(2.5)
            assert pipes.one.udp.sessions == {}

    virtually(main)


def test_detach_gets_past_the_pipe() -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            with pytest.raises(NetworkError, match="none in memory"):
                pipes.a.detach()
            assert not pipes.a.closed

    virtually(main)


def test_only_stun_that_is_ours_is_kept_back() -> None:
    """A user may send STUN through a pipe; all of it arrives, and nothing of ours does."""

    async def main() -> None:
        async with Datagrams() as pipes:
            foreign = encode(StunMessage(BINDING, StunClass.REQUEST, b"a user's own"))
            await pipes.a.send(foreign)
            assert await pipes.b.recv() == foreign
            forged = bytearray(pipes.one.checks.agent._codec.request(b"x" * 12, "direct", b"B" * 16))
            forged[-1] ^= 1
            await pipes.a.send(forged)
            assert await pipes.b.recv() == bytes(forged)
            assert len(pipes.other.garbage) == 1

    virtually(main)


def test_late_checks_of_a_session_that_is_over_are_not_given_to_the_user() -> None:
    """Another session between the same endpoints ended a moment ago, and its last repetition arrives."""

    async def main() -> None:
        async with Datagrams() as pipes:
            agent = pipes.one.checks.agent
            over, unknown = b"\1" * 16, b"\2" * 16
            pipes.other.udp.retire(over)
            for session in (over, unknown):
                codec = type(agent._codec)(True, session, bytes(32), bytes(16), bytes(33))
                await pipes.a.send(codec.request(b"t" * 12, "direct", None))
            received = await pipes.b.recv(timeout=1.0)
            assert unknown in received  # who knows what it is; but it was asked whether it introduces somebody
            assert pipes.other.introduced == [received]
            with pytest.raises(TimeoutError):
                await pipes.b.recv(timeout=1.0)

    virtually(main)
