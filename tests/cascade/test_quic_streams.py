"""Streams over UDP in virtual time: how fast, who wins, how they end, and that nothing is left."""

from __future__ import annotations

import asyncio

import pytest
from cascade_world import HOP, LASTING, Options, R, S, World, connected, ends, exchange, virtual

from warpgate import api
from warpgate.core.connection.byte_stream import SEND_BUFFER, WINDOW
from warpgate.core.connection.channel import Channel
from warpgate.core.connections import LINGERING
from warpgate.core.pipes.quic import LINGER
from warpgate.core.pipes.subscription import Subscription
from warpgate.core.search.quic_link import TIE
from warpgate.errors import ConfigError, ConnectFailed, PipeClosed
from warpgate.events import StrangerRefused
from warpgate.model.endpoint import Mode, Transport

r = HOP
OVER_QUIC: Options = {"mode": Mode.STREAM, "transport": Transport.UDP}
BLOB = bytes(range(256)) * 40_000  # 10 MB


# -- how fast, and who wins --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind_a", "kind_b", "plugin", "seconds"),
    [
        ("public", "public", "direct", R),
        ("eim-apdf", "eim-apdf", "udp_punch", S + r),
        ("edm", "public", "direct", R),
        ("public", "edm", "udp_punch", S + r),
        ("edm", "eim-adf", "udp_punch", S + R),
        ("masquerade", "eim-apdf", "udp_punch", S + r),
    ],
)
def test_open_when_its_link_is(kind_a: str, kind_b: str, plugin: str, seconds: float) -> None:
    async def main() -> None:
        async with World(kind_a, kind_b) as world:
            one, other, waited = await connected(world, **OVER_QUIC)
            assert (one.plugin, other.plugin) == (plugin, plugin)
            assert (one.mode, one.transport, other.transport) == (Mode.STREAM, Transport.UDP, Transport.UDP)
            assert waited == pytest.approx(seconds, abs=1e-6)
            await exchange(one, other)
            await one.close()
            await other.close()
            await world.quiet()
            assert world.a.signals()["offer"] <= 1

    virtual(main)


@pytest.mark.parametrize(
    ("kind_a", "kind_b", "plugin", "seconds"),
    [
        ("public", "public", "direct", 2 * R),  # a tie is TCP's
        ("public", "eim-apdf", "reverse", S + 1.5 * R),
    ],
)
def test_tcp_wins_when_it_is_no_slower(kind_a: str, kind_b: str, plugin: str, seconds: float) -> None:
    async def main() -> None:
        async with World(kind_a, kind_b) as world:
            one, other, waited = await connected(world, mode=Mode.STREAM)
            assert (one.plugin, one.transport, other.transport) == (plugin, Transport.TCP, Transport.TCP)
            assert waited == pytest.approx(seconds, abs=1e-6)
            await exchange(one, other)
            await one.close()
            await other.close()
            await world.quiet()

    virtual(main)


@pytest.mark.parametrize(
    ("kind_a", "kind_b"), [("eim-apdf+no-tcp", "eim-apdf"), ("eim-apdf+no-tcp", "eim-apdf+no-tcp")]
)
def test_where_tcp_does_not_pass_it_is_waited_for_a_part_of_a_round_trip(kind_a: str, kind_b: str) -> None:
    async def main() -> None:
        async with World(kind_a, kind_b) as world:
            one, other, waited = await connected(world, mode=Mode.STREAM)
            assert (one.plugin, one.transport) == ("udp_punch", Transport.UDP)
            assert S + r + R <= waited <= S + r + R + TIE * R + 1e-6
            await exchange(one, other)
            await one.close()
            await other.close()
            await world.quiet()

    virtual(main)


def test_many_streams_between_two_nodes_share_a_pair_of_endpoints() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            began = world.now
            pipes = await asyncio.gather(*(world.a.node.connect(world.b.node.address, **OVER_QUIC) for _ in range(12)))
            assert world.now - began == pytest.approx(S + r, abs=1e-6)
            others = {pipe.session: pipe for pipe in [await world.b.node.accept() for _ in pipes]}
            assert len({(pipe.local, pipe.remote) for pipe in pipes}) == 1
            assert world.b.said(StrangerRefused) == []
            for number, pipe in enumerate(pipes):
                await pipe.send(b"%d" % number)
            for number, pipe in enumerate(pipes):
                assert await others[pipe.session].recv(timeout=5) == b"%d" % number
            await asyncio.gather(*(pipe.close() for pipe in (*pipes, *others.values())))
            await world.quiet()

    virtual(main)


