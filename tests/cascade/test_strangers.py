"""A stranger cannot get in, cannot keep others out, and cannot make a node send where it should not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
from cascade_world import (
    BOTH_WAYS,
    OVER_TCP,
    OVER_UDP,
    Options,
    R,
    World,
    connected,
    exchange,
    identity,
    virtual,
)
from rogue_plugins import LeavesLate, registry_with
from strangers_kit import Stranger, altered, fresh_bytes, hung_up, ips, now_unix, renamed, sent_by

from warpgate.cli.receive import Receiving
from warpgate.config import Budgets, Config, Timing
from warpgate.core import codes
from warpgate.core.node import Node
from warpgate.core.pipes.base import Pipe
from warpgate.core.search.equipment import TOPIC
from warpgate.errors import ConnectFailed, NetworkError
from warpgate.events import (
    PipeOpened,
    PluginEnded,
    PluginNoted,
    PluginStarted,
    ServerFailed,
    SignalRefused,
    StrangerRefused,
    TargetsRefused,
)
from warpgate.lab.flow import Protocol
from warpgate.model.address import NodeAddress
from warpgate.model.broker import BrokerRef
from warpgate.model.endpoint import Endpoint, Family
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment
from warpgate.model.wanted import FILES_SERVICE, Wanted
from warpgate.plugins.punching import Punch
from warpgate.proto.envelope import seal
from warpgate.proto.hello import NONCE_SIZE
from warpgate.proto.marks import MARK_SIZE
from warpgate.proto.signals import Signal, SignalKind
from warpgate.proto.stun import Attribute
from warpgate_testing.segment import TcpSegment

PATIENCE = Timing().responder_patience  # what nobody nominates is gone by then


async def nobody_got_in(world: World) -> None:
    """Whatever was begun has ended, and no pipe came of it."""
    await world.quiet()
    assert world.b.said(PipeOpened) == []


# -- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", BOTH_WAYS)
def test_an_address_with_another_key_leads_nowhere(options: Options) -> None:
    """Somebody put his key into the address of b's place, or b's place is now another's: nobody is fooled."""

    async def main() -> None:
        async with World("public", "public") as world:
            wrong = renamed(world.b.node.address, identity("somebody else").public_key)
            with pytest.raises(ConnectFailed):
                await world.a.node.connect(wrong, timeout=8.0, **options)
            assert world.b.counts["StrangerRefused"] >= 1
            assert world.a.said(PipeOpened) == []
            await nobody_got_in(world)

    virtual(main)


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize("kind", ["public", "eim-apdf"])
def test_a_key_that_is_not_on_the_list_is_told_so(kind: str, options: Options) -> None:
    async def main() -> None:
        async with World(kind, kind, config_b=Config(allow=frozenset({identity("c").node_id}))) as world:
            began = world.now
            with pytest.raises(ConnectFailed, match="not among those allowed in"):
                await world.a.node.connect(world.b.node.address, **options)
            assert world.now - began < 0.5
            await nobody_got_in(world)

    virtual(main)


