"""What only kernel sockets have."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from namespaces import command, in_namespace
from network_worlds import Connected, Datagrams, SystemWorld, World, recv_exactly, uvloop

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, SockAddr
from warpgate.net.network import TcpStream
from warpgate.net.system import SystemNetwork
from warpgate.net.tcp import SystemTcpListener
from warpgate.net.udp import bind_udp, runs
from warpgate.platform import SOCKETS

pytestmark = pytest.mark.filterwarnings("error")
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "stock": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
IP_RECVTTL = 12  # linux/in.h; the socket module learnt it later
ANY = Endpoint.parse("127.0.0.1:0")


@pytest.fixture(params=LOOPS)
def system(request: pytest.FixtureRequest) -> World:
    return SystemWorld(LOOPS[request.param], "127.0.0.1")


def ignore(data: bytes, source: Any) -> None:
    pass


def start(dial: Awaitable[TcpStream]) -> asyncio.Future[TcpStream]:
    """Run a coroutine up to its first suspension, now, and go on in a task."""
    return asyncio.ensure_future(_Started(dial))


class _Started:
    def __init__(self, dial: Awaitable[TcpStream]) -> None:
        self._steps = dial.__await__()
        self._first = next(self._steps)

    def __await__(self) -> Iterator[Any]:
        yield self._first
        return (yield from self._steps)


def test_udp_detach_takes_one_flow_and_leaves_the_rest(system: World) -> None:
    async def main() -> None:
        ours, theirs, others = Datagrams(), Datagrams(), Datagrams()
        a = system.a.open_udp(ANY, ours)
        peer, other = system.b.open_udp(ANY, theirs), system.b.open_udp(ANY, others)
        with a.detach(peer.local) as flow, a.detach(Endpoint.parse("127.0.0.1:9")):
            peer.send(b"to the flow", a.local.sockaddr)
            other.send(b"to the rest", a.local.sockaddr)
            assert await ours.received.get() == (b"to the rest", other.local)
            assert await asyncio.get_running_loop().sock_recv(flow, 100) == b"to the flow"
            flow.send(b"out")
            assert await theirs.received.get() == (b"out", a.local)
            with pytest.raises(NetworkError, match="in use"):
                system.a.open_udp(a.local, ignore)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="in use"):
                    stranger.bind(a.local.sockaddr)
        peer.send(b"back to the rest", a.local.sockaddr)
        assert await ours.received.get() == (b"back to the rest", peer.local)
        for sock in (a, peer, other):
            sock.close()

    system.run(main)


def test_tcp_detach_hands_over_a_plain_socket(system: World) -> None:
    async def main() -> None:
        async with Connected(system) as tcp:
            await tcp.server.send(b"hello")
            with tcp.client.detach() as sock:
                assert not sock.getblocking()
                assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"hello"
            with pytest.raises(NetworkError, match="handed over"):
                await tcp.client.recv(1)

    system.run(main)


def test_the_kernel_watches_for_dead_peers(system: World) -> None:
    async def main() -> None:
        async with Connected(system) as tcp:
            for stream in (tcp.client, tcp.server):
                with stream.detach() as sock:
                    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                    names = ("NODELAY", "KEEPIDLE", "KEEPINTVL", "KEEPCNT")
                    options = [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}")) for name in names]
                    assert options == [1, 15, 5, 3]

    system.run(main)


def test_the_syn_leaves_before_the_first_suspension(system: World) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            dial = start(system.a.dial_tcp(Endpoint.from_sockaddr(server.getsockname())))
            server.settimeout(5)
            accepted, _ = server.accept()  # the loop has not run since
            accepted.close()
            (await dial).abort()

    system.run(main)


def test_a_reader_whose_data_is_always_there_lets_others_run(system: World) -> None:
    async def main() -> None:
        async with Connected(system) as tcp:
            await tcp.client.send(bytes(1000))
            await system.settle()
            turns = 0

            async def bystander() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            other = asyncio.ensure_future(bystander())
            for _ in range(1000):
                await tcp.server.recv(1)
            other.cancel()
            assert turns >= 10

    system.run(main)


def test_out_of_descriptors_the_listener_pauses_and_recovers(system: World, monkeypatch: pytest.MonkeyPatch) -> None:
    wake_ups = 0
    accept_waiting = SystemTcpListener._accept_waiting

    def counted(listener: SystemTcpListener) -> None:
        nonlocal wake_ups
        wake_ups += 1
        accept_waiting(listener)

    monkeypatch.setattr(SystemTcpListener, "_accept_waiting", counted)

    async def main() -> None:
        nonlocal wake_ups
        accepted: asyncio.Queue[TcpStream] = asyncio.Queue()
        listener = system.b.listen_tcp(ANY, accepted.put_nowait)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.create_connection(listener.local.sockaddr) as client:
            # The lowest free descriptor is what accept() would get.
            lowest = fcntl.fcntl(client.fileno(), fcntl.F_DUPFD, 0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                await asyncio.sleep(0.15)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert accepted.empty()
            assert 1 <= wake_ups <= 3
            (await accepted.get()).abort()
        wake_ups = 0
        listener.close()

    system.run(main)


class Faulty:
    """A socket whose next calls of one method raise."""

    def __init__(self, sock: socket.socket, method: str, *codes: int) -> None:
        self._sock, self._method, self._codes = sock, method, list(codes)

    def __getattr__(self, name: str) -> Any:
        return self._call if name == self._method else getattr(self._sock, name)

    def _call(self, *arguments: Any) -> Any:
        if not self._codes:
            return getattr(self._sock, self._method)(*arguments)
        code = self._codes.pop(0)
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize("gathers", [False, True])
def test_errors_of_earlier_datagrams_do_not_kill_a_udp_socket(
    system: World, monkeypatch: pytest.MonkeyPatch, gathers: bool
) -> None:
    async def main() -> None:
        inbox = Datagrams()
        a, b = system.a.open_udp(ANY, ignore), system.b.open_udp(ANY, inbox)
        real: Any = b._sock  # type: ignore[attr-defined]
        method = "recvmsg" if gathers else "recvfrom"
        monkeypatch.setattr(b, "_sock", Faulty(real, method, errno.ECONNREFUSED, errno.EHOSTUNREACH))
        if gathers:
            b.gather(lambda _datagrams, _source: False)
        a.send(b"alive", b.local.sockaddr)
        assert (await inbox.received.get())[0] == b"alive"
        assert b.receive_errors == 2  # type: ignore[attr-defined]
        a.close()
        b.close()

    system.run(main)


def test_what_leaves_by_one_call_is_of_one_size_but_for_a_shorter_last() -> None:
    datagrams = [bytes(size) for size in (3, 3, 2, 3, 3, 4, 4, 4, 4, 1, 0, 5, 70_000, 70_000)]
    sizes = [[len(data) for data in run] for run in runs(datagrams, 3)]
    assert sizes == [[3, 3, 2], [3, 3], [4, 4, 4], [4, 1], [0], [5], [70_000], [70_000]]
    assert [len(run) for run in runs(datagrams, 1)] == [1] * len(datagrams)


def test_what_waits_from_one_sender_is_taken_together_however_it_was_sent(system: World) -> None:
    async def main() -> None:
        runs: asyncio.Queue[tuple[list[bytes], int]] = asyncio.Queue()
        inbox = Datagrams()

        def take_run(datagrams: list[bytes], source: SockAddr) -> bool:
            runs.put_nowait((datagrams, source[1]))
            return True

        a, b, other = system.a.open_udp(ANY, ignore), system.b.open_udp(ANY, inbox), system.a.open_udp(ANY, ignore)
        b.gather(take_run)
        for data, sender in ((b"1", a), (b"22", a), (b"3", a), (b"alone", other), (b"4", a), (b"5", a)):
            assert sender.send(data, b.local.sockaddr)
        assert await runs.get() == ([b"1", b"22", b"3"], a.local.port)
        assert await runs.get() == ([b"4", b"5"], a.local.port)
        assert await inbox.received.get() == (b"alone", other.local)
        for opened in (a, b, other):
            opened.close()

    system.run(main)


def test_who_watches_a_flow_is_told_when_nobody_listens_there_any_more(system: World) -> None:
    """The flow goes on as before; others are not watched, and cost nothing."""

    async def main() -> None:
        inbox, refused = Datagrams(), asyncio.Queue[None]()
        a, b, other = (system.a.open_udp(ANY, inbox) for _ in range(3))
        watch = a.watch_refusals(b.local, lambda: refused.put_nowait(None))
        stock = isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)
        assert (watch is not None) == (stock and SOCKETS.tells_refusals)
        for source in (b, other):
            source.send(b"here", a.local.sockaddr)
            assert await inbox.received.get() == (b"here", source.local)
        a.send(b"there", b.local.sockaddr)
        assert await inbox.received.get() == (b"there", a.local)
        b.close()
        other.close()
        a.send(b"lost", other.local.sockaddr)
        for _ in range(3 if watch is not None else 0):
            assert a.send(b"lost", b.local.sockaddr)
            await refused.get()
        assert refused.empty()
        a.close()

    system.run(main)


def test_a_socket_keeps_nothing_of_flows_that_are_not_watched_any_more(system: World) -> None:
    async def main() -> None:
        socket_ = system.a.open_udp(ANY, ignore)
        for port in range(20_000, 20_020):
            watch = socket_.watch_refusals(Endpoint.of("127.0.0.1", port), lambda: None)
            if watch is not None:
                watch.close()
        assert len(socket_._twins) <= 1  # type: ignore[attr-defined]
        socket_.close()

    system.run(main)


def test_multicast_leaves_by_the_interface_of_the_address() -> None:
    with bind_udp(Endpoint.parse("127.0.0.1:0")) as sock:
        chosen = sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, 4)
    assert chosen == bytes((127, 0, 0, 1))


def test_the_ttl_is_on_the_wire_and_only_once(system: World) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
            receiver.settimeout(5)
            a = system.a.open_udp(ANY, ignore)
            seen = []
            for ttl in (3, None, 77):
                assert a.send(b"x", receiver.getsockname(), ttl)
                _, ancillary, _, _ = receiver.recvmsg(10, 100)
                seen.append(int.from_bytes(ancillary[0][2], "little"))
            assert seen == [3, 64, 77]
            a.close()

    system.run(main)


def test_a_full_send_buffer_is_no_error(system: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        a = system.a.open_udp(ANY, ignore)
        codes = (errno.EAGAIN, errno.ENETUNREACH, errno.EPERM, errno.ENOBUFS)
        monkeypatch.setattr(a, "_sock", Faulty(a._sock, "sendto", *codes))  # type: ignore[attr-defined]
        for expected in (0, 1, 2, 2):
            assert not a.send(b"x", ("127.0.0.1", 9))
            assert a.send_errors == expected  # type: ignore[attr-defined]
        a.close()

    system.run(main)


def test_nobody_connects_to_himself(system: World) -> None:
    async def main() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            itself = Endpoint.from_sockaddr(probe.getsockname())
        with pytest.raises(NetworkError, match="connected the socket to itself"):
            await system.a.dial_tcp(itself, itself)

    system.run(main)


def test_names_are_resolved_and_failures_are_network_errors(system: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        if host == "double.example":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))] * 2
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fake)

    async def main() -> None:
        assert await system.a.resolve("double.example", 53) == (Endpoint.parse("192.0.2.1:53"),)
        with pytest.raises(NetworkError, match=r"resolve 'none\.example': Name or service not known"):
            await system.a.resolve("none.example", 53)

    system.run(main)


def test_only_the_first_syn_has_the_first_ttl() -> None:
    async def main() -> None:
        network = SystemNetwork()
        for host, level, limit in (
            ("127.0.0.1", socket.IPPROTO_IP, socket.IP_TTL),
            ("[::1]", socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
        ):
            accepted: list[TcpStream] = []
            listener = network.listen_tcp(Endpoint.parse(f"{host}:0"), accepted.append)
            usual = (await network.dial_tcp(listener.local)).detach()
            primed = (await network.dial_tcp(listener.local, first_ttl=2)).detach()
            with usual, primed:
                assert primed.getsockopt(level, limit) == usual.getsockopt(level, limit) > 2
            listener.close()
            for stream in accepted:
                stream.abort()

    asyncio.run(main())


def test_simultaneous_open_beside_a_listener() -> None:
    """Both SYNs cross: neither end accepts, and both dials succeed (RFC 9293 section 3.5, figure 7)."""

    async def main() -> None:
        network = SystemNetwork()
        accepted: list[TcpStream] = []
        listener = network.listen_tcp(Endpoint.parse("127.0.0.1:2001"), accepted.append)
        other = Endpoint.parse("127.0.0.1:2002")
        first = start(network.dial_tcp(other, listener.local))
        second = start(network.dial_tcp(listener.local, other))
        a, b = await asyncio.wait_for(asyncio.gather(first, second), 5)
        await a.send(b"from a")
        await b.send(b"from b")
        assert (await recv_exactly(b, 6), await recv_exactly(a, 6)) == (b"from a", b"from b")
        third = await network.dial_tcp(listener.local)
        await asyncio.sleep(0.01)
        assert len(accepted) == 1
        for stream in (a, b, third, *accepted):
            stream.abort()
        listener.close()

    def test() -> None:
        # Without it the kernel answers the first SYN with a RST before the second one leaves.
        command("nft", "add table inet t")
        command("nft", "add chain inet t out { type filter hook output priority 0; }")
        command("nft", "add rule inet t out tcp flags rst drop")
        asyncio.run(main())

    in_namespace(test)


@pytest.mark.parametrize(("first", "second"), [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")])
def test_a_stream_gets_through_where_large_packets_vanish_without_a_word(first: str, second: str) -> None:
    """A link of 1280 bytes in the middle, ICMP filtered; segments are not put together to larger packets here."""

    async def main() -> None:
        network = SystemNetwork()
        accepted: asyncio.Queue[TcpStream] = asyncio.Queue()
        listener = network.listen_tcp(Endpoint.of(second, 0), accepted.put_nowait)
        near = await network.dial_tcp(listener.local, Endpoint.of(first, 0))
        far = await accepted.get()
        async with asyncio.timeout(20):
            for sender, receiver in ((near, far), (far, near)):
                sending = asyncio.ensure_future(sender.send(bytes(100_000)))
                assert len(await recv_exactly(receiver, 100_000)) == 100_000
                await sending
        for stream in (near, far):
            stream.abort()
        listener.close()

    def test() -> None:
        narrow("meta length > 1280 drop")
        for ip in (first, second):
            own(ip)
        asyncio.run(main())

    in_namespace(test)


def test_datagrams_may_be_fragmented_on_the_way() -> None:
    async def main() -> None:
        received: asyncio.Queue[bytes] = asyncio.Queue()
        network = SystemNetwork()
        far = network.open_udp(Endpoint.of("192.0.2.2", 0), lambda data, _: received.put_nowait(data))
        near = network.open_udp(Endpoint.of("192.0.2.1", 0), ignore)
        twin = near.detach(far.local)
        assert near.send(bytes(1450), far.local.sockaddr)
        async with asyncio.timeout(5):
            assert len(await received.get()) == 1450
            twin.send(bytes(1440))
            assert len(await received.get()) == 1440
        twin.close()
        near.close()
        far.close()

    def test() -> None:
        narrow("ip frag-off & 0x4000 != 0 meta l4proto udp drop")
        for ip in ("192.0.2.1", "192.0.2.2"):
            own(ip)
        asyncio.run(main())

    in_namespace(test)


def narrow(rule: str) -> None:
    command("ip", "link", "set", "dev", "lo", "mtu", "1500", "gso_max_segs", "1")
    command("nft", "add table inet t")
    command("nft", "add chain inet t out { type filter hook output priority 0; }")
    command("nft", f"add rule inet t out {rule}")


def own(ip: str) -> None:
    """An address of ours, as soon as the kernel has its route: for IPv6 it makes that in the background."""
    command("ip", "address", "add", ip, "dev", "lo", *(("nodad",) if ":" in ip else ()))
    while subprocess.run(("ip", "route", "get", ip, "from", ip), check=False, capture_output=True).returncode:
        pass