def test_both_nodes_open_a_stream_to_each_other_at_once() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            a, b = world.a.node, world.b.node
            mine, yours = await asyncio.gather(a.connect(b.address, **OVER_QUIC), b.connect(a.address, **OVER_QUIC))
            mine_there, yours_here = await b.accept(), await a.accept()
            await exchange(mine, mine_there)
            await exchange(yours, yours_here)
            await asyncio.gather(*(pipe.close() for pipe in (mine, yours, mine_there, yours_here)))
            await world.quiet()

    virtual(main)


# -- giving up ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0.0, S - 0.001, S + 0.001, S + r - 0.001])
def test_cancelled_in_the_middle_of_it_all_nothing_is_left(after: float) -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            attempt = asyncio.ensure_future(world.a.node.connect(world.b.node.address, **OVER_QUIC))
            await asyncio.sleep(after)
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt
            await world.quiet()
            for seat in (world.a, world.b):
                assert all(not port.streams for port in seat.run.udp.ports)

    virtual(main)


def test_losers_leave_no_quic_behind() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            one, other, _ = await connected(world, mode=Mode.STREAM)
            assert one.transport is Transport.TCP
            await asyncio.sleep(1.0)
            for seat in (world.a, world.b):
                assert all(not port.streams for port in seat.run.udp.ports)
            await one.close()
            await other.close()
            await world.quiet()

    virtual(main)


def test_a_path_that_dies_in_the_handshake_fails_the_attempt() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            attempt = asyncio.ensure_future(world.a.node.connect(world.b.node.address, timeout=8.0, **OVER_QUIC))
            await asyncio.sleep(r - 0.001)  # the peer answers, and it does not arrive
            world.lose(1.0)
            with pytest.raises(ConnectFailed):
                await attempt
            await world.quiet()

    virtual(main)


@pytest.mark.parametrize("loss", [0.05, 0.2])
def test_loss_delays_a_stream_but_not_for_long(loss: float) -> None:
    async def main() -> None:
        for seed in range(8):
            async with World("eim-apdf", "eim-apdf", loss=loss, seed=seed) as world:
                one, other, waited = await connected(world, **OVER_QUIC)
                assert waited < 5.0
                await exchange(one, other)
                await one.close()
                await other.close()
                await world.quiet()

    virtual(main)


# -- what it is to the user --------------------------------------------------------------------------------------


async def pair(world: World) -> tuple[api.Pipe, api.Pipe]:
    one, other, _ = await connected(world, **OVER_QUIC)
    return one, other


async def drain(pipe: api.Pipe) -> bytes:
    return b"".join([data async for data in pipe])


@pytest.mark.parametrize("backwards", [False, True])
def test_ten_megabytes_whole_and_in_order_then_the_end(backwards: bool) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            one, other = await pair(world)
            sender, receiver = (other, one) if backwards else (one, other)
            receiving = asyncio.ensure_future(drain(receiver))
            await sender.send(BLOB)
            await sender.close()  # returns when the peer has it all
            assert await receiving == BLOB
            await receiver.close()
            await world.quiet()

    virtual(main)


@pytest.mark.parametrize("options", [OVER_QUIC, LASTING], ids=["plain", "durable"])
def test_a_path_that_narrows_in_the_middle_of_a_transfer_loses_nothing(options: Options) -> None:
    """To 1,280 bytes an IP packet, the least that IPv6 needs, and nobody says so: no packet is ever larger."""

    async def main() -> None:
        async with World("public", "public") as world:
            sent = world.internet.capture()
            one, other, _ = await connected(world, **options)
            receiving = asyncio.ensure_future(drain(other))
            await one.send(BLOB[:1_000_000])
            await one.close()
            assert len(await receiving) == 1_000_000
            await other.close()
            assert max(len(seen.packet.payload) for seen in sent if isinstance(seen.packet.payload, bytes)) <= 1280 - 48

    virtual(main)


