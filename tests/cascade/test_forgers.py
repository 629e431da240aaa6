"""Who forges source addresses, and peers with valid keys that do so, can't make a node flood anybody.

Nodes are public here: a NAT's filter would only make the attacks harder.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from cascade_world import OVER_TCP, OVER_UDP, Options, World, connected, exchange, identity, virtual
from strangers_kit import Stranger, fresh_bytes, hung_up

from warpgate.config import Budgets, Config
from warpgate.core.pipes.base import Pipe
from warpgate.core.search.responder import REFUSALS_PER_SECOND
from warpgate.errors import ConnectFailed, NetworkError, PipeClosed
from warpgate.events import PipeOpened, SignalRefused, StrangerRefused
from warpgate.model.endpoint import Endpoint
from warpgate.plugins.udp_punch import Punch
from warpgate.proto.check_wire import CheckCodec
from warpgate.proto.stun import Attribute, is_stun
from warpgate_testing.internet import Captured

VICTIM = Endpoint.of("203.0.113.77", 7777)


def received_by(packets: list[Captured], place: Endpoint) -> list[bytes]:
    """What nodes sent there."""
    return [
        seen.packet.payload
        for seen in packets
        if seen.sent and seen.packet.flow.destination == place and isinstance(seen.packet.payload, bytes)
    ]


async def flood(pipe: Pipe) -> None:
    """The user's program sends as fast as it is let."""
    with suppress(PipeClosed):
        while True:
            await pipe.send(b"x" * 1200)
            await asyncio.sleep(0.001)


# -- datagram pipes are no reflectors ----------------------------------------------------------------------------


@pytest.mark.parametrize("echo", ["own", "none", "made up"])
def test_a_nomination_in_a_victims_name_opens_no_pipe_to_it(echo: str) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            mallory = Stranger(world)
            world.internet.host("victim", str(VICTIM.ip))
            packets = world.internet.capture()
            codec = mallory.codec(fresh_bytes(16))
            mallory.send(codec.request(fresh_bytes(12), "direct", mallory.target, introduce=True))
            await asyncio.sleep(0.1)
            nonce = codec.open(mallory.received[0], mallory.target).nonce
            shown = {"own": nonce, "none": None, "made up": fresh_bytes(16)}[echo]
            sent = 0
            for _ in range(20):
                nomination = codec.request(
                    fresh_bytes(12), "direct", mallory.target, Attribute.USE_CANDIDATE, echo=shown
                )
                mallory.forge(VICTIM, nomination)
                sent += len(nomination)
                await asyncio.sleep(0.05)
            reflected = received_by(packets, VICTIM)
            assert sum(map(len, reflected)) <= sent  # an answer to each, and it is smaller
            assert all(is_stun(data) for data in reflected)
            assert world.b.said(PipeOpened) == []
            mallory.close()
            await world.quiet()

    virtual(main)


def test_a_responder_that_forges_its_checks_gets_a_victim_ten_datagrams() -> None:
    """It has the session's key, so its checks are authentic; that they come from the victim they can't show."""

    async def main() -> None:
        async with World("eim", "public") as world:
            mallory = Stranger(world)
            world.internet.host("victim", str(VICTIM.ip))
            packets = world.internet.capture()
            address = mallory.address(mallory.attachment(str(VICTIM.ip), port=VICTIM.port))
            connecting = asyncio.ensure_future(
                world.a.node.connect(address, plugins=["direct", "udp_punch"], **OVER_UDP)
            )
            await asyncio.sleep(0.01)
            [session] = world.a.run.sessions.ids
            key = mallory.identity.session_key(world.a.node.public_key, session, initiator=False)
            codec = CheckCodec(False, session, key, bytes(32))
            at = world.a.node.address.attachments[0]
            outside = Endpoint(at.reflexive, at.udp.mapped)
            mallory.forge(VICTIM, codec.request(fresh_bytes(12), "direct", outside), outside)
            pipe = await connecting
            before = len([data for data in received_by(packets, VICTIM) if not is_stun(data)])
            assert before == 0
            sending = asyncio.ensure_future(flood(pipe))
            for _ in range(100):  # and goes on, in the victim's name, with data and with checks
                mallory.forge(VICTIM, b"y", outside)
                mallory.forge(VICTIM, codec.request(fresh_bytes(12), "direct", outside), outside)
                await asyncio.sleep(0.3)
            await sending
            assert pipe.closed
            data = [data for data in received_by(packets, VICTIM) if not is_stun(data)]
            assert 0 < len(data) <= 10
            mallory.close()
            await world.quiet()

    virtual(main)