def test_who_receives_by_a_code_lets_nobody_else_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither before the right one has shown that it has the code, nor after."""

    async def at_once(work: Callable[[], None], *, daemon: bool) -> None:
        work()  # virtual time would run away from a thread

    monkeypatch.setattr(codes, "in_thread", at_once)

    async def main() -> None:
        async with World("public", "public") as world:
            address, mallory = world.b.node.address, Stranger(world)
            await world.b.node.close()

            def node(*, accept: bool, beside: bool, allow: frozenset[str] | None) -> Node:
                config = world.b.node._config
                world.b.node._config = replace(config, accept=accept, beside=beside, allow=allow)
                return world.b.node

            def take_code(text: str) -> object:
                started.set()
                return Node.take_code(world.b.node, text)

            monkeypatch.setattr(world.b.node, "take_code", take_code)
            started, came, trusted = asyncio.Event(), asyncio.Queue[str](), asyncio.Queue[str]()

            async def take(pipe: Pipe) -> None:
                came.put_nowait(pipe.peer)

            reception = SimpleNamespace(
                take=take, trust=trusted.put_nowait, received=asyncio.Event(), failed=asyncio.Event(),
                view=nullcontext(),
            )  # fmt: skip
            shell = SimpleNamespace(node=node, output=SimpleNamespace(note=lambda text: None))
            command = Receiving(shell, reception)  # type: ignore[arg-type]
            async with world.a.node.offer_code() as offered:
                receiving = asyncio.ensure_future(command.run_by_code(str(offered.code)))
                await started.wait()
                wanted = Wanted(instance=world.b.node.address.instance)
                stream = await mallory.dial()
                await stream.send(mallory.handshake(fresh_bytes(16), wanted=wanted).data_to_send())
                assert await hung_up(stream) != b""  # the reason
                assert trusted.empty()
                address = await offered.agreed()
            assert await trusted.get() == world.a.node.node_id
            stream = await mallory.dial()
            await stream.send(mallory.handshake(fresh_bytes(16), wanted=wanted).data_to_send())
            await hung_up(stream)
            assert all("not among those allowed in" in event.reason for event in world.b.said(StrangerRefused))
            assert len(world.b.said(StrangerRefused)) == 2
            pipe = await world.a.node.connect(address, service=FILES_SERVICE)
            assert await came.get() == world.a.node.node_id
            reception.received.set()
            assert await receiving == 0
            assert came.empty()
            pipe.abort()
            mallory.close()

    virtual(main)


def test_a_node_that_accepts_nobody_is_silent() -> None:
    async def main() -> None:
        async with World("public", "public", config_b=Config(accept=False)) as world:
            with pytest.raises(ConnectFailed):
                await world.a.node.connect(world.b.node.address, timeout=3.0)
            await nobody_got_in(world)

    virtual(main)


def test_a_hello_that_claims_a_key_it_does_not_have() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            mallory = Stranger(world)
            stream = await mallory.dial()
            forged = mallory.handshake(fresh_bytes(16), claims=identity("a").public_key)
            await stream.send(forged.data_to_send())
            assert await hung_up(stream) == b""
            refused = world.b.said(StrangerRefused)
            assert len(refused) == 1
            assert world.b.counts["StrangerRefused"] == 1
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


def test_a_check_that_claims_a_key_it_does_not_have() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            mallory = Stranger(world)
            codec = mallory.codec(fresh_bytes(16), claims=identity("a").public_key)
            mallory.send(codec.request(fresh_bytes(12), "direct", mallory.target, introduce=True))
            await asyncio.sleep(1.0)
            assert mallory.received == []
            assert len(world.b.said(StrangerRefused)) == 1
            assert list(world.b.run.sessions.ids) == []  # nothing was made for it
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


# -- recordings ---------------------------------------------------------------------------------------------------


def recorded_hello(world: World, packets: list) -> bytes:
    """The first bytes that a sent to b over TCP."""
    for seen in packets:
        payload = seen.packet.payload
        if seen.host == "a" and seen.sent and isinstance(payload, TcpSegment) and payload.data[:3] == b"WG2":
            return payload.data
    raise AssertionError("no HELLO")


def test_a_hello_is_good_once() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            mallory = Stranger(world)
            handshake = mallory.handshake(fresh_bytes(16))
            hello = handshake.data_to_send()
            first, again = await mallory.dial(), await mallory.dial()
            await first.send(hello)
            await asyncio.sleep(1.0)
            await again.send(hello)
            assert await hung_up(again) == b""
            assert [event.reason for event in world.b.said(StrangerRefused)] == ["a HELLO that was seen before"]
            first.abort()
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


def test_a_recorded_hello_after_the_pipe() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            packets = world.internet.capture()
            one, other, _ = await connected(world, **OVER_TCP)
            mallory = Stranger(world)
            stream = await mallory.dial()
            await stream.send(recorded_hello(world, packets))
            assert await hung_up(stream) == b""
            assert "over" in world.b.said(StrangerRefused)[0].reason
            await exchange(one, other)
            await one.close()
            await other.close()
            mallory.close()
            await world.quiet()
            assert len(world.b.said(PipeOpened)) == 1

    virtual(main)


def test_a_recording_played_to_a_node_that_was_restarted_gets_a_welcome_and_no_pipe() -> None:
    """It has forgotten the session; but NOMINATE is made of both nonces, and the new one is its own."""

    async def main() -> None:
        async with World("public", "public") as world:
            packets = world.internet.capture()
            one, _, _ = await connected(world, **OVER_TCP)
            whole = b"".join(
                seen.packet.payload.data
                for seen in packets
                if seen.host == "a" and seen.sent and isinstance(seen.packet.payload, TcpSegment)
                and seen.packet.flow.destination.port == world.b.node.port
            )  # fmt: skip
            await one.close()
            await world.b.node.close()
            await world.b.node.start()
            hello_size = len(recorded_hello(world, packets))
            before = len(world.b.said(PipeOpened))
            mallory = Stranger(world)
            stream = await mallory.dial()
            await stream.send(whole[:hello_size])
            await asyncio.sleep(0.5)
            await stream.send(whole[hello_size:])
            welcome = await hung_up(stream)
            assert welcome[:4] == b"WG2\x02"
            mallory.close()
            await world.quiet()
            assert len(world.b.said(PipeOpened)) == before

    virtual(main)


def test_recorded_checks_played_to_a_node_that_was_restarted_make_no_pipe() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            packets = world.internet.capture()
            one, _, _ = await connected(world, **OVER_UDP)
            recorded = [
                seen.packet.payload
                for seen in packets
                if seen.host == "a" and seen.sent and isinstance(seen.packet.payload, bytes)
                and seen.packet.flow.destination.port == world.b.node.port
            ]  # fmt: skip
            assert len(recorded) >= 2  # a check and a nomination
            await one.close()
            await world.a.node.close()
            await world.b.node.close()
            await world.b.node.start()
            before = len(world.b.said(PipeOpened))
            mallory = Stranger(world)
            for data in recorded * 3:
                mallory.send(data)
                await asyncio.sleep(0.1)
            assert mallory.received  # the checks are authentic, so they are answered
            mallory.close()
            await world.quiet()
            assert len(world.b.said(PipeOpened)) == before

    virtual(main)


@pytest.mark.parametrize("after", [0.1, 20.0, 100.0, 250.0])
def test_a_replayed_envelope_does_nothing(after: float) -> None:
    async def main() -> None:
        async with World() as world:
            one, other, _ = await connected(world, **OVER_UDP)
            topic, envelope = next(entry for entry in world.brokers[0].log if entry[0].endswith(world.b.node.node_id))
            await one.close()
            await other.close()
            await asyncio.sleep(after)
            started, packets = len(world.b.said(PluginStarted)), len(world.b.said(SignalRefused))
            for _ in range(5):
                world.brokers[0].publish(topic, envelope)
            await asyncio.sleep(1.0)
            assert len(world.b.said(PluginStarted)) == started
            assert world.b.run.sessions.ids == ()
            assert len(world.b.said(PipeOpened)) == 1
            if after > 30.0:  # earlier it may be the same envelope by another broker, which is not worth a word
                assert len(world.b.said(SignalRefused)) == packets + 5
                assert "replayed" in world.b.said(SignalRefused)[-1].reason

    virtual(main)


@pytest.mark.parametrize("age", [301.0, 10.0, 30.0])
def test_an_old_envelope_begins_nothing_at_a_node_that_was_restarted(age: float) -> None:
    """Its memory of ids is gone; so it asks the sender to say that again, which a recording can't."""

    async def main() -> None:
        async with World() as world:
            mallory = Stranger(world)
            await asyncio.sleep(40.0)
            recording = mallory.offer(("udp_punch", Punch(1)), sent=now_unix() - age)
            await world.b.node.close()
            await asyncio.sleep(1.0)
            await world.b.node.start()
            await asyncio.sleep(1.0)
            packets = world.internet.capture()
            for _ in range(3):
                mallory.publish(recording)
            await asyncio.sleep(1.0)
            assert world.b.said(PluginStarted) == []
            assert world.b.run.sessions.ids == ()
            assert mallory.ip not in {str(at.ip) for at in sent_by(packets, "b")}
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


