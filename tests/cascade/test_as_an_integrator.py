"""The library as a program embeds it: words for enums, sockets' `recv`, asyncio's streams on both sides, and one clear
error for each misuse."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cascade_world import OVER_TCP, OVER_UDP, World, connected, identity, virtual

from warpgate import (
    Config,
    ConfigError,
    ConnectFailed,
    DatagramPipe,
    Mode,
    Node,
    Subscription,
    Transport,
    auto_connect,
    open_connection,
    start_server,
)
from warpgate.config import Budgets, Timing
from warpgate.core.pipes.base import Pipe

WRONG_SETTINGS: list[tuple[Callable[[], object], str]] = [
    (lambda: Config(port="80"), "port must be a whole number of 0 or more or None, not '80'"),  # type: ignore[arg-type]
    (lambda: Config(port=True), "port must be"),
    (lambda: Config(port=65536), "port must be .* to 65535, not 65536"),
    (lambda: Config(brokers="mqtt://h"), "brokers must be a tuple of texts, .* not 'mqtt://h'"),  # type: ignore[arg-type]
    (lambda: Config(stun=(b"h:3478",)), "stun must be a tuple of texts"),  # type: ignore[arg-type]
    (lambda: Config(allow="abc"), "allow must be a set of texts or None, not 'abc'"),  # type: ignore[arg-type]
    (lambda: Config(allow=frozenset({"abc"})), "allow: 'abc' is no node id"),
    (lambda: Config(identity=None), "identity must be a text, not None"),  # type: ignore[arg-type]
    (lambda: Config(accept="no"), "accept must be True or False"),  # type: ignore[arg-type]
    (lambda: Config(timing=3.0), "timing must be a warpgate.Timing"),  # type: ignore[arg-type]
    (lambda: Timing(attempt_timeout="20"), "attempt_timeout must be a number"),  # type: ignore[arg-type]
    (lambda: Timing(start_patience=-1.0), "start_patience must be a number of 0 or more"),
    (lambda: Budgets(sessions_at_once=1.5), "sessions_at_once must be a whole number"),  # type: ignore[arg-type]
    (lambda: Node("home"), "a node's settings are a warpgate.Config, not 'home'"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("make", "message"), WRONG_SETTINGS, ids=[message for _, message in WRONG_SETTINGS])
def test_a_setting_of_the_wrong_kind_is_named_at_once(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_lists_and_sets_are_taken_and_frozen() -> None:
    urls = ["mqtt://one.example"]
    config = Config(brokers=urls, allow={identity("a").node_id})  # type: ignore[arg-type]
    urls.append("mqtt://two.example")
    assert config == Config(brokers=("mqtt://one.example",), allow=frozenset({identity("a").node_id}))
    hash(config)


WRONG_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"dest": None}, "a destination is .*, not None"),
    ({"dest": 7}, "a destination is"),
    ({"mode": "datagramm"}, "mode must be 'stream' or 'datagram' .*, not 'datagramm'"),
    ({"mode": None}, "mode must be"),
    ({"transport": "quic"}, "transport must be 'tcp' or 'udp'"),
    ({"plugins": "direct"}, r"plugins must be a list of names, such as \['direct'\]"),
    ({"plugins": 1}, "plugins must be a list of names or None"),
    ({"timeout": "3"}, "timeout must be a number of seconds"),
    ({"timeout": -1}, "timeout must be a number of seconds"),
]


def test_a_call_with_the_wrong_kind_of_argument_says_which() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            for arguments, message in WRONG_CALLS:
                with pytest.raises(ConfigError, match=message):
                    await world.a.node.connect(**{"dest": world.b.node.address, **arguments})

    virtual(main)


def test_words_stand_for_modes_and_transports() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            pipe, other, _ = await connected(world, mode="datagram")
            assert isinstance(pipe, DatagramPipe)
            assert (pipe.mode, other.mode) == (Mode.DATAGRAM, Mode.DATAGRAM)
            for word in ("tcp", "udp"):
                pipe, _, _ = await connected(world, transport=word)
                assert pipe.transport is Transport.of(word)

    virtual(main)


@pytest.mark.parametrize("options", [OVER_TCP, {"transport": "udp"}], ids=["tcp", "quic"])
def test_recv_takes_a_number_of_bytes_as_sockets_do(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            pipe, other, _ = await connected(world, **options)
            await pipe.send(b"0123456789")
            assert [await other.recv(4, timeout=5), await other.recv(4, 5)] == [b"0123", b"4567"]
            assert await other.recv(1024) == b"89"
            pipe.write_eof()
            assert await other.recv(1024) == b""
            for wrong in (0, -1, True, None, b"x", "x"):
                with pytest.raises(ConfigError, match="recv takes a number of bytes above 0"):
                    await other.recv(wrong)  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match="over bytes"):
                await other.recv(Subscription("text"))  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match="send takes bytes, not str: encode the text"):
                await other.send("text")  # type: ignore[arg-type]
            await other.send(b"still open")
            assert await pipe.recv(5) == b"still"

    virtual(main)


def test_a_limit_leaves_the_socket_free_to_be_detached() -> None:
    """What a limit leaves stays in the kernel, not with us."""

    async def main() -> None:
        async with Node(HERE, identity=identity("a")) as a, Node(HERE, identity=identity("b")) as b:
            pipe = await a.connect(b.address, transport="tcp")
            other = await b.accept()
            await pipe.send(b"0123456789")
            assert await other.recv(4) == b"0123"
            with other.detach() as sock:
                assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"456789"

    asyncio.run(main())


def test_a_datagram_is_never_cut() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            pipe, other, _ = await connected(world, **OVER_UDP)
            await pipe.send(bytes(100))
            with pytest.raises(ConfigError, match=r"recv\(99\) would cut a datagram of 100 bytes"):
                await other.recv(99)
            assert await other.recv(100) == bytes(100)
            with pytest.raises(ConfigError, match="send takes bytes, not int"):
                await pipe.send(5)  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match="this pipe carries datagrams"):
                pipe.open_streams()

    virtual(main)


# -- event loops ----------------------------------------------------------------------------------------------------

HERE = Config(interfaces=("lo",), brokers=(), stun=(), port=0, port_map=False)


def driven_by_hand(coroutine: Any) -> None:
    """What another framework does, seen from a coroutine: it is stepped, and no loop of asyncio runs."""
    coroutine.send(None)


def test_without_a_running_loop_the_error_says_so() -> None:
    with pytest.raises(ConfigError, match="no asyncio event loop runs here"):
        driven_by_hand(Node(HERE, identity=identity("a")).start())


def test_a_node_of_another_loop_is_refused_not_waited_for() -> None:
    async def elsewhere(use: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(ConfigError, match="another event loop"):
            await use()

    async def main() -> None:
        async with Node(HERE, identity=identity("a")) as node:
            for use in (node.accept, lambda: node.connect(node.address)):
                thread = threading.Thread(target=lambda use=use: asyncio.run(elsewhere(use)))
                thread.start()
                await asyncio.to_thread(thread.join)
            pipes = iter((node.accept(), node.connect(node.address)))
            for coroutine in pipes:
                coroutine.close()

    asyncio.run(main())


# -- streams on the accepting side ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [OVER_TCP, {"transport": "udp"}], ids=["tcp", "quic"])
def test_start_server_serves_streams_whatever_they_run_over(options: dict[str, Any]) -> None:
    peers: list[str] = []

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pipe: Pipe = writer.get_extra_info("pipe")
        peers.append(pipe.peer)
        writer.write((await reader.read()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with World("public", "public") as world:
            assert world.b.node is not None
            async with await start_server(world.b.node, shout) as server:
                for number in range(3):
                    pipe = await world.a.node.connect(world.b.node.address, **options)
                    reader, writer = pipe.open_streams()
                    writer.write(b"hello %d" % number)
                    writer.write_eof()
                    assert await reader.read() == b"HELLO %d" % number
                    writer.close()
                assert server.is_serving()
            assert not server.is_serving()
            assert peers == [world.a.node.node_id] * 3

    virtual(main)


def test_what_a_callback_raises_ends_its_stream_alone_and_datagrams_are_turned_away() -> None:
    async def main() -> None:
        async def crash(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if await reader.read(1) == b"x":
                raise ZeroDivisionError
            writer.write(b"fine")
            writer.close()

        async with World("public", "public") as world, await start_server(world.b.node, crash) as server:
            datagrams = await world.a.node.connect(world.b.node.address, mode="datagram")
            crashing, well = [(await world.a.node.connect(world.b.node.address)).open_streams() for _ in range(2)]
            crashing[1].write(b"x")
            well[1].write(b"y")
            with pytest.raises(ConnectionError):
                await crashing[0].read()
            assert await well[0].read() == b"fine"
            well[1].close()
            async for _ in datagrams:
                raise AssertionError("nobody sends")
            serving = asyncio.ensure_future(server.serve_forever())
            await asyncio.sleep(0)
            await world.b.node.close()
            await serving
            complaints = [type(complaint["exception"]) for complaint in world.loop_errors]
            assert complaints == [ZeroDivisionError]
            world.loop_errors.clear()

    virtual(main)


@pytest.mark.parametrize("options", [OVER_TCP, {"transport": "udp"}, {"durable": True}], ids=["tcp", "quic", "durable"])
def test_a_server_for_each_service_of_one_node(options: dict[str, Any]) -> None:
    def saying(word: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(word + await reader.read())
            writer.close()  # and returns at once: what was written arrives nevertheless

        return serve

    async def main() -> None:
        async with World("public", "public") as world:
            node, dest = world.b.node, world.b.node.address
            ssh = await start_server(node, saying(b"ssh "), service="ssh")
            async with await start_server(node, saying(b"web "), service="web") as web:
                with pytest.raises(ConfigError, match="served already"):
                    await start_server(node, saying(b""), service="web")
                for service in ("ssh", "web", "ssh"):
                    pipe = await world.a.node.connect(dest, service=service, **options)
                    reader, writer = pipe.open_streams()
                    writer.write(b"hello")
                    writer.write_eof()
                    assert await reader.read() == service.encode() + b" hello"
                    writer.close()
                assert web.is_serving()
            assert node.services == ("ssh",)
            with pytest.raises(ConnectFailed, match="there is no service 'web'"):
                await world.a.node.connect(dest, service="web", **options)
            await node.close()
            await ssh.wait_closed()

    virtual(main)


def test_the_functions_take_what_connect_takes() -> None:
    async def main() -> None:
        async with (
            World("public", "public") as world,
            await start_server(world.b.node, lambda _r, w: w.close()),
        ):
            pipe, _ = await auto_connect(world.a.node, world.b.node.address, durable=True)
            assert pipe.durable
            await pipe.close()
            _, writer = await open_connection(world.a.node, world.b.node.address, durable=True)
            assert writer.get_extra_info("pipe").durable
            writer.close()

    virtual(main)


def test_a_callback_must_be_callable() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            with pytest.raises(ConfigError, match="cannot be called"):
                await start_server(world.b.node, None)  # type: ignore[arg-type]

    virtual(main)
