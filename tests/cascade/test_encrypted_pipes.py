"""Encrypted pipes between whole nodes, in virtual time: who decides, what they cost, and whom they keep out."""

from __future__ import annotations

import asyncio

import pytest
from cascade_world import OVER_TCP, OVER_UDP, Options, R, World, connected, exchange, virtual
from strangers_kit import Stranger, hung_up
from test_relays import STREAM, RelayWorld

from warpgate import api
from warpgate.config import Config
from warpgate.core.pipes.base import Pipe
from warpgate.core.pipes.tls import TlsEnds, start_tls
from warpgate.core.search.quic_link import TIE
from warpgate.errors import ConfigError, ConnectFailed, PipeClosed
from warpgate.events import LinkVerified, PipeOpened, StrangerRefused
from warpgate.model.endpoint import Mode, Transport
from warpgate.plugins.punching import Punch

CLEAR: Options = OVER_TCP
TLS: Options = {**OVER_TCP, "secure": True}
ENCRYPTED: Options = {"mode": Mode.STREAM, "secure": True}
SESSION = bytes(range(16))
ONLY = Config(secure_only=True)


async def closed(world: World, *pipes: Pipe) -> None:
    await asyncio.gather(*(pipe.close() for pipe in pipes))
    await world.quiet()


async def half_closed(one: Pipe, other: Pipe) -> None:
    """Each direction ends by itself, and what is sent behind the other's end arrives."""
    await one.send(b"question")
    one.write_eof()
    assert b"".join([data async for data in other]) == b"question"
    await other.send(bytes(100_000))
    other.write_eof()
    assert b"".join([data async for data in one]) == bytes(100_000)


@pytest.mark.parametrize(
    ("kind_a", "kind_b", "plugin"),
    [
        ("public", "public", "direct"),
        ("public", "eim-apdf", "reverse"),
        ("eim-apdf", "eim-apdf", "tcp_punch"),
    ],
)
def test_tls_on_tcp_costs_one_round_trip(kind_a: str, kind_b: str, plugin: str) -> None:
    """Whoever dialled: the initiator is the TLS client, and the responder's program gets an encrypted pipe."""

    async def main() -> None:
        waited = []
        for options in (CLEAR, TLS):
            async with World(kind_a, kind_b) as world:
                one, other, seconds = await connected(world, **options)
                assert (one.plugin, one.transport, other.transport) == (plugin, Transport.TCP, Transport.TCP)
                assert one.secure is other.secure is bool(options.get("secure"))
                assert [event.secure for event in world.b.said(PipeOpened)] == [other.secure]
                await exchange(one, other)
                await half_closed(one, other)
                await closed(world, one, other)
                waited.append(seconds)
        assert waited[1] == pytest.approx(waited[0] + R, abs=1e-6)

    virtual(main)


@pytest.mark.parametrize("kind", ["eim-apdf+no-tcp", "edm+no-tcp"])
def test_quic_is_taken_as_it_is(kind: str) -> None:
    async def main() -> None:
        waited = []
        for options in ({"mode": Mode.STREAM}, ENCRYPTED):
            async with World(kind, "public") as world:
                one, other, seconds = await connected(world, **options)
                assert (one.transport, one.secure, other.secure) == (Transport.UDP, True, True)
                await asyncio.gather(one.start_tls(), other.start_tls())
                await exchange(one, other)
                await closed(world, one, other)
                waited.append(seconds)
        clear, encrypted = waited
        assert encrypted == pytest.approx(R, abs=1e-6)  # TCP would be encrypted last, so it is not waited for
        assert 2 * R <= clear <= 2 * R + TIE * R + 1e-6

    virtual(main)


@pytest.mark.parametrize("kinds", [("public", "public"), ("eim", "eim-apdf"), ("public", "eim-apdf")])
def test_whatever_wins_is_encrypted(kinds: tuple[str, str]) -> None:
    async def main() -> None:
        async with World(*kinds) as world:
            one, other, _ = await connected(world, **ENCRYPTED)
            assert (one.secure, other.secure) == (True, True)
            await exchange(one, other)
            await closed(world, one, other)

    virtual(main)


def test_over_a_relay() -> None:
    async def main() -> None:
        async with RelayWorld("edm", "edm") as world:
            one, other, seconds = await connected(world, **TLS)
            assert (one.plugin, one.relayed, one.secure, other.secure) == ("turn", True, True, True)
            # The way over the relay is one R longer.
            assert seconds == pytest.approx(STREAM + 2 * R, abs=R / 2)
            await exchange(one, other)
            await half_closed(one, other)
            await asyncio.gather(one.close(), other.close())
            await world.given_back()
            await world.quiet()

    virtual(main)