def test_an_altered_envelope_is_refused_wherever_it_was_altered() -> None:
    async def main() -> None:
        async with World() as world:
            mallory = Stranger(world)
            envelope = mallory.offer(("udp_punch", Punch(1)))
            places = range(MARK_SIZE, len(envelope), 7)  # a mark decides about nothing but its turn
            for place in places:
                mallory.publish(altered(envelope, place))
                await asyncio.sleep(0.01)
            mallory.publish(envelope[:-1])
            mallory.publish(envelope + b"\0")
            mallory.publish(b"")
            mallory.publish(b"\xff" * 5000)
            await asyncio.sleep(1.0)
            assert len(world.b.said(SignalRefused)) == len(places) + 3  # the one that is too large is not even opened
            assert world.b.said(PluginStarted) == []
            mallory.publish(envelope)  # as it was, it is let in: the test could fail
            await asyncio.sleep(1.0)
            assert len(world.b.said(PluginStarted)) == 1
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


def test_an_offer_of_a_session_that_is_over_keeps_nobody_out() -> None:
    """`warpgate` tells its user of peers that were turned away; a late copy after a move was told as that."""

    async def main() -> None:
        async with World() as world:
            alice = Stranger(world)
            session = fresh_bytes(16)
            alice.publish(alice.offer(session=session))
            await asyncio.sleep(PATIENCE + 5.0)
            alice.publish(alice.offer(session=session))
            await asyncio.sleep(1.0)
            [refused] = world.b.said(SignalRefused)
            assert (refused.reason, refused.told) == ("a session that is over", False)
            alice.close()
            await nobody_got_in(world)

    virtual(main)


@pytest.mark.parametrize("sequence", [0, 1])
def test_who_has_our_key_is_nobody_elses_to_say(sequence: int) -> None:
    async def main() -> None:
        async with World() as world:
            mallory = Stranger(world)
            said = Signal(
                kind=SignalKind.TWIN,
                session=fresh_bytes(16),
                sequence=sequence,
                time=now_unix(),
                address=mallory.address().encode(),
            )
            mallory.publish(seal(mallory.identity, world.b.node.public_key, said, fresh_bytes(16)))
            await asyncio.sleep(1.0)
            assert "somebody else's word" in world.b.said(SignalRefused)[-1].reason
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


def test_an_envelope_to_somebody_else_is_refused() -> None:
    """A broker can hand anything to anybody."""

    async def main() -> None:
        async with World("public", "public") as world:
            mallory = Stranger(world)
            world.brokers[0].publish(TOPIC + world.a.node.node_id, mallory.offer(("udp_punch", Punch(1))))
            await asyncio.sleep(1.0)
            assert len(world.a.said(SignalRefused)) == 1
            assert world.a.said(PluginStarted) == []
            mallory.close()

    virtual(main)


# -- somebody else's session --------------------------------------------------------------------------------------


def test_somebody_elses_session_id_opens_nothing_and_breaks_nothing() -> None:
    """Session ids are seen by whoever sees the packets. Alice's session at b must survive Mallory's use of its id."""

    async def main() -> None:
        async with World("public", "public") as world:
            session = fresh_bytes(16)
            alice = Stranger(world, "alice", "198.51.100.65")
            mallory = Stranger(world)
            handshake = alice.handshake(session)
            stream = await alice.authenticate(handshake)

            mallory.publish(mallory.offer(("udp_punch", Punch(1)), session=session))
            hers = await mallory.dial()
            await hers.send(mallory.handshake(session).data_to_send())
            assert await hung_up(hers) == b""
            forged = await mallory.dial()  # Alice's key, but not hers to use
            await forged.send(mallory.handshake(session, claims=alice.identity.public_key).data_to_send())
            assert await hung_up(forged) == b""
            mallory.send(mallory.codec(session).request(fresh_bytes(12), "direct", mallory.target, introduce=True))
            claims = mallory.codec(session, claims=alice.identity.public_key)
            mallory.send(claims.request(fresh_bytes(12), "direct", mallory.target, introduce=True))
            await asyncio.sleep(1.0)
            assert mallory.received == []
            assert world.b.said(PluginStarted) == []
            assert [event.reason for event in world.b.said(SignalRefused)] == ["somebody else's session"]
            assert len(world.b.said(StrangerRefused)) == 4

            handshake.next_event()
            handshake.nominate()
            await stream.send(handshake.data_to_send() + b"hello")
            pipe = await world.b.node.accept()
            assert (pipe.peer, await pipe.recv(timeout=5.0)) == (alice.identity.node_id, b"hello")
            await pipe.close()
            stream.abort()
            alice.close()
            mallory.close()
            await world.quiet()

    virtual(main)