def test_a_half_closed_pipe_answers() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            one, other = await pair(world)
            await one.send(b"how many?")
            one.write_eof()
            with pytest.raises(PipeClosed):
                await one.send(b"more")
            assert await drain(other) == b"how many?"
            await other.send(b"nine")
            await other.close()
            assert await drain(one) == b"nine"
            await one.close()
            await world.quiet()

    virtual(main)


def test_a_slow_reader_stops_the_writer_and_memory_stays_bounded() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            one, other = await pair(world)
            sending = asyncio.ensure_future(one.send(bytes(4 * WINDOW)))
            await asyncio.sleep(30.0)
            assert not sending.done()
            flow = other._stream  # type: ignore[attr-defined]
            assert len(flow._unread) <= WINDOW
            assert one._stream._quic.get_send_buffer_size(0) <= SEND_BUFFER  # type: ignore[attr-defined]
            count = 0
            while count < 4 * WINDOW:
                count += len(await other.recv())
            await sending
            await one.close()
            await other.close()
            await world.quiet()

    virtual(main)


def test_filters_and_counts_as_on_any_stream() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            one, other = await pair(world)
            await one.send(b"first line\nsecond line\nrest")
            assert await other.recv(Subscription(content=rb"\n"), timeout=5) == b"first line\n"
            assert await other.recv_n(7) == b"second "
            with pytest.raises(TimeoutError):
                await other.recv(Subscription(content=rb"never"), timeout=1.0)
            assert await other.recv() == b"line\nrest"
            with pytest.raises(TimeoutError):
                await other.recv(timeout=0.5)
            await one.close()
            with pytest.raises(PipeClosed):
                await other.recv_n(1)
            await other.close()
            await world.quiet()

    virtual(main)


def test_concurrent_senders_do_not_cut_in_on_each_other() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            one, other = await pair(world)
            size = 3 * SEND_BUFFER
            receiving = asyncio.ensure_future(drain(other))
            await asyncio.gather(*(one.send(bytes([letter]) * size) for letter in b"abc"))
            await one.close()
            assert await receiving == b"a" * size + b"b" * size + b"c" * size
            await other.close()
            await world.quiet()

    virtual(main)


def test_an_abort_resets_the_other_side_at_once() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            one, other = await pair(world)
            receiving = asyncio.ensure_future(other.recv())
            await asyncio.sleep(1.0)
            began = world.now
            one.abort()
            with pytest.raises(PipeClosed):
                await receiving
            assert world.now - began <= r + 0.01
            with pytest.raises(PipeClosed):
                await other.send(b"anybody?")
            with pytest.raises(PipeClosed):
                await one.recv()
            await world.quiet()

    virtual(main)


def test_a_closed_side_gives_nothing_out_and_closing_twice_is_no_error() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            one, other = await pair(world)
            await other.send(b"unread")
            await asyncio.sleep(1.0)
            await one.close()
            await one.close()
            one.abort()
            with pytest.raises(PipeClosed):
                await one.recv()
            await other.close()
            await world.quiet()

    virtual(main)


def test_a_silent_peer_ends_the_pipe_within_35_seconds() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            one, other = await pair(world)
            await asyncio.sleep(60.0)  # idle: the checks beneath keep it open
            await exchange(one, other)
            world.lose(1.0)
            began = world.now
            assert await ends(one, patience=40.0)
            assert world.now - began <= 35.0
            assert await ends(other, patience=10.0)
            await world.quiet(patience=40.0)

    virtual(main)


@pytest.mark.parametrize("size", [4, 300_000])
@pytest.mark.parametrize("options", [OVER_QUIC, LASTING], ids=["quic", "durable"])
@pytest.mark.parametrize("kinds", [("public", "public"), ("edm", "eim-apdf")], ids="-".join)
def test_closing_towards_a_dead_peer_takes_as_long_as_linger(
    kinds: tuple[str, str], options: Options, size: int
) -> None:
    """Also where the path was searched for, and the first packets of QUIC's travelled with an offer."""

    async def main() -> None:
        async with World(*kinds) as world:
            one, other, waited = await connected(world, **options)
            assert (waited > 0.5) == (kinds[0] == "edm")
            await exchange(one, other)
            await one.send(bytes(size))
            world.lose(1.0)
            began = world.now
            await one.close()
            # A probe takes out what waited, two seconds later at most behind a search.
            assert LINGER <= world.now - began + 0.01 <= LINGER + (0.1 if waited < 0.5 else 3.0)
            await other.close()

    virtual(main)


