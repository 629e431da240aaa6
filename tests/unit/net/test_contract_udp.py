"""What every Network promises about UDP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from network_worlds import Datagrams, World, close_all

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint, Family
from warpgate.net.network import UdpSocket

pytestmark = pytest.mark.filterwarnings("error")


def nobody(data: bytes, source: Any) -> None:
    raise AssertionError(f"{data!r} from {source}")


def test_datagrams_go_both_ways_and_name_their_source(world: World) -> None:
    async def main() -> None:
        at_a, at_b = Datagrams(), Datagrams()
        a = world.a.open_udp(world.at_a(), at_a)
        b = world.b.open_udp(world.at_b(), at_b)
        assert a.send(b"question", b.local.sockaddr)
        assert await at_b.received.get() == (b"question", a.local)
        assert b.send(b"", a.local.sockaddr)
        assert await at_a.received.get() == (b"", b.local)
        close_all(a, b)

    world.run(main)


def test_a_burst_arrives_whole_and_in_order(world: World) -> None:
    async def main() -> None:
        inbox = Datagrams()
        a, b = world.a.open_udp(world.at_a(), nobody), world.b.open_udp(world.at_b(), inbox)
        burst = [bytes([number]) * 1200 for number in range(150)]
        assert all(a.send(data, b.local.sockaddr) for data in burst)
        assert [(await inbox.received.get())[0] for _ in burst] == burst
        close_all(a, b)

    world.run(main)


@pytest.mark.parametrize("sizes", [[1200] * 150, [1200, 1200, 7, 1472, 1472, 0, 1, 1]], ids=["equal", "various"])
def test_what_is_sent_together_arrives_as_if_sent_alone(world: World, sizes: list[int]) -> None:
    async def main() -> None:
        inbox = Datagrams()
        a, b = world.a.open_udp(world.at_a(), nobody), world.b.open_udp(world.at_b(), inbox)
        burst = [bytes([number]) * size for number, size in enumerate(sizes)]
        assert a.send_all(burst, b.local.sockaddr) == len(burst)
        assert [await inbox.received.get() for _ in burst] == [(data, a.local) for data in burst]
        assert a.send_all([], b.local.sockaddr) == 0
        close_all(a, b)

    world.run(main)


def test_a_taken_port_is_refused_and_free_again_after_close(world: World) -> None:
    async def main() -> None:
        first = world.a.open_udp(world.at_a(), nobody)
        with pytest.raises(NetworkError, match=r"open UDP .*: address already in use"):
            world.a.open_udp(first.local, nobody)
        first.close()
        first.close()
        close_all(world.a.open_udp(first.local, nobody))

    world.run(main)


def test_an_address_of_somebody_else_is_refused(world: World) -> None:
    async def main() -> None:
        foreign = "203.0.113.77" if world.at_a().family is Family.V4 else "2001:db8:ffff::77"
        with pytest.raises(NetworkError, match="cannot assign requested address"):
            world.a.open_udp(Endpoint.of(foreign, 0), nobody)

    world.run(main)


def test_what_cannot_be_sent_is_counted_not_raised(world: World) -> None:
    async def main() -> None:
        inbox = Datagrams()
        a, b = world.a.open_udp(world.at_a(), nobody), world.b.open_udp(world.at_b(), inbox)
        other_family = Endpoint.of("::1" if a.local.family is Family.V4 else "127.0.0.1", 9)
        assert not a.send(b"x", other_family.sockaddr)
        assert not a.send(bytes(70_000), b.local.sockaddr)
        assert a.send_errors == 2  # type: ignore[attr-defined]
        assert a.send(b"still alive", b.local.sockaddr)
        assert (await inbox.received.get())[0] == b"still alive"
        close_all(a, b)
        assert not a.send(b"x", b.local.sockaddr)

    world.run(main)


def test_nobody_listening_harms_nobody(world: World) -> None:
    async def main() -> None:
        inbox = Datagrams()
        a, gone = world.a.open_udp(world.at_a(), inbox), world.b.open_udp(world.at_b(), nobody)
        gone.close()
        for _ in range(3):
            a.send(b"anyone?", gone.local.sockaddr)
            await world.settle()  # the ICMP error arrives
        b = world.b.open_udp(gone.local, nobody)
        assert b.send(b"now", a.local.sockaddr)
        assert (await inbox.received.get())[0] == b"now"
        close_all(a, b)

    world.run(main)


def test_a_ttl_is_for_one_datagram(world: World) -> None:
    async def main() -> None:
        inbox = Datagrams()
        a, b = world.a.open_udp(world.at_a(), nobody), world.b.open_udp(world.at_b(), inbox)
        assert a.send(b"far", b.local.sockaddr, ttl=30)
        assert a.send(b"usual", b.local.sockaddr)
        assert [(await inbox.received.get())[0] for _ in range(2)] == [b"far", b"usual"]
        close_all(a, b)

    world.run(main)


def test_a_receiver_that_fails_loses_one_datagram_only(world: World) -> None:
    async def main() -> None:
        inbox = Datagrams()

        def picky(data: bytes, source: Any) -> None:
            if data == b"bad":
                raise ValueError("bad")
            inbox(data, source)

        a, b = world.a.open_udp(world.at_a(), nobody), world.b.open_udp(world.at_b(), picky)
        for data in (b"bad", b"good"):
            a.send(data, b.local.sockaddr)
        assert (await inbox.received.get())[0] == b"good"
        assert [type(context["exception"]) for context in world.uncaught] == [ValueError]
        world.uncaught.clear()
        close_all(a, b)

    world.run(main)


@pytest.mark.parametrize("gathers", [False, True])
def test_a_receiver_that_fails_in_a_burst_loses_one_datagram_only(world: World, gathers: bool) -> None:
    async def main() -> None:
        got: list[bytes] = []
        whole = asyncio.Event()

        def fails_at_the_third(data: bytes, _source: Any) -> None:
            if data == b"3":
                raise RuntimeError("a bug")
            got.append(data)
            if data == b"9":
                whole.set()

        a = world.a.open_udp(world.at_a(), nobody)
        b = world.b.open_udp(world.at_b(), fails_at_the_third)
        if gathers:
            b.gather(lambda _datagrams, _source: False)
        a.send_all([b"%d" % number for number in range(10)], b.local.sockaddr)
        await whole.wait()
        assert got == [b"%d" % number for number in range(10) if number != 3]
        assert len(world.uncaught) == 1
        world.uncaught.clear()
        close_all(a, b)

    world.run(main)


@pytest.mark.parametrize("takes", [True, False])
def test_what_arrives_together_may_be_taken_together_and_comes_once_and_in_order(world: World, takes: bool) -> None:
    burst = [b"%03d" % number + b"." * (number % 10 == 9) for number in range(200)]

    async def main() -> None:
        got: list[bytes] = []
        whole = asyncio.Event()

        def take_run(datagrams: list[bytes], _source: Any) -> bool:
            assert len(datagrams) > 1
            if takes:
                take(datagrams)
            return takes

        def take(datagrams: list[bytes]) -> None:
            got.extend(datagrams)
            if got[-1] == burst[-1]:
                whole.set()

        a = world.a.open_udp(world.at_a(), nobody)
        b = world.b.open_udp(world.at_b(), lambda data, _source: take([data]))
        b.gather(take_run)
        assert a.send_all(burst, b.local.sockaddr) == len(burst)
        await whole.wait()
        assert got == burst
        close_all(a, b)

    world.run(main)


def test_nothing_is_received_after_close_even_from_within_the_receiver(world: World) -> None:
    async def main() -> None:
        got: list[bytes] = []
        b: UdpSocket

        def receive_one(data: bytes, source: Any) -> None:
            got.append(data)
            b.close()

        a = world.a.open_udp(world.at_a(), nobody)
        b = world.b.open_udp(world.at_b(), receive_one)
        for number in range(5):
            a.send(bytes([number]), b.local.sockaddr)
        await world.settle()
        assert got == [b"\0"]
        a.close()

    world.run(main)


def test_writable_is_at_once_on_an_idle_socket_and_an_error_on_a_closed_one(world: World) -> None:
    async def main() -> None:
        a = world.a.open_udp(world.at_a(), nobody)
        await asyncio.gather(a.writable(), a.writable())
        a.close()
        with pytest.raises(NetworkError, match="is closed"):
            await a.writable()

    world.run(main)


def test_route_source_resolve_and_interfaces(world: World) -> None:
    async def main() -> None:
        assert world.a.route_source(world.at_b(9)) == world.at_a().ip
        assert await world.a.resolve(world.ip_b, 80) == (world.at_b(80),)
        interfaces = world.a.interfaces()
        assert Endpoint.of("127.0.0.1", 0).ip in [interface.ip for interface in interfaces]
        assert world.at_a().ip in [interface.ip for interface in interfaces]
        assert not any(interface.ip.is_link_local or interface.ip.is_multicast for interface in interfaces)

    world.run(main)