def test_a_forged_hello_does_not_end_a_session_that_began_with_a_check() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            session = fresh_bytes(16)
            alice = Stranger(world, "alice", "198.51.100.65")
            mallory = Stranger(world)
            codec = alice.codec(session)
            alice.send(codec.request(fresh_bytes(12), "direct", mallory.target, introduce=True))
            await asyncio.sleep(0.1)
            [answer] = alice.received
            forged = await mallory.dial()
            await forged.send(mallory.handshake(session, claims=alice.identity.public_key).data_to_send())
            assert await hung_up(forged) == b""
            opened = codec.open(answer, alice.target)
            flag = Attribute.USE_CANDIDATE
            alice.send(codec.request(fresh_bytes(12), "direct", alice.target, flag, echo=opened.nonce))
            pipe = await world.b.node.accept()
            assert pipe.peer == alice.identity.node_id
            pipe.abort()
            alice.close()
            mallory.close()
            await world.quiet()

    virtual(main)


def test_a_forged_hello_does_not_use_up_a_session_id() -> None:
    """Mallory is faster than Alice: what she sends first must not make b refuse Alice's own."""

    async def main() -> None:
        async with World("public", "public") as world:
            session = fresh_bytes(16)
            alice = Stranger(world, "alice", "198.51.100.65")
            mallory = Stranger(world)
            forged = await mallory.dial()
            await forged.send(mallory.handshake(session, claims=alice.identity.public_key).data_to_send())
            assert await hung_up(forged) == b""
            claims = mallory.codec(session, claims=alice.identity.public_key)
            mallory.send(claims.request(fresh_bytes(12), "direct", mallory.target, introduce=True))
            await asyncio.sleep(0.1)
            stream = await alice.authenticate(alice.handshake(session))
            stream.abort()
            alice.close()
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


# -- port scanners --------------------------------------------------------------------------------------------------

GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + b"\x5a" * 200,
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "zeros": bytes(4096),
    "almost": b"WG1\x01\xff\xff" + b"\x5a" * 2000,
    "wrong type": b"WG1\x02\x00\x10" + b"\x5a" * 48,
    "nominate": b"WG1\x03\x00\x00" + b"\x5a" * 32,
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_on_the_listening_port_is_cut_off_at_once(what: str) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            mallory = Stranger(world)
            stream = await mallory.dial()
            began = world.now
            await stream.send(GARBAGE[what])
            assert await hung_up(stream) == b""
            assert world.now - began <= 2 * R
            assert world.b.counts["StrangerRefused"] == 1
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


@pytest.mark.parametrize("bytes_a_second", [0, 1, 10])
def test_silence_and_a_slow_drip_are_cut_off_after_the_patience(bytes_a_second: int) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            mallory = Stranger(world)
            hello = mallory.handshake(fresh_bytes(16)).data_to_send()
            stream = await mallory.dial()
            began = world.now

            async def drip() -> None:
                for place in range(len(hello)):
                    if not bytes_a_second:
                        return
                    await stream.send(hello[place : place + 1])
                    await asyncio.sleep(1 / bytes_a_second)

            dripping = asyncio.ensure_future(drip())
            assert await hung_up(stream, within=10.0) == b""
            patience = Budgets().hello_patience
            assert patience - 0.1 < world.now - began < patience + 0.2
            dripping.cancel()
            await asyncio.wait([dripping])
            assert "no valid HELLO within 5 s" in world.b.said(StrangerRefused)[0].reason
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"hello", bytes(20), b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12), b"\xff" * 1400]
)
def test_stray_datagrams_are_ignored(data: bytes) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            mallory = Stranger(world)
            for _ in range(50):
                mallory.send(data)
            await asyncio.sleep(1.0)
            assert mallory.received == []
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


@pytest.mark.parametrize("options", BOTH_WAYS)
def test_a_thousand_idle_connections_do_not_keep_an_honest_peer_out(options: Options) -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            crowd = [Stranger(world, f"idler{number}", f"198.51.101.{number}") for number in range(1, 5)]
            streams = await asyncio.gather(*(idler.dial() for idler in crowd for _ in range(250)))
            assert len(streams) == 1000
            await asyncio.sleep(2 * R)
            held = [entry for entry in world.internet.open_sockets() if entry.host == "b" and entry.kind == "stream"]
            assert len(held) <= Budgets().unauthenticated_connections + 2 < 200  # and two to the STUN server
            one, other, waited = await connected(world, **options)
            assert waited == pytest.approx(R if options is OVER_UDP else 2 * R)
            await exchange(one, other)
            await one.close()
            await other.close()
            assert world.b.counts["StrangerRefused"] >= 1000 - Budgets().unauthenticated_connections
            await asyncio.sleep(Budgets().hello_patience + 1)
            for stream in streams:
                stream.abort()
            for idler in crowd:
                idler.close()
            await world.quiet()

    virtual(main)


# -- offers that aim at others ----------------------------------------------------------------------------------------