def test_started_by_both_programs() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            one, other, _ = await connected(world, **CLEAR)
            await exchange(one, other)
            await asyncio.gather(one.start_tls(), other.start_tls())
            assert (one.secure, other.secure) == (True, True)
            await exchange(one, other)
            await closed(world, one, other)

    virtual(main)


def test_datagrams_cannot_be_encrypted() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            with pytest.raises(ConfigError, match="datagram pipe cannot be encrypted"):
                await world.a.node.connect(world.b.node.address, mode=Mode.DATAGRAM, secure=True)
            one, other, _ = await connected(world, **OVER_UDP)
            assert not one.secure
            with pytest.raises(ConfigError, match="carries datagrams"):
                await one.start_tls()
            await exchange(one, other)
            await closed(world, one, other)

    virtual(main)


def test_asyncios_streams() -> None:
    async def main() -> None:
        async with World("udp-blocked", "public") as world:
            reader, writer = await api.open_connection(world.a.node, world.b.node.address, secure=True)
            other = await world.b.node.accept()
            assert (other.secure, other.transport) == (True, Transport.TCP)
            writer.write(b"hello\n")
            assert await other.recv() == b"hello\n"
            await other.send(b"there")
            await other.close()
            assert await reader.read() == b"there"
            writer.close()
            await writer.wait_closed()
            await world.quiet()

    virtual(main)


class TestSecureOnly:
    """A responder that takes only encrypted pipes."""

    @pytest.mark.parametrize("kinds", [("public", "public"), ("eim-apdf", "eim-apdf"), ("public", "eim-apdf")])
    def test_who_asks_for_tls_gets_in_over_tcp(self, kinds: tuple[str, str]) -> None:
        async def main() -> None:
            async with World(*kinds, config_b=ONLY) as world:
                one, other, _ = await connected(world, **TLS)
                assert (one.transport, one.secure, other.secure) == (Transport.TCP, True, True)
                await exchange(one, other)
                await closed(world, one, other)

        virtual(main)

    @pytest.mark.parametrize("kinds", [("public", "public"), ("eim-apdf", "eim-apdf"), ("public", "eim-apdf")])
    def test_who_does_not_ask_gets_quic(self, kinds: tuple[str, str]) -> None:
        async def main() -> None:
            async with World(*kinds, config_b=ONLY) as world:
                one, other, _ = await connected(world, mode=Mode.STREAM)
                assert (one.transport, one.secure, other.secure) == (Transport.UDP, True, True)
                assert [event for event in world.b.said(LinkVerified) if event.transport == "tcp"] == []
                await exchange(one, other)
                await closed(world, one, other)

        virtual(main)

    @pytest.mark.parametrize("kinds", [("public", "public"), ("eim-apdf", "eim-apdf"), ("public", "eim-apdf")])
    def test_streams_in_clear_are_refused(self, kinds: tuple[str, str]) -> None:
        async def main() -> None:
            async with World(*kinds, config_b=ONLY) as world:
                began = world.now
                with pytest.raises(ConnectFailed) as failed:
                    await world.a.node.connect(world.b.node.address, **CLEAR)
                assert world.now - began < 5.0
                if kinds != ("public", "public"):  # there no offer is needed, and TCP just closes
                    assert "takes only encrypted pipes" in str(failed.value)
                await world.quiet()
                assert world.b.said(PipeOpened) == []

        virtual(main)

    @pytest.mark.parametrize("kinds", [("public", "public"), ("eim-apdf", "eim-apdf")])
    def test_datagrams_are_refused(self, kinds: tuple[str, str]) -> None:
        async def main() -> None:
            async with World(*kinds, config_b=ONLY) as world:
                with pytest.raises(ConnectFailed) as failed:
                    await world.a.node.connect(world.b.node.address, **OVER_UDP, timeout=3.0)
                if kinds != ("public", "public"):
                    assert "takes only encrypted pipes, and datagrams are not" in str(failed.value)
                await world.quiet()
                assert world.b.said(PipeOpened) == []

        virtual(main)

    def test_it_may_itself_connect_as_it_likes(self) -> None:
        async def main() -> None:
            async with World("public", "public", config_a=ONLY) as world:
                one, other, _ = await connected(world, **CLEAR)
                assert not one.secure
                await closed(world, one, other)

        virtual(main)


