"""TCP through the internet in memory: what takes how long, and what breaks how. [LAB] figures:
docs/references.
"""

from __future__ import annotations

import asyncio

import pytest

from warpgate.errors import NetworkError
from warpgate.lab.flow import SYN
from warpgate.lab.nat import NatSpec, Unsolicited
from warpgate.model.endpoint import Endpoint
from warpgate.net.network import TcpStream
from warpgate_testing.clock import run_virtual
from warpgate_testing.internet import MemoryInternet, MemoryNetwork, PathSpec
from warpgate_testing.segment import TcpSegment

E = Endpoint.parse
R = 0.1  # the default path, there and back


def now() -> float:
    return round(asyncio.get_running_loop().time(), 6)


def two_hosts(**path: float) -> tuple[MemoryInternet, MemoryNetwork, MemoryNetwork]:
    internet = MemoryInternet(seed=2, path=PathSpec(**path))  # type: ignore[arg-type]
    return internet, internet.host("a", "192.0.2.1"), internet.host("b", "192.0.2.2")


async def connect(a: MemoryNetwork, b: MemoryNetwork) -> tuple[TcpStream, TcpStream]:
    accepted: asyncio.Queue[TcpStream] = asyncio.Queue()
    listener = b.listen_tcp(E("192.0.2.2:80"), accepted.put_nowait)
    client = await a.dial_tcp(listener.local)
    server = await accepted.get()
    listener.close()
    return client, server


def test_a_connection_costs_one_round_trip_and_half_a_one_more_at_the_listener() -> None:
    async def main() -> None:
        internet, a, b = two_hosts()
        accepted: asyncio.Queue[TcpStream] = asyncio.Queue()
        listener = b.listen_tcp(E("192.0.2.2:80"), accepted.put_nowait)
        client = await a.dial_tcp(listener.local)
        assert now() == R
        server = await accepted.get()
        assert now() == pytest.approx(1.5 * R)
        await client.send(b"x")
        assert await server.recv(10) == b"x"
        assert now() == pytest.approx(2 * R)
        assert {entry.kind for entry in internet.open_sockets()} == {"stream", "listener"}
        client.close()
        assert await server.recv(10) == b""
        assert now() == pytest.approx(2.5 * R)
        server.close()
        listener.close()
        assert internet.open_sockets() == ()
        await asyncio.sleep(1)
        assert not a._ends
        assert not b._ends  # the kernels are done as well

    run_virtual(main())


def test_refused_after_a_round_trip() -> None:
    async def main() -> None:
        _, a, _ = two_hosts()
        with pytest.raises(NetworkError, match="connection refused"):
            await a.dial_tcp(E("192.0.2.2:80"))
        assert now() == R

    run_virtual(main())


def test_syns_are_repeated_and_given_up_like_linux_does() -> None:
    async def main() -> None:
        internet, a, _ = two_hosts()
        packets = internet.capture()
        with pytest.raises(NetworkError, match="timed out"):
            await a.dial_tcp(E("192.0.2.99:80"))
        assert now() == 127
        assert [entry.time for entry in packets] == [0, 1, 3, 7, 15, 31, 63]

    run_virtual(main())


def test_a_lost_syn_costs_its_retransmission() -> None:
    async def main() -> None:
        internet, a, b = two_hosts()
        internet.partition(a, b)
        asyncio.get_running_loop().call_later(2, internet.heal, a, b)
        client, server = await connect(a, b)
        assert now() == pytest.approx(3 + 1.5 * R)
        client.abort()
        server.abort()

    run_virtual(main())


class Punch:
    """Two NATs, both ends dial from a fixed port, b later by `skew`."""

    def __init__(self, spec: NatSpec, skew: float) -> None:
        self.internet = MemoryInternet(seed=4)
        homes = [self.internet.router(f"r{n}", f"198.51.100.{n}", spec) for n in (1, 2)]
        self.a = self.internet.host("a", "192.168.0.2", behind=homes[0])
        self.b = self.internet.host("b", "10.0.0.2", behind=homes[1])
        self.skew = skew

    async def run(self) -> list[float | None]:
        """When each end was connected; None where it was refused."""
        streams: list[TcpStream] = []

        async def dial(network: MemoryNetwork, remote: str, local: str, delay: float) -> float | None:
            await asyncio.sleep(delay)
            try:
                streams.append(await network.dial_tcp(E(remote), E(local)))
            except NetworkError:
                return None
            return now()

        times = await asyncio.gather(
            dial(self.a, "198.51.100.2:2000", "192.168.0.2:1000", 0),
            dial(self.b, "198.51.100.1:1000", "10.0.0.2:2000", self.skew),
        )
        if len(streams) == 2:
            await streams[0].send(b"through")
            assert await streams[1].recv(100) == b"through"
        for stream in streams:
            stream.abort()
        assert self.internet.open_sockets() == ()
        return times