THIRD_PARTY = "203.0.113.77"
TARGETS = {
    "a third party": (f"{THIRD_PARTY}:5000", "is not one of the peer's own addresses"),
    "our own network": ("192.168.2.50:5000", "is not one of the peer's own addresses"),
    "our router": ("192.168.2.1:80", "is not one of the peer's own addresses"),
    "loopback": ("127.0.0.1:5000", "is not one of the peer's own addresses"),
    "broadcast": ("192.168.2.255:5000", "is not one of the peer's own addresses"),
    "everybody": ("255.255.255.255:5000", "is not one of the peer's own addresses"),
    "multicast": ("224.0.0.251:5353", "is not one of the peer's own addresses"),
    "a well-known port": (
        "198.51.100.66:22",
        "ports below 1024 are tried only where the peer itself listens",
    ),
    "port 0": ("198.51.100.66:0", "ports below 1024 are tried only where the peer itself listens"),
    "no endpoint": ("example.org:80", "is not"),
}
MESSAGES: dict[str, tuple[str, Callable[[str], object]]] = {
    "udp_punch": ("datagram", lambda target: Punch(2, (target,))),
    "tcp_punch": ("stream", lambda target: Punch(2, (target,), 0.0)),
}


@pytest.mark.parametrize("plugin", MESSAGES)
@pytest.mark.parametrize("what", TARGETS)
def test_a_message_that_names_what_is_not_the_peers_own(what: str, plugin: str) -> None:
    """Nothing is sent there; it is counted, and an event says why."""
    target, reason = TARGETS[what]
    mode, message = MESSAGES[plugin]

    async def main() -> None:
        async with World(kind_b="eim-apdf") as world:
            mallory = Stranger(world)
            before = world.b.counts
            packets = world.internet.capture()
            mallory.publish(mallory.offer((plugin, message(target)), mode=mode))
            await asyncio.sleep(PATIENCE + 2)
            named = target.rpartition(":")[0]
            sent = [seen.packet.flow for seen in packets if seen.sent and seen.host == "b"]
            if what in ("a well-known port", "port 0"):
                assert [flow for flow in sent if flow.destination.port < 1024] == []
            else:
                assert [flow for flow in sent if str(flow.destination.ip) == named] == []
            told = [event.reason for event in world.b.said(PluginEnded)]
            told += [event.text for event in world.b.said(PluginNoted)]
            assert reason in " ".join(told)
            if what != "no endpoint":
                refused = world.b.said(SignalRefused)
                assert [event.peer for event in refused] == [mallory.identity.node_id]
                assert reason in refused[0].reason
                assert world.b.counts["SignalRefused"] == before.get("SignalRefused", 0) + 1
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


def test_a_message_that_names_the_peers_own_endpoint_is_followed() -> None:
    """The counterpart of the above: the checks that refuse those could refuse everything."""

    async def main() -> None:
        async with World(kind_b="eim-apdf") as world:
            mallory = Stranger(world)
            packets = world.internet.capture()
            mallory.publish(mallory.offer(("udp_punch", Punch(2, (f"{mallory.ip}:5000",)))))
            await asyncio.sleep(2.0)
            assert Endpoint.of(mallory.ip, 5000) in sent_by(packets, "b")
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


@pytest.mark.parametrize("plugin", MESSAGES)
@pytest.mark.parametrize("what", [what for what in TARGETS if what != "no endpoint"])
def test_what_is_not_the_peers_own_is_left_out_and_the_rest_is_followed(what: str, plugin: str) -> None:
    target, reason = TARGETS[what]
    mode, _ = MESSAGES[plugin]

    async def main() -> None:
        async with World(kind_b="eim-apdf") as world:
            mallory = Stranger(world)
            packets = world.internet.capture()
            message = Punch(2, (target, f"{mallory.ip}:5000", target), 0.0)
            mallory.publish(mallory.offer((plugin, message), mode=mode))
            await asyncio.sleep(PATIENCE + 2)
            aimed = sent_by(packets, "b")
            assert Endpoint.of(mallory.ip, 5000) in aimed
            assert target not in map(str, aimed)
            [refused] = world.b.said(SignalRefused)
            assert reason in refused.reason
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


ADDRESSES = {
    "our own network": {"host": "192.168.2.50"},
    "our own network, from outside": {"host": "198.51.100.66", "reflexive": "192.168.2.50"},
    "another private network": {"host": "10.1.2.3"},
    "loopback": {"host": "127.0.0.1"},
    "loopback, from outside": {"host": "198.51.100.66", "reflexive": "127.0.0.1"},
    "broadcast": {"host": "192.168.2.255"},
    "multicast": {"host": "224.0.0.251"},
    "link-local": {"host": "169.254.169.254"},  # what clouds answer with credentials
    "nobody": {"host": "0.0.0.0"},
    "this network": {"host": "0.1.2.3"},
    "class E": {"host": "240.0.0.1"},
    "a translator": {"host": "192.0.0.170"},
}


@pytest.mark.parametrize("mode", ["datagram", "stream"])
@pytest.mark.parametrize("what", ADDRESSES)
def test_an_address_that_names_what_is_not_the_senders_to_name(what: str, mode: str) -> None:
    hostile = ADDRESSES[what]

    async def main() -> None:
        async with World(kind_b="eim-apdf") as world:
            mallory = Stranger(world)
            packets = world.internet.capture()
            address = mallory.address(mallory.attachment(**hostile, port=5000))
            messages = (("udp_punch", Punch(1)), ("tcp_punch", Punch(1)), ("reverse", {}))
            mallory.publish(mallory.offer(*messages, address=address, mode=mode))
            await asyncio.sleep(PATIENCE + 2)
            forbidden = hostile.get("reflexive", hostile["host"])
            assert forbidden not in {str(ip) for ip in ips(sent_by(packets, "b"))}
            assert world.b.counts["TargetsRefused"] == 1
            [refused] = world.b.said(TargetsRefused)
            assert refused.peer == mallory.identity.node_id
            assert forbidden in refused.reasons[0]
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