def test_a_peer_that_never_says_that_it_has_all_is_waited_for_as_long_however_busy_other_pipes_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What they send is acknowledged all the time."""
    monkeypatch.setattr(Channel, "_say_delivered", lambda _: None)

    async def main() -> None:
        async with World("public", "public") as world:
            one, there, _ = await connected(world, **LASTING)
            busy, reader, _ = await connected(world, **LASTING)

            async def write() -> None:
                while True:
                    await busy.send(bytes(1000))
                    await asyncio.sleep(0.01)

            async def read() -> None:
                while await reader.recv():
                    pass

            tasks = [asyncio.ensure_future(work) for work in (write(), read())]
            await asyncio.sleep(1.0)
            await one.send(bytes(10_000))
            began = world.now
            await one.close()
            assert world.now - began == pytest.approx(LINGER, abs=0.2)
            for task in tasks:
                task.cancel()
            for pipe in (there, busy, reader):
                pipe.abort()

    virtual(main)


@pytest.mark.parametrize("options", [OVER_QUIC, LASTING], ids=["plain", "durable"])
@pytest.mark.parametrize("first", ["peer", "nobody"])
def test_a_node_that_closes_while_its_pipe_is_being_closed_waits_for_that(options: Options, first: str) -> None:
    """A handler is at its end, of its own accord or because the peer's has closed: nothing is cut, nothing lingers."""
    blob = BLOB[:200_000]

    async def main() -> None:
        async with World() as world:
            near, far, _ = await connected(world, **options)
            await exchange(near, far)
            await far.send(blob)
            if first == "peer":
                near.write_eof()
                assert await far.recv() == b""
            closing = asyncio.ensure_future(far.close())
            await asyncio.sleep(0)
            began = world.now
            await world.b.node.close()
            assert await near.recv_n(len(blob)) == blob
            await closing
            assert world.now - began < 0.5
            await near.close()
            assert world.now - began < 0.5

    virtual(main)


@pytest.mark.parametrize("options", [OVER_QUIC, LASTING], ids=["plain", "durable"])
def test_nor_does_that_take_longer_where_the_peer_is_gone(options: Options) -> None:
    async def main() -> None:
        async with World() as world:
            near, far, _ = await connected(world, **options)
            await exchange(near, far)
            world.hosts["a"].crash()
            closing = asyncio.ensure_future(far.close())
            await asyncio.sleep(0)
            began = world.now
            await world.b.node.close()
            await closing
            assert world.now - began < 1.0

    virtual(main)


def test_there_is_no_socket_to_hand_over_but_asyncio_streams_work() -> None:
    async def main() -> None:
        async with World("eim-apdf+no-tcp", "eim-apdf") as world:
            one, other = await pair(world)
            with pytest.raises(ConfigError, match="no socket of its own"):
                one.detach()
            await exchange(one, other)
            await one.close()
            await other.close()
            reader, writer = await api.open_connection(world.a.node, world.b.node.address)
            pipe = await world.b.node.accept()
            echo = asyncio.ensure_future(_echo(pipe))
            data = bytes(1_000_000)
            writer.write(b"hello\n" + data)
            await writer.drain()
            writer.write_eof()
            assert await reader.readline() == b"hello\n"
            assert await reader.read() == data
            writer.close()
            await writer.wait_closed()
            await echo
            await world.quiet()

    virtual(main)


async def _echo(pipe: api.Pipe) -> None:
    async with pipe:
        async for data in pipe:
            await pipe.send(data)


@pytest.mark.parametrize("options", [OVER_QUIC, {"durable": True}])
def test_datagram_pipes_on_the_same_pair_are_left_alone(options: Options) -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            flat, flat_there, _ = await connected(world, mode=Mode.DATAGRAM)
            one, other, _ = await connected(world, **options)
            await exchange(one, other)
            await exchange(flat, flat_there)
            assert (flat.local, flat.remote) == (one.local, one.remote)
            for pipe in (one, other, flat, flat_there):
                await pipe.close()
            await asyncio.sleep(LINGERING)
            await world.quiet()

    virtual(main)
