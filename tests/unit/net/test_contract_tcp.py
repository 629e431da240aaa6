"""What every Network promises about TCP."""

from __future__ import annotations

import array
import asyncio
import errno

import pytest
from network_worlds import Connected, World, recv_all, recv_exactly

from warpgate.errors import NetworkError
from warpgate.net.network import TcpStream

pytestmark = pytest.mark.filterwarnings("error")

# More than any buffer between the two ends: what the sender has got rid of, somebody has read.
TOO_MUCH = 8 * 1024 * 1024


def refuse(stream: TcpStream) -> None:
    raise AssertionError(f"accepted {stream.remote}")


def test_bytes_and_ends_of_stream_go_both_ways(world: World) -> None:
    async def main() -> None:
        async with Connected(world) as tcp:
            assert tcp.client.remote == tcp.server.local == tcp.listener.local
            assert tcp.client.local == tcp.server.remote
            await tcp.client.send(b"question")
            assert await recv_exactly(tcp.server, 8) == b"question"
            tcp.client.write_eof()
            assert await tcp.server.recv(10) == b""
            await tcp.server.send(b"answer")  # half-closed: this direction still works
            tcp.server.close()
            assert await recv_all(tcp.client) == b"answer"
            assert await tcp.client.recv(10) == b""
            with pytest.raises(NetworkError, match="broken pipe"):
                await tcp.client.send(b"too late")

    world.run(main)


def test_limits_and_kinds_of_data(world: World) -> None:
    async def main() -> None:
        async with Connected(world) as tcp:
            await tcp.client.send(b"")
            await tcp.client.send(bytearray(b"ab"))
            await tcp.client.send(memoryview(array.array("H", [0x6363, 0x6464])))
            assert await recv_exactly(tcp.server, 6) == b"abccdd"
            await tcp.client.send(b"123456")
            assert [await tcp.server.recv(4), await tcp.server.recv(4)] == [b"1234", b"56"]
            with pytest.raises(ValueError, match="cannot receive 0 bytes"):
                await tcp.server.recv(0)

    world.run(main)


