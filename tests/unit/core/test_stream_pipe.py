"""Stream pipes: filters, exact counts, ends. What TCP itself does is tested with the Network seam."""

from __future__ import annotations

import asyncio

import pytest
from pipe_kit import Streams, virtually

from warpgate.core.pipes.plain_tcp import StreamPipe
from warpgate.core.pipes.reading import FILTER_LIMIT
from warpgate.core.pipes.subscription import Subscription
from warpgate.errors import ConfigError, NetworkError, PipeClosed
from warpgate.model.endpoint import Endpoint, Mode, Transport


async def test_what_a_pipe_knows_of_itself() -> None:
    pipes = Streams()
    async with pipes:
        pipe = pipes.a
        assert (pipe.mode, pipe.transport, pipe.relayed, pipe.plugin) == (
            Mode.STREAM,
            Transport.TCP,
            False,
            "direct",
        )
        assert (pipe.session, pipe.peer, pipe.seconds, pipe.report) == (bytes(16), "peer", 0.1, ())
        assert (pipe.local, pipe.remote) == (pipes.b.remote, pipes.b.local)
        assert "open" in repr(pipe)
        await pipe.close()
        assert pipe.closed
        assert "closed" in repr(pipe)


def test_bytes_come_in_order_whatever_their_portions() -> None:
    async def main() -> None:
        async with Streams() as pipes:
            await pipes.a.send(b"one")
            await pipes.a.send(bytearray(b"two"))
            await pipes.a.send(memoryview(b"three"))
            assert await pipes.b.recv_n(5) == b"onetw"
            assert await pipes.b.recv_n(0) == b""
            assert await pipes.b.recv_n(6) == b"othree"

    virtually(main)


def test_a_content_filter_takes_up_to_the_end_of_the_match_and_leaves_the_rest() -> None:
    async def main() -> None:
        lines = Subscription(content=rb"\n")
        async with Streams() as pipes:
            await pipes.a.send(b"first\nsecond\nthi")
            assert await pipes.b.recv(lines) == b"first\n"
            assert await pipes.b.recv(lines) == b"second\n"
            with pytest.raises(TimeoutError):
                await pipes.b.recv(lines, timeout=0.5)
            await pipes.a.send(b"rd\nrest")
            assert await pipes.b.recv(lines) == b"third\n"  # the timeout has lost nothing
            assert await pipes.b.recv() == b"rest"

    virtually(main)


def test_a_filter_sees_a_match_that_comes_in_pieces() -> None:
    async def main() -> None:
        async with Streams() as pipes:
            waiting = asyncio.ensure_future(pipes.b.recv(Subscription(content=rb"END{2}\d")))
            for byte in b"xxENDD":
                await pipes.a.send(bytes((byte,)))
                await asyncio.sleep(0.1)
            assert not waiting.done()
            await pipes.a.send(b"7tail")
            assert await waiting == b"xxENDD7"
            assert await pipes.b.recv() == b"tail"

    virtually(main)


def test_a_dot_matches_newlines_too_and_an_empty_match_is_none() -> None:
    async def main() -> None:
        async with Streams() as pipes:
            await pipes.a.send(b"a\nb")
            assert await pipes.b.recv(Subscription(content=b"a.b")) == b"a\nb"
            waiting = asyncio.ensure_future(pipes.b.recv(Subscription(content=b"z*")))
            await pipes.a.send(b"q")
            await asyncio.sleep(1)
            assert not waiting.done()
            await pipes.a.send(b"zz")
            await asyncio.sleep(1)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert await pipes.b.recv() == b"qzz"

    virtually(main)


def test_a_sender_filter() -> None:
    async def main() -> None:
        async with Streams() as pipes:
            await pipes.a.send(b"hello")
            with pytest.raises(TimeoutError):
                await pipes.b.recv(Subscription(sender=Endpoint.of("192.0.2.1", 1)), timeout=1.0)
            assert await pipes.b.recv(Subscription(sender=pipes.b.remote)) == b"hello"
            both = Subscription(content=b"w", sender=pipes.b.remote)
            await pipes.a.send(b"world")
            assert await pipes.b.recv(both) == b"w"
            assert await pipes.b.recv() == b"orld"

    virtually(main)


def test_a_filter_that_never_matches_gives_up_and_keeps_the_bytes() -> None:
    async def main() -> None:
        async with Streams() as pipes:
            sending = asyncio.ensure_future(pipes.a.send(bytes(FILTER_LIMIT + 5)))
            with pytest.raises(PipeClosed, match=f"within {FILTER_LIMIT} bytes; they are still readable"):
                await pipes.b.recv(Subscription(content=b"x"))
            assert not pipes.b.closed
            assert await pipes.b.recv_n(FILTER_LIMIT + 5) == bytes(FILTER_LIMIT + 5)
            await sending

    virtually(main)