@pytest.mark.parametrize("port", [6000, 80])
@pytest.mark.parametrize("mode", ["datagram", "stream"])
def test_other_services_of_our_own_machine_hear_nothing(mode: str, port: int) -> None:
    """They may trust whoever comes from this machine. The sender claims to be behind our NAT, at our own address."""

    async def main() -> None:
        async with World(kind_b="eim-apdf") as world:
            host, heard = world.hosts["b"], []
            inside, outside = "192.168.2.2", "198.51.100.2"
            service = Endpoint.of(inside, port)
            datagrams = host.open_udp(service, lambda _, source: heard.append(source))
            streams = host.listen_tcp(service, lambda stream: heard.append(stream.remote))
            mallory = Stranger(world)
            address = mallory.address(mallory.attachment(inside, outside, port=port))
            messages = (("udp_punch", Punch(1)), ("tcp_punch", Punch(1)), ("reverse", {}))
            mallory.publish(mallory.offer(*messages, address=address, mode=mode))
            await asyncio.sleep(PATIENCE + 2)
            assert heard == []
            [refused] = world.b.said(TargetsRefused)
            assert f"{service} is this machine's own address" in refused.reasons
            mallory.close()
            datagrams.close()
            streams.close()
            await nobody_got_in(world)

    virtual(main)


@pytest.mark.parametrize(("mode", "bound"), [("datagram", 12), ("stream", 14)])
def test_what_an_address_may_cost_a_third_party_is_bounded(mode: str, bound: int) -> None:
    """That a public address is the sender's own cannot be known. One offer buys a dozen checks and two SYNs a pair."""

    async def main() -> None:
        async with World(kind_b="eim-apdf") as world:
            mallory = Stranger(world)
            packets = world.internet.capture()
            address = mallory.address(mallory.attachment(THIRD_PARTY, port=5000))
            messages = (("udp_punch", Punch(1)), ("tcp_punch", Punch(1)))
            mallory.publish(mallory.offer(*messages, address=address, mode=mode))
            await asyncio.sleep(PATIENCE + 2)
            aimed = [at for at in sent_by(packets, "b") if str(at.ip) == THIRD_PARTY]
            assert 0 < len(aimed) <= bound
            await asyncio.sleep(60.0)
            assert len([at for at in sent_by(packets, "b") if str(at.ip) == THIRD_PARTY]) == len(aimed)
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


@pytest.mark.parametrize("plugin", MESSAGES)
@pytest.mark.parametrize("kind", ["edm-seq", "edm-seq+hairpin", "edm-seq--3"])
def test_who_claims_to_share_our_routers_count_has_it_tried_there_and_nowhere_else(kind: str, plugin: str) -> None:
    """The sender claims our outside address and names ports as if they were the next of its NAT's count. What we send
    goes to our own router, to ports that we foretell, as much as to any endpoints that a peer names.
    """
    mode, _ = MESSAGES[plugin]
    step = -3 if kind.endswith("-3") else 1

    async def main() -> None:
        async with World(kind_b=kind) as world:
            outside = "198.51.100.2"
            mallory = Stranger(world)
            neighbour = mallory.attachment("192.168.2.77", outside)
            counting = NatProfile(Mapping.APDM, Filtering.APDF, PortAssignment(Assignment.SEQUENTIAL, step=step))
            address = mallory.address(replace(neighbour, nat=counting))
            packets = world.internet.capture()
            session = fresh_bytes(16)
            counted = world.routers["b"].router.nats[Family.V4]._ports._last
            await asyncio.sleep(0.5)
            for volley in range(1, 5):
                named = tuple(f"{outside}:{port + step * ahead}" for port in counted.values() for ahead in range(1, 9))
                message = (plugin, Punch(volley, named if volley > 1 else (), 0.0))
                mallory.publish(mallory.offer(message, address=address, mode=mode, session=session, sequence=volley))
                await asyncio.sleep(4.0)
            await asyncio.sleep(PATIENCE)
            assert len([event for event in world.b.said(PluginNoted) if "one NAT counts" in event.text]) == 3
            aimed = sent_by(packets, "b")
            assert {str(ip) for ip in ips(aimed)} <= {outside, "192.168.2.77", "203.0.113.1", "203.0.113.2"}
            ports = [at.port for at in aimed if str(at.ip) == outside]
            assert 0 < len(ports) <= 3 * 6 * 13  # six aims a volley, each primed once and then checked 12 times
            assert len(set(ports)) <= 3 * 6
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


@pytest.mark.parametrize("what", ["addresses", "addresses alone", "messages"])
def test_more_of_the_same_session_costs_as_much_as_new_sessions(what: str) -> None:
    """Following an address that changes, or firing at endpoints that are named, is what an offer can make a node do."""

    async def main() -> None:
        config = Config(budgets=Budgets(offers_per_second=1.0, offers_at_once=5.0))
        async with World(kind_b="eim-apdf", config_b=config) as world:
            mallory = Stranger(world)
            packets = world.internet.capture()
            session = fresh_bytes(16)
            for number in range(1, 101):
                address = mallory.address(mallory.attachment(f"203.1.113.{number}", port=5000))
                message: object = Punch(1)
                if what == "messages":
                    address = mallory.address(*(mallory.attachment(port=5000 + i) for i in range(8)))
                    message = Punch(2 + number, tuple(f"{mallory.ip}:{2000 + number}" for _ in range(8)))
                messages = () if what == "addresses alone" and number > 1 else (("udp_punch", message),)
                offer = mallory.offer(*messages, session=session, sequence=number, address=address)
                mallory.publish(offer)
                await asyncio.sleep(0.1)
            await asyncio.sleep(PATIENCE + 10)
            allowed = 5 + 10  # at once, and in the 10 s that it went on
            sent = [at for at in sent_by(packets, "b") if str(at.ip) not in ("203.0.113.1", "203.0.113.2")]
            assert 0 < len(sent) <= allowed * 8 * 13
            refused = [event.reason for event in world.b.said(SignalRefused)]
            assert len(refused) >= 100 - allowed - 1
            assert set(refused) == {"more offers from all peers together than this node answers"}
            mallory.close()
            await nobody_got_in(world)
            one, other, _ = await connected(world, **OVER_UDP)
            await exchange(one, other)
            await one.close()
            await other.close()

    virtual(main)