def test_send_waits_for_a_slow_reader_and_nothing_is_lost(world: World) -> None:
    async def main() -> None:
        async with Connected(world) as tcp:
            data = bytes(range(256)) * (TOO_MUCH // 256)
            sending = asyncio.ensure_future(tcp.client.send(data))
            await world.settle()
            assert not sending.done()
            assert tcp.client.stalled() < 5  # the peer's kernel answers, it only does not read
            assert await recv_exactly(tcp.server, TOO_MUCH) == data
            await sending
            await world.settle()
            assert tcp.client.stalled() == 0.0

    world.run(main)


def test_both_directions_at_full_speed(world: World) -> None:
    async def main() -> None:
        async with Connected(world) as tcp:
            size = 2 * 1024 * 1024
            sent = await asyncio.gather(
                tcp.client.send(b"c" * size),
                tcp.server.send(b"s" * size),
                recv_exactly(tcp.server, size),
                recv_exactly(tcp.client, size),
            )
            assert sent[2:] == [b"c" * size, b"s" * size]

    world.run(main)


def test_abort_resets_the_peer_and_is_idempotent(world: World) -> None:
    async def main() -> None:
        async with Connected(world) as tcp:
            waiting = asyncio.ensure_future(tcp.server.recv(10))
            await world.settle()
            tcp.client.abort()
            tcp.client.abort()
            tcp.client.close()
            with pytest.raises(NetworkError, match=r"receive from .*: connection reset by peer") as caught:
                await waiting
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.__cause__.errno == errno.ECONNRESET
            with pytest.raises(NetworkError):
                await tcp.server.send(b"x")

    world.run(main)


@pytest.mark.parametrize("end", ["abort", "close"])
def test_ending_a_stream_wakes_its_own_tasks(world: World, end: str) -> None:
    async def main() -> None:
        async with Connected(world) as tcp:
            receiving = asyncio.ensure_future(tcp.client.recv(10))
            sending = asyncio.ensure_future(tcp.client.send(bytes(TOO_MUCH)))
            await world.settle()
            getattr(tcp.client, end)()
            for task in (receiving, sending):
                with pytest.raises(NetworkError, match="ed on this side"):
                    await task
            for attempt in (tcp.client.recv(1), tcp.client.send(b"")):
                with pytest.raises(NetworkError, match="ed on this side"):
                    await attempt
            with pytest.raises(NetworkError, match="ed on this side"):
                tcp.client.write_eof()
            with pytest.raises(NetworkError, match="ed on this side"):
                tcp.client.detach()

    world.run(main)


def test_close_still_delivers_what_was_sent(world: World) -> None:
    async def main() -> None:
        async with Connected(world) as tcp:
            await tcp.client.send(bytes(50_000))
            tcp.client.close()
            await world.settle()
            assert await recv_all(tcp.server) == bytes(50_000)

    world.run(main)


def test_close_with_unread_bytes_resets(world: World) -> None:
    async def main() -> None:
        async with Connected(world) as tcp:
            await tcp.server.send(b"never read")
            await world.settle()
            tcp.client.close()
            with pytest.raises(NetworkError, match="reset by peer"):
                await tcp.server.recv(10)

    world.run(main)


def test_what_the_peer_has_not_acknowledged_is_known(world: World) -> None:
    async def main() -> None:
        async with Connected(world) as tcp:
            assert tcp.client.unacknowledged() == 0
            sending = asyncio.ensure_future(tcp.client.send(bytes(TOO_MUCH)))
            await world.settle()
            assert 0 < tcp.client.unacknowledged() < TOO_MUCH
            await recv_exactly(tcp.server, TOO_MUCH)
            await sending
            await world.settle()
            assert tcp.client.unacknowledged() == 0

    world.run(main)


def test_two_tasks_at_one_direction_are_misuse(world: World) -> None:
    async def main() -> None:
        async with Connected(world) as tcp:
            receiving = asyncio.ensure_future(tcp.client.recv(10))
            sending = asyncio.ensure_future(tcp.client.send(bytes(TOO_MUCH)))
            await world.settle()
            with pytest.raises(RuntimeError, match="two tasks receive"):
                await tcp.client.recv(10)
            with pytest.raises(RuntimeError, match="two tasks send"):
                await tcp.client.send(b"x")
            with pytest.raises(RuntimeError, match="in use"):
                tcp.client.detach()
            await tcp.server.send(b"fine")
            assert await receiving == b"fine"
            assert await recv_exactly(tcp.server, TOO_MUCH) == bytes(TOO_MUCH)
            await sending

    world.run(main)


def test_a_cancelled_recv_loses_nothing(world: World) -> None:
    async def main() -> None:
        async with Connected(world) as tcp:
            for _ in range(3):
                receiving = asyncio.ensure_future(tcp.server.recv(10))
                await asyncio.sleep(0)
                await tcp.client.send(b"abc")
                await world.settle()
                receiving.cancel()
                got = await asyncio.gather(receiving, return_exceptions=True)
                if got == [b"abc"]:  # it was done before it was cancelled
                    continue
                assert await tcp.server.recv(10) == b"abc"
            receiving = asyncio.ensure_future(tcp.server.recv(10))
            await world.settle()
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
            await tcp.client.send(b"last")
            assert await tcp.server.recv(10) == b"last"

    world.run(main)


def test_a_cancelled_send_can_be_followed_by_an_end(world: World) -> None:
    async def main() -> None:
        async with Connected(world) as tcp:
            sending = asyncio.ensure_future(tcp.client.send(b"x" * TOO_MUCH))
            await world.settle()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            tcp.client.write_eof()
            got = await recv_all(tcp.server)
            assert got == b"x" * len(got)
            assert 0 < len(got) < TOO_MUCH

    world.run(main)


def test_nobody_listening_is_a_refusal_in_words(world: World) -> None:
    async def main() -> None:
        listener = world.b.listen_tcp(world.at_b(), refuse)
        listener.close()
        listener.close()
        with pytest.raises(NetworkError) as caught:
            await world.a.dial_tcp(listener.local)
        assert str(caught.value) == f"connect to {listener.local}: connection refused"
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)

    world.run(main)