def test_what_is_no_regular_expression_is_refused() -> None:
    async def main() -> None:
        async with Streams() as pipes:
            with pytest.raises(ConfigError, match="not a regular expression"):
                await pipes.b.recv(Subscription(content=b"("))

    virtually(main)


def test_timeouts_and_cancellation_lose_nothing() -> None:
    async def main() -> None:
        async with Streams() as pipes:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await pipes.b.recv_n(3)
            await pipes.a.send(b"ab")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await pipes.b.recv_n(3)
            await pipes.a.send(b"c")
            assert await pipes.b.recv_n(3) == b"abc"
            with pytest.raises(TimeoutError):
                await pipes.b.recv(timeout=0.0)

    virtually(main)


def test_end_of_stream() -> None:
    async def main() -> None:
        async with Streams() as pipes:
            await pipes.a.send(b"last words")
            pipes.a.write_eof()
            with pytest.raises(PipeClosed, match="the end of the stream has been sent"):
                await pipes.a.send(b"more")
            assert not pipes.a.closed  # a mistake here must not cost what is on its way
            assert await pipes.b.recv(Subscription(content=b"nothing like it")) == b""
            with pytest.raises(PipeClosed, match="ended after 10 of 11 bytes"):
                await pipes.b.recv_n(11)
            assert await pipes.b.recv() == b"last words"
            assert await pipes.b.recv() == b""
            assert await pipes.b.recv() == b""
            await pipes.b.send(b"the other way")
            assert await pipes.a.recv_n(13) == b"the other way"

    virtually(main)


def test_the_other_way_after_end_of_stream() -> None:
    async def main() -> None:
        async with Streams() as pipes:
            pipes.a.write_eof()
            assert await pipes.b.recv() == b""
            await pipes.b.send(b"still here")
            await pipes.b.close()
            assert await pipes.a.recv_n(10) == b"still here"
            assert await pipes.a.recv() == b""

    virtually(main)


def test_a_reset_says_so() -> None:
    async def main() -> None:
        async with Streams() as pipes:
            pipes.b.abort()
            with pytest.raises(PipeClosed, match="reset"):
                await pipes.a.recv()
            assert pipes.a.closed
            with pytest.raises(PipeClosed, match="reset"):
                await pipes.a.send(b"x")
            assert [reason for pipe, reason in pipes.ended if pipe is pipes.b] == ["aborted on this side"]
            assert len([reason for pipe, reason in pipes.ended if pipe is pipes.a]) == 1

    virtually(main)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_ending_it_here_ends_what_waits_here(how: str) -> None:
    async def main() -> None:
        async with Streams() as pipes:
            waiting = asyncio.ensure_future(pipes.a.recv())
            await asyncio.sleep(0.1)
            if how == "close":
                await pipes.a.close()
                await pipes.a.close()
            else:
                pipes.a.abort()
                pipes.a.abort()
            with pytest.raises(PipeClosed, match="on this side"):
                await waiting
            for call in (pipes.a.recv(), pipes.a.recv_n(1), pipes.a.send(b"x")):
                with pytest.raises(PipeClosed, match="on this side"):
                    await call
            with pytest.raises(PipeClosed):
                pipes.a.write_eof()
            with pytest.raises(PipeClosed):
                pipes.a.detach()
            assert len([reason for pipe, reason in pipes.ended if pipe is pipes.a]) == 1

    virtually(main)


def test_detach_is_refused_while_bytes_are_held() -> None:
    async def main() -> None:
        async with Streams() as pipes:
            await pipes.a.send(b"line\nrest")
            assert await pipes.b.recv(Subscription(content=b"\n")) == b"line\n"
            with pytest.raises(ConfigError, match="4 bytes were read ahead"):
                pipes.b.detach()
            assert await pipes.b.recv() == b"rest"
            with pytest.raises(NetworkError, match="no OS sockets in memory"):  # got past the check
                pipes.b.detach()
            assert not pipes.b.closed

    virtually(main)


def test_iteration_ends_with_the_stream_and_raises_on_a_reset() -> None:
    async def main() -> None:
        async with Streams() as pipes:
            await pipes.a.send(b"abc")
            await pipes.a.close()
            assert b"".join([chunk async for chunk in pipes.b]) == b"abc"
        async with Streams() as pipes:
            await pipes.a.send(b"abc")
            await asyncio.sleep(0.1)
            got = await pipes.b.recv()
            pipes.a.abort()
            with pytest.raises(PipeClosed):
                [chunk async for chunk in pipes.b]
            assert got == b"abc"

    virtually(main)


def test_leaving_the_block_closes() -> None:
    async def main() -> None:
        async with Streams() as pipes:
            async with pipes.a as pipe:
                assert isinstance(pipe, StreamPipe)
            assert pipes.a.closed
            assert await pipes.b.recv() == b""

    virtually(main)