def test_simultaneous_open_through_nats_takes_one_round_trip() -> None:
    # [LAB] 101 ms at r = 50 ms
    assert run_virtual(Punch(NatSpec(), 0.0).run()) == [R, R]


@pytest.mark.parametrize("skew", [0.0, 0.02, 0.048])
def test_below_half_a_round_trip_of_skew_any_nat_will_do(skew: float) -> None:
    for policy in (Unsolicited.DROP, Unsolicited.REJECT):
        times = run_virtual(Punch(NatSpec(unsolicited=policy), skew).run())
        assert times == pytest.approx([R + skew, R], abs=skew + 1e-9)


@pytest.mark.parametrize("skew", [0.06, 0.1, 0.2])
def test_a_later_syn_passes_a_silent_nat_and_not_one_that_resets(skew: float) -> None:
    # [LAB] skew + 151 ms through a dropping NAT; fails through an RST-answering one
    assert run_virtual(Punch(NatSpec(), skew).run()) == pytest.approx([skew + 1.5 * R, skew + R])
    assert None in run_virtual(Punch(NatSpec(unsolicited=Unsolicited.REJECT), skew).run())


def test_simultaneous_open_beside_listeners_disturbs_nobody() -> None:
    async def main() -> None:
        internet, a, b = two_hosts()
        accepted: list[TcpStream] = []
        listeners = [
            a.listen_tcp(E("192.0.2.1:1"), accepted.append),
            b.listen_tcp(E("192.0.2.2:2"), accepted.append),
        ]
        streams = await asyncio.gather(
            a.dial_tcp(E("192.0.2.2:2"), E("192.0.2.1:1")), b.dial_tcp(E("192.0.2.1:1"), E("192.0.2.2:2"))
        )
        assert now() == R
        assert accepted == []
        for sock in (*listeners, *streams):
            sock.close()
        assert internet.open_sockets() == ()

    run_virtual(main())


@pytest.mark.parametrize("loss", [0.05, 0.3])
def test_data_survives_loss_and_jitter(loss: float) -> None:
    async def main() -> None:
        _, a, b = two_hosts(delay=0.02, jitter=0.01, loss=loss)
        client, server = await connect(a, b)
        data = bytes(range(256)) * 2000

        async def send(stream: TcpStream) -> None:
            await stream.send(data)
            stream.write_eof()

        async def receive(stream: TcpStream) -> bytes:
            got = bytearray()
            while part := await stream.recv(10_000):
                got += part
            return bytes(got)

        results = await asyncio.gather(send(client), send(server), receive(client), receive(server))
        assert results[2:] == [data, data]
        client.close()
        server.close()
        await asyncio.sleep(100)
        assert not a._ends
        assert not b._ends

    run_virtual(main())


def test_a_slow_reader_holds_up_the_sender_and_a_window_update_is_enough() -> None:
    async def main() -> None:
        internet, a, b = two_hosts()
        client, server = await connect(a, b)
        packets = internet.capture()
        sending = asyncio.ensure_future(client.send(bytes(1_000_000)))
        await asyncio.sleep(50)
        assert not sending.done()
        total = 0
        while total < 1_000_000:
            await asyncio.sleep(0.01)
            total += len(await server.recv(50_000))
        await sending
        assert now() < 60
        sent = [entry.packet.payload for entry in packets if entry.sent and entry.host == "a"]
        numbers = [segment.seq for segment in sent if isinstance(segment, TcpSegment) and segment.data]
        assert len(numbers) == len(set(numbers))  # window updates are no duplicate ACKs
        client.abort()
        server.abort()

    run_virtual(main())


def test_data_in_flight_into_a_partition_stalls_and_a_short_one_is_survived() -> None:
    async def main() -> None:
        internet, a, b = two_hosts()
        client, server = await connect(a, b)
        internet.partition(a, b)
        await client.send(b"held up")
        asyncio.get_running_loop().call_later(10, internet.heal, a, b)
        await asyncio.sleep(9)
        assert client.stalled() == pytest.approx(9)
        assert server.stalled() == 0.0
        assert await server.recv(100) == b"held up"
        await asyncio.sleep(1)
        assert client.stalled() == 0.0
        internet.partition(a, b)
        await client.send(b"lost")
        started = now()
        with pytest.raises(NetworkError, match="timed out"):  # its keepalive: 15 + 3 * 5 s
            await server.recv(100)
        assert 28 <= now() - started <= 30
        assert client.stalled() == pytest.approx(now() - started)
        with pytest.raises(NetworkError, match="timed out"):  # net.ipv4.tcp_retries2
            await client.recv(100)
        assert now() - started == pytest.approx(924.6)
        client.close()
        server.close()

    run_virtual(main())