class TestHostile:
    """Peers with a valid key of their own that do not keep to it."""

    @pytest.mark.parametrize("then", [b"", b"GET / HTTP/1.1\r\n\r\n"], ids=["silence", "garbage"])
    def test_an_initiator_that_says_tls_and_does_not_speak_it(self, then: bytes) -> None:
        async def main() -> None:
            async with World("public", "public") as world:
                mallory = Stranger(world)
                handshake = mallory.handshake(SESSION, secure=True)
                stream = await mallory.authenticate(handshake)
                handshake.nominate()
                await stream.send(handshake.data_to_send() + then)
                await asyncio.sleep(10.0)
                mallory.close()
                stream.abort()
                await world.quiet()
                assert world.b.said(PipeOpened) == []

        virtual(main)

    def test_a_link_in_clear_that_is_for_a_path_by_its_own_word_alone(self) -> None:
        """Paths are QUIC, so the door lets them in without TLS; but this session is one for a stream."""

        async def main() -> None:
            async with World("public", "public", config_b=ONLY) as world:
                mallory = Stranger(world)
                mallory.publish(mallory.offer(("udp_punch", Punch(1)), session=SESSION, mode="stream"))
                await asyncio.sleep(1.0)
                handshake = mallory.handshake(SESSION, mode=Mode.PATH)
                stream = await mallory.authenticate(handshake)
                handshake.nominate()
                await stream.send(handshake.data_to_send() + b"in clear")
                assert await hung_up(stream) == b""
                mallory.close()
                await world.quiet()
                assert world.b.said(PipeOpened) == []

        virtual(main)

    def test_a_flag_that_was_changed_on_the_way(self) -> None:
        """HELLO's mode is under its MAC: neither can TLS be talked away, nor into."""

        async def main() -> None:
            async with World("public", "public") as world:
                for secure, mode in ((True, 1), (False, 2)):
                    mallory = Stranger(world, f"mallory {mode}", f"198.51.100.{66 + mode}")
                    stream = await mallory.dial()
                    hello = bytearray(mallory.handshake(bytes([mode] * 16), secure=secure).data_to_send())
                    assert hello[72] == (2 if secure else 1)
                    hello[72] = mode
                    await stream.send(bytes(hello))
                    assert await hung_up(stream) == b""
                    assert "MAC" in world.b.said(StrangerRefused)[-1].reason
                    stream.abort()
                    mallory.close()
                await world.quiet()

        virtual(main)

    def test_an_initiator_with_a_key_of_somebody_else_in_tls(self) -> None:
        async def main() -> None:
            async with World("public", "public") as world:
                mallory, eve = Stranger(world), Stranger(world, "eve", "198.51.100.67")
                handshake = mallory.handshake(SESSION, secure=True)
                stream = await mallory.authenticate(handshake)
                handshake.nominate()
                await stream.send(handshake.data_to_send())
                ends = TlsEnds(eve.identity, world.b.node.public_key, SESSION, client=True)
                secured = await start_tls(stream, ends, 5.0)  # a client is done before it is refused
                await secured.send(b"let me in")
                await asyncio.sleep(1.0)
                secured.abort()
                mallory.close()
                eve.close()
                await world.quiet()
                assert world.b.said(PipeOpened) == []

        virtual(main)

    def test_a_responder_that_ends_the_link_instead(self) -> None:
        """The initiator gets no pipe, whatever was nominated."""

        async def main() -> None:
            async with World("public", "public") as world:
                link_taken = world.b.run.tcp_door._deliver

                def deliver(session: object, link: object) -> None:
                    link.secure = False  # type: ignore[attr-defined]
                    link_taken(session, link)

                world.b.run.tcp_door._deliver = deliver
                connecting = asyncio.ensure_future(world.a.node.connect(world.b.node.address, **TLS))
                (await world.b.node.accept()).abort()
                with pytest.raises(ConnectFailed, match=r"the chosen link to .* broke"):
                    await connecting
                await world.quiet()
                assert world.a.said(PipeOpened) == []

        virtual(main)

    def test_a_node_closed_in_the_middle(self) -> None:
        async def main() -> None:
            async with World("public", "public") as world:
                connecting = asyncio.ensure_future(world.a.node.connect(world.b.node.address, **TLS))
                await asyncio.sleep(2.5 * R)
                await world.b.node.close()
                with pytest.raises((ConnectFailed, PipeClosed)):
                    await (await connecting).recv()

        virtual(main)