def test_consent_ends_when_the_peer_is_not_there_any_more_whatever_comes_in_its_name() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            mallory = Stranger(world)
            here = Endpoint.of(mallory.ip, mallory.port)
            codec = mallory.codec(fresh_bytes(16))
            mallory.send(codec.request(fresh_bytes(12), "direct", mallory.target, introduce=True))
            await asyncio.sleep(0.1)
            nonce = codec.open(mallory.received[0], mallory.target).nonce
            flags = Attribute.USE_CANDIDATE
            mallory.send(codec.request(fresh_bytes(12), "direct", mallory.target, flags, echo=nonce))
            pipe = await world.b.node.accept()
            packets = world.internet.capture()
            sending = asyncio.ensure_future(flood(pipe))
            began = world.now
            while not pipe.closed and world.now - began < 60.0:
                # Its place is somebody else's now, who never asked for this; mallory knows all that was said there.
                mallory.forge(here, b"y")
                mallory.forge(here, codec.request(fresh_bytes(12), "direct", mallory.target, echo=nonce))
                await asyncio.sleep(1.0)
            assert pipe.closed
            assert world.now - began < 35.0
            await sending
            assert received_by(packets, here)
            mallory.close()
            await world.quiet()

    virtual(main)


def test_nobody_takes_over_the_datagram_pipe_of_another_key() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            one, other, _ = await connected(world, **OVER_UDP)
            mallory = Stranger(world)
            codec = mallory.codec(fresh_bytes(16))
            mallory.forge(one.local, codec.request(fresh_bytes(12), "direct", mallory.target, introduce=True))
            await asyncio.sleep(0.1)
            [session] = [it for it in world.b.run.sessions if it.peer_key == mallory.identity.public_key]
            # Even if she could hear what is sent there: it is another peer's.
            nonce = session.checks.agent._codec.nonce(one.local)
            flags = Attribute.USE_CANDIDATE
            mallory.forge(one.local, codec.request(fresh_bytes(12), "direct", mallory.target, flags, echo=nonce))
            await asyncio.sleep(0.1)
            assert len(world.b.said(PipeOpened)) == 1
            with suppress(TimeoutError):  # b's answers to mallory went to a, whose pipe takes what it does not know
                while True:
                    assert is_stun(await one.recv(timeout=0.1))
            await exchange(one, other)
            await one.close()
            await other.close()
            mallory.close()
            await world.quiet()

    virtual(main)


def test_early_data_is_the_pipes_whose_endpoint_it_came_from() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            mallory, eve = Stranger(world), Stranger(world, "eve", "198.51.100.67")
            codec = mallory.codec(fresh_bytes(16))
            first = codec.request(fresh_bytes(12), "direct", mallory.target, introduce=True)
            mallory.send(first)
            eve.send(first)  # a recording of it, from where eve is
            await asyncio.sleep(0.1)
            eve.send(b"of somebody else")
            mallory.send(b"early")
            nonce = codec.open(mallory.received[0], mallory.target).nonce
            flags = Attribute.USE_CANDIDATE
            mallory.send(codec.request(fresh_bytes(12), "direct", mallory.target, flags, echo=nonce))
            pipe = await world.b.node.accept()
            assert await pipe.recv(timeout=1.0) == b"early"
            with pytest.raises(TimeoutError):
                await pipe.recv(timeout=1.0)
            strays = world.b.node.status().strays
            eve.send(b"of somebody else")
            await asyncio.sleep(0.1)
            assert world.b.node.status().strays == strays + 1
            pipe.abort()
            mallory.close()
            eve.close()
            await world.quiet()

    virtual(main)


# -- two keys ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [OVER_UDP, OVER_TCP], ids=["udp", "tcp"])
def test_the_negative_of_a_nodes_key_is_another_node(options: Options) -> None:
    """P and -P have the same x coordinate, and so the same ECDH secret with anybody."""

    async def main() -> None:
        async with World("public", "public") as world:
            address = world.b.node.address
            flipped = bytes((address.public_key[0] ^ 1,)) + address.public_key[1:]
            wrong = type(address)(flipped, (), address.attachments)
            with pytest.raises(ConnectFailed):
                await world.a.node.connect(wrong, plugins=["direct"], timeout=5.0, **options)
            assert world.a.said(PipeOpened) == []
            assert world.b.said(PipeOpened) == []
            await world.quiet()

    virtual(main)


# -- who is asked first, then how many -----------------------------------------------------------------------------