@pytest.mark.parametrize(("name", "mode"), [("udp_punch", "datagram"), ("tcp_punch", "stream"), ("reverse", "stream")])
def test_a_strategy_runs_once_a_session_however_often_it_is_asked_for(name: str, mode: str) -> None:
    """What one run may send is bounded; this one ends at once, of a message that is none, and is asked for again."""

    async def main() -> None:
        async with World(kind_b="eim-apdf") as world:
            mallory = Stranger(world)
            session = fresh_bytes(16)
            for sequence in range(1, 11):
                mallory.publish(mallory.offer((name, 7), session=session, sequence=sequence, mode=mode))
                await asyncio.sleep(1.0)
            assert len(world.b.said(PluginEnded)) == 1
            assert len(world.b.said(PluginStarted)) == 1
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


@pytest.mark.parametrize("name", ["udp_punch", "tcp_punch", "reverse", "direct", "no_such_plugin"])
@pytest.mark.parametrize(
    "body",
    [
        None,
        7,
        "text",
        [],
        {},
        {"volley": "one"},
        {"volley": -1},
        {"volley": 2**63},
        {"volley": 2, "endpoints": 5},
    ],
    ids=str,
)
def test_messages_that_are_none(name: str, body: object) -> None:
    """A plugin may fail of them; the session, the node and the next peer do not."""

    async def main() -> None:
        async with World(kind_b="eim-eif") as world:
            mallory = Stranger(world)
            mallory.publish(mallory.offer((name, body), mode="stream"))
            await asyncio.sleep(2.0)
            assert [event for event in world.b.said(PluginEnded) if event.outcome == "crashed"] == []
            one, other, _ = await connected(world, **OVER_TCP)
            await exchange(one, other)
            await one.close()
            await other.close()
            mallory.close()
            await world.quiet()

    virtual(main)


def test_refusals_that_come_twice_end_the_attempt_once() -> None:
    """Each repetition of an offer is refused anew, and the first refusal may still be taking effect."""

    async def main() -> None:
        async with World(registry=registry_with(LeavesLate)) as world:
            b = identity("b")
            world.b.network.crash()
            task = asyncio.ensure_future(world.a.node.connect(world.b.node.address, plugins=["leaves_late"]))
            await asyncio.sleep(0.1)
            [session] = world.a.run.sessions.ids
            for sequence in (1, 2, 3):
                refusal = Signal(
                    kind=SignalKind.REFUSAL,
                    session=session,
                    sequence=sequence,
                    time=now_unix(),
                    address=NodeAddress(b.public_key).encode(),
                    reason="go away",
                )
                envelope = seal(b, world.a.node.public_key, refusal, fresh_bytes(16))
                world.brokers[0].publish(TOPIC + world.a.node.node_id, envelope)
                await asyncio.sleep(0.01)
            with pytest.raises(ConnectFailed, match="refused: go away"):
                await task
            assert world.loop_errors == []
            assert world.a.node.address.brokers != ()
            world.b.network.boot()

    virtual(main)


def test_nobody_but_the_peer_answers_or_refuses_an_offer() -> None:
    """Whoever sees a HELLO or a first check knows the session's id."""

    async def main() -> None:
        async with World("public", "public") as world:
            mallory = Stranger(world)
            world.b.network.crash()
            task = asyncio.ensure_future(world.a.node.connect(world.b.node.address, **OVER_UDP))
            await asyncio.sleep(0.1)
            [session] = world.a.run.sessions.ids
            for kind in (SignalKind.REFUSAL, SignalKind.ANSWER, SignalKind.CHALLENGE):
                said = Signal(
                    kind=kind, session=session, sequence=1, time=now_unix(), address=mallory.address().encode()
                )
                envelope = seal(mallory.identity, world.a.node.public_key, said, fresh_bytes(16))
                world.brokers[0].publish(TOPIC + world.a.node.node_id, envelope)
                await asyncio.sleep(0.1)
            assert [event.reason for event in world.a.said(SignalRefused)] == ["an answer to somebody else's offer"] * 3
            world.b.network.boot()
            pipe = await task
            assert pipe.peer == world.b.node.node_id
            await pipe.close()
            mallory.close()

    virtual(main)


@pytest.mark.parametrize("welcome", [True, False])
def test_an_offer_does_not_lead_us_to_a_broker_of_its_choice(welcome: bool) -> None:
    """Its answer, or refusal, goes out over our own."""

    async def main() -> None:
        allow = None if welcome else frozenset([identity("a").node_id])
        async with World(config_b=Config(allow=allow)) as world:
            mallory = Stranger(world)
            chosen = BrokerRef("mqtt://203.0.113.66:1883")
            address = NodeAddress(mallory.identity.public_key, (chosen,), (mallory.attachment(),))
            mallory.publish(mallory.offer(("udp_punch", Punch(1)), address=address))
            await asyncio.sleep(5.0)
            topic = TOPIC + mallory.identity.node_id
            assert [entry for entry in world.brokers[0].log if entry[0] == topic], "it was answered"
            assert chosen.url not in [failure.server for failure in world.b.said(ServerFailed)]
            mallory.close()

    virtual(main)