def test_a_dead_peer_is_noticed_with_nothing_to_send() -> None:
    async def main() -> None:
        _, a, b = two_hosts()
        client, _ = await connect(a, b)
        heard = now()
        b.crash()
        with pytest.raises(NetworkError, match="timed out"):
            await client.recv(1)
        assert now() - heard == pytest.approx(30, abs=R)

    run_virtual(main())


def test_an_idle_connection_stays() -> None:
    async def main() -> None:
        _, a, b = two_hosts()
        client, server = await connect(a, b)
        await asyncio.sleep(3000)
        await client.send(b"still there")
        assert await server.recv(100) == b"still there"
        client.abort()
        server.abort()

    run_virtual(main())


def test_a_host_that_comes_back_knows_nothing_of_its_connections() -> None:
    async def main() -> None:
        internet, a, b = two_hosts()
        client, server = await connect(a, b)
        receiving = asyncio.ensure_future(server.recv(1))
        await asyncio.sleep(0)
        b.crash()
        with pytest.raises(NetworkError, match="network is down"):
            await receiving
        b.boot()
        await client.send(b"hello?")
        with pytest.raises(NetworkError, match="reset by peer"):
            await client.recv(1)
        client.close()
        assert internet.open_sockets() == ()

    run_virtual(main())


def test_received_bytes_can_be_read_after_a_reset() -> None:
    async def main() -> None:
        _, a, b = two_hosts()
        client, server = await connect(a, b)
        await client.send(b"last words")
        client.abort()
        await asyncio.sleep(1)
        assert await server.recv(100) == b"last words"
        with pytest.raises(NetworkError, match="reset by peer"):
            await server.recv(100)

    run_virtual(main())


def test_injected_dial_failures_send_nothing() -> None:
    async def main() -> None:
        internet, a, b = two_hosts()
        packets = internet.capture()
        a.fail_next_dial("the test says so")
        with pytest.raises(NetworkError, match=r"connect to 192\.0\.2\.2:80: the test says so"):
            await connect(a, b)
        assert packets == []
        b.listen_tcp(E("192.0.2.2:81"), lambda stream: stream.close())
        (await a.dial_tcp(E("192.0.2.2:81"))).close()

    run_virtual(main())


def test_the_syn_leaves_before_the_first_suspension_and_cancelling_tells_nobody() -> None:
    async def main() -> None:
        internet, a, b = two_hosts()
        packets = internet.capture()
        b.listen_tcp(E("192.0.2.2:80"), lambda stream: stream.close())
        dial = a.dial_tcp(E("192.0.2.2:80"))
        dial.send(None)  # type: ignore[attr-defined]  # up to its first suspension
        assert [entry.packet.flags for entry in packets] == [SYN]
        assert [entry.kind for entry in internet.open_sockets() if entry.host == "a"] == ["dial"]
        dial.close()  # type: ignore[attr-defined]
        assert [entry for entry in internet.open_sockets() if entry.host == "a"] == []
        await asyncio.sleep(1)
        # The SYN+ACK meets nobody, and RST ends it at the listener.
        segments = [entry.packet.payload for entry in packets if entry.sent]
        assert [segment.flags for segment in segments if isinstance(segment, TcpSegment)] == [
            0x02,
            0x12,
            0x04,
        ]
        assert not b._ends

    run_virtual(main())


def test_a_cancelled_dial_that_had_just_succeeded_is_reset() -> None:
    async def main() -> None:
        _, a, b = two_hosts()
        accepted: asyncio.Queue[TcpStream] = asyncio.Queue()
        listener = b.listen_tcp(E("192.0.2.2:80"), accepted.put_nowait)
        dial = asyncio.ensure_future(a.dial_tcp(listener.local))
        asyncio.get_running_loop().call_later(R, dial.cancel)
        await asyncio.sleep(1)
        assert dial.done()
        if dial.cancelled():
            with pytest.raises(NetworkError, match="reset by peer"):
                await (await accepted.get()).recv(1)
        assert not a._ends or not dial.cancelled()

    run_virtual(main())


def test_loopback_takes_no_time_and_never_leaves() -> None:
    async def main() -> None:
        _, a, _ = two_hosts()
        accepted: asyncio.Queue[TcpStream] = asyncio.Queue()
        listener = a.listen_tcp(E("0.0.0.0:80"), accepted.put_nowait)
        for target in ("127.0.0.1:80", "192.0.2.1:80"):
            stream = await a.dial_tcp(E(target))
            assert stream.local.ip == E(target).ip
            (await accepted.get()).close()
            assert await stream.recv(1) == b""
            stream.close()
        assert now() == 0
        listener.close()

    run_virtual(main())