def test_strangers_offers_do_not_lock_out_those_who_are_allowed() -> None:
    async def main() -> None:
        config = Config(allow=frozenset({identity("a").node_id}))
        async with World(kind_b="eim-apdf", config_b=config) as world:
            strangers = [Stranger(world, f"s{n}", f"198.51.100.{100 + n}") for n in range(5)]
            over = asyncio.Event()

            async def offers() -> None:
                while not over.is_set():  # 80 a second, of five keys
                    for stranger in strangers:
                        stranger.publish(stranger.offer(("udp_punch", Punch(1))))
                        await asyncio.sleep(1 / 80)

            flooding = asyncio.ensure_future(offers())
            await asyncio.sleep(10.0)
            for _ in range(4):
                one, other, seconds = await connected(world, **OVER_UDP)
                assert seconds < 0.5
                await one.close()
                await other.close()
            over.set()
            await flooding
            for stranger in strangers:
                stranger.close()
            await world.quiet()

    virtual(main)


def test_strangers_introductions_do_not_lock_out_those_who_are_allowed() -> None:
    async def main() -> None:
        budgets = Budgets(introductions_per_second=50.0)
        config = Config(allow=frozenset({identity("a").node_id}), budgets=budgets)
        async with World("public", "public", config_b=config) as world:
            mallory = Stranger(world)
            over = asyncio.Event()

            async def checks() -> None:
                while not over.is_set():
                    codec = mallory.codec(fresh_bytes(16))
                    mallory.send(codec.request(fresh_bytes(12), "direct", mallory.target, introduce=True))
                    await asyncio.sleep(1 / 500)

            began = world.now
            flooding = asyncio.ensure_future(checks())
            await asyncio.sleep(5.0)
            for options in (OVER_UDP, OVER_TCP):
                one, other, _ = await connected(world, plugins=["direct"], **options)
                await one.close()
                await other.close()
            over.set()
            await flooding
            told = len(mallory.received)  # each has cost a key agreement
            assert 0 < told <= REFUSALS_PER_SECOND * (world.now - began + 1.0)
            mallory.close()
            await world.quiet()

    virtual(main)


def test_too_many_at_once_is_no_refusal_and_the_offer_is_said_again() -> None:
    async def main() -> None:
        config = Config(budgets=Budgets(offers_per_second=2.0, offers_at_once=1.0))
        async with World(kind_b="eim-apdf", config_b=config) as world:
            mallory = Stranger(world)
            mallory.publish(mallory.offer(("no_such_plugin", 1)))  # takes the only token
            await asyncio.sleep(0.02)
            one, other, seconds = await connected(world, plugins=["udp_punch"], **OVER_UDP)
            assert seconds < 2.0
            assert any("more offers" in event.reason for event in world.b.said(SignalRefused))
            await one.close()
            await other.close()
            mallory.close()
            await world.quiet()

    virtual(main)


# -- nothing is built for a claim ------------------------------------------------------------------------------------


def test_forged_introductions_are_verified_before_anything_is_made_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            mallory = Stranger(world)
            made: list[object] = []
            add = world.b.run.sessions.add
            monkeypatch.setattr(world.b.run.sessions, "add", lambda session: (made.append(session), add(session)))
            for _ in range(200):
                codec = mallory.codec(fresh_bytes(16), claims=identity("a").public_key)
                mallory.send(codec.request(fresh_bytes(12), "direct", mallory.target, introduce=True))
            for _ in range(20):
                stream = await mallory.dial()
                forged = mallory.handshake(fresh_bytes(16), claims=identity("a").public_key)
                await stream.send(forged.data_to_send())
                assert await hung_up(stream) == b""
            await asyncio.sleep(1.0)
            assert made == []
            assert len(world.b.said(StrangerRefused)) == 220
            assert mallory.received == []
            mallory.close()
            await world.quiet()

    virtual(main)


# -- descriptors -------------------------------------------------------------------------------------------------------


def test_links_that_nobody_nominates_are_few_for_a_session_and_in_all() -> None:
    async def main() -> None:
        limit = 24
        async with World("public", "public", config_b=Config(budgets=Budgets(unchosen_links=limit))) as world:
            mallory = Stranger(world)
            streams = []
            for session in [fresh_bytes(16) for _ in range(10)]:
                for _ in range(20):
                    with suppress(NetworkError):
                        streams.append(await mallory.authenticate(mallory.handshake(session)))
                own = [it for it in world.b.run.equipment.unchosen._links.values() if it == session]
                assert len(own) <= 8
            assert len(world.b.run.equipment.unchosen) <= limit
            held = [it for it in world.internet.open_sockets() if it.host == "b" and it.kind == "stream"]
            assert len(held) <= limit + 2  # and the node's own to its STUN server
            one, other, _ = await connected(world, **OVER_TCP)  # an honest peer comes in all the same
            await exchange(one, other)
            await one.close()
            await other.close()
            for stream in streams:
                stream.abort()
            mallory.close()
            await world.quiet()

    virtual(main)