# -- floods -----------------------------------------------------------------------------------------------------------


def test_a_flood_of_offers_by_one_peer_is_rationed_and_answered() -> None:
    async def main() -> None:
        limit = 60
        config = Config(budgets=Budgets(offers_per_peer_per_minute=limit))
        async with World(kind_b="eim-apdf", config_b=config) as world:
            mallory = Stranger(world)
            for _ in range(3 * limit):
                mallory.publish(mallory.offer(("no_such_plugin", 1)))
                await asyncio.sleep(0.1)  # below the rate of the gate (20 a second): this is about sessions
            sessions = len(world.b.run.sessions)
            assert sessions <= limit
            reasons = [event.reason for event in world.b.said(SignalRefused)]
            assert reasons.count(f"more than {limit} offers a minute") == 2 * limit
            mallory.close()
            await world.quiet()

    virtual(main)


def test_a_flood_of_envelopes_is_cut_off_before_it_costs_anything_and_ends_without_a_trace() -> None:
    async def main() -> None:
        async with World(kind_b="eim-apdf") as world:
            mallory = Stranger(world)
            for number in range(3000):
                mallory.publish(b"\x04" + number.to_bytes(4, "big") * 40)
            await asyncio.sleep(1.0)
            reasons = [event.reason for event in world.b.said(SignalRefused)]
            assert sum("over the rate" in reason for reason in reasons) >= 3000 - 400 - 200
            await asyncio.sleep(3.0)
            one, other, _ = await connected(world, **OVER_UDP)
            await exchange(one, other)
            await one.close()
            await other.close()
            mallory.close()
            await world.quiet()

    virtual(main)


def test_a_flood_of_introductions_is_rationed_and_does_not_touch_who_comes_by_an_offer() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-eif") as world:
            mallory = Stranger(world)
            rate = int(Budgets().introductions_per_second)
            checks = [
                mallory.codec(fresh_bytes(16)).request(fresh_bytes(12), "direct", mallory.target, introduce=True)
                for _ in range(2 * rate)
            ]
            for check in checks[:rate]:
                mallory.send(check)
            await asyncio.sleep(0.0)
            flood = asyncio.ensure_future(keep_sending(mallory, checks[rate:]))
            one, other, _ = await connected(world, plugins=["udp_punch"], **OVER_UDP)
            await flood
            assert len(mallory.received) <= 1.5 * rate  # in 0.5 s
            assert world.b.counts["StrangerRefused"] >= 0.5 * rate
            assert len(world.b.run.sessions) <= Budgets().sessions_at_once
            await exchange(one, other)
            await one.close()
            await other.close()
            mallory.close()
            await world.quiet()

    virtual(main)


async def keep_sending(mallory: Stranger, checks: list[bytes]) -> None:
    """2,000 a second."""
    for place in range(0, len(checks), 20):
        for check in checks[place : place + 20]:
            mallory.send(check)
        await asyncio.sleep(0.01)


def test_sessions_at_once_are_bounded_and_the_oldest_makes_room() -> None:
    async def main() -> None:
        config = Config(budgets=Budgets(sessions_at_once=8))
        async with World("public", "public", config_b=config) as world:
            mallory = Stranger(world)
            streams = []
            for _ in range(20):
                streams.append(await mallory.authenticate(mallory.handshake(fresh_bytes(16))))
                assert len(world.b.run.sessions) <= 8
            one, other, _ = await connected(world, **OVER_TCP)
            await exchange(one, other)
            await one.close()
            await other.close()
            for stream in streams:
                stream.abort()
            mallory.close()
            await world.quiet()

    virtual(main)


def test_links_that_are_never_nominated_are_closed_by_the_patience() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            mallory = Stranger(world)
            session = fresh_bytes(16)
            streams = [await mallory.authenticate(mallory.handshake(session)) for _ in range(10)]
            began = world.now
            for stream in streams:
                assert await hung_up(stream, within=PATIENCE + 5.0) == b""
            assert world.now - began == pytest.approx(PATIENCE, abs=1.0)
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


def test_a_peer_that_leaves_in_the_middle_of_the_handshake() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            mallory = Stranger(world)
            hello = mallory.handshake(fresh_bytes(16)).data_to_send()
            for cut in (1, 6, 50, len(hello) - 1):
                stream = await mallory.dial()
                await stream.send(hello[:cut])
                stream.close()
            stream = await mallory.authenticate(mallory.handshake(fresh_bytes(16)))
            stream.close()
            await asyncio.sleep(1.0)
            assert world.b.counts["StrangerRefused"] == 4
            mallory.close()
            await nobody_got_in(world)

    virtual(main)


def test_the_kit_speaks_the_protocol() -> None:
    """If it did not, all of the above would pass for the wrong reason."""

    async def main() -> None:
        async with World("public", "public") as world:
            alice = Stranger(world, "alice", "198.51.100.65")
            handshake = alice.handshake(fresh_bytes(16))
            stream = await alice.authenticate(handshake)
            handshake.next_event()
            handshake.nominate()
            await stream.send(handshake.data_to_send())
            pipe = await world.b.node.accept()
            assert pipe.peer == alice.identity.node_id
            assert len(fresh_bytes(16)) == NONCE_SIZE
            await pipe.close()
            stream.abort()
            with pytest.raises(NetworkError):
                await stream.recv(1)
            alice.close()
            await world.quiet()
            assert Protocol.TCP is not Protocol.UDP

    virtual(main)