def test_a_taken_port_is_refused(world: World) -> None:
    async def main() -> None:
        listener = world.b.listen_tcp(world.at_b(), refuse)
        with pytest.raises(NetworkError, match=r"listen on TCP .*: address already in use"):
            world.b.listen_tcp(listener.local, refuse)
        listener.close()
        world.b.listen_tcp(listener.local, refuse).close()

    world.run(main)


def test_dialling_from_the_listening_port_leaves_the_listener_alone(world: World) -> None:
    async def main() -> None:
        at_a: asyncio.Queue[TcpStream] = asyncio.Queue()
        ours = world.a.listen_tcp(world.at_a(), at_a.put_nowait)
        async with Connected(world) as tcp:
            punched = await world.a.dial_tcp(tcp.listener.local, ours.local)
            assert punched.local == ours.local
            met = await tcp.accepted.get()
            assert met.remote == ours.local
            back = await world.b.dial_tcp(ours.local)
            accepted = await at_a.get()
            await back.send(b"to the listener")
            assert await accepted.recv(100) == b"to the listener"
            with pytest.raises(NetworkError, match=f"connect to {tcp.listener.local}".replace("[", r"\[") + " from"):
                await world.a.dial_tcp(tcp.listener.local, ours.local)  # that pair of ports is in use
            for stream in (punched, met, back, accepted):
                stream.abort()
        ours.close()

    world.run(main)


def test_a_local_address_of_the_other_family_is_refused(world: World) -> None:
    async def main() -> None:
        other = world.at_b(9).of("::1" if ":" not in world.ip_a else "127.0.0.1", 0)
        with pytest.raises(NetworkError, match="connect to"):
            await world.a.dial_tcp(world.at_b(9), other)

    world.run(main)


def test_a_cancelled_dial_leaves_nothing(world: World) -> None:
    async def main() -> None:
        listener = world.b.listen_tcp(world.at_b(), lambda stream: stream.close())
        for turns in range(4):  # cancelled at once, under way, and when it was just done
            dial = asyncio.ensure_future(world.a.dial_tcp(listener.local))
            for _ in range(turns):
                await asyncio.sleep(0)
            dial.cancel()
            for done in await asyncio.gather(dial, return_exceptions=True):
                assert isinstance(done, asyncio.CancelledError) or not done.close()  # type: ignore[union-attr]
        await world.settle()
        listener.close()

    world.run(main)


def test_an_acceptor_that_fails_costs_that_connection_only(world: World) -> None:
    async def main() -> None:
        accepted: list[TcpStream] = []

        def accept_second(stream: TcpStream) -> None:
            accepted.append(stream)
            if len(accepted) == 1:
                raise ValueError("not you")

        listener = world.b.listen_tcp(world.at_b(), accept_second)
        with pytest.raises(NetworkError, match="reset by peer"):  # while it dials, or just after
            await (await world.a.dial_tcp(listener.local)).recv(1)
        second = await world.a.dial_tcp(listener.local)
        await second.send(b"hello")
        await world.settle()
        assert await accepted[1].recv(10) == b"hello"
        assert [type(context["exception"]) for context in world.uncaught] == [ValueError]
        world.uncaught.clear()
        for stream in (second, accepted[1]):
            stream.close()
        listener.close()

    world.run(main)


def test_many_at_once(world: World) -> None:
    async def main() -> None:
        async with Connected(world) as tcp:
            streams = await asyncio.gather(*(world.a.dial_tcp(tcp.listener.local) for _ in range(100)))
            accepted = [await tcp.accepted.get() for _ in streams]
            assert {stream.local for stream in streams} == {stream.remote for stream in accepted}
            for stream in [*streams, *accepted]:
                stream.abort()

    world.run(main)


def test_a_listener_closed_by_its_acceptor(world: World) -> None:
    async def main() -> None:
        accepted: list[TcpStream] = []

        def only_one(stream: TcpStream) -> None:
            accepted.append(stream)
            listener.close()

        listener = world.b.listen_tcp(world.at_b(), only_one)
        dials = [asyncio.ensure_future(world.a.dial_tcp(listener.local)) for _ in range(5)]
        streams = await asyncio.gather(*dials, return_exceptions=True)
        await world.settle()
        assert len(accepted) == 1
        for stream in [*streams, *accepted]:
            if not isinstance(stream, BaseException):
                stream.abort()

    world.run(main)
