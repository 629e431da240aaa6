"""What both ends of a QUIC connection say before there is a path: what it gains, and what nobody gains by it."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter

import msgspec
import pytest
from cascade_world import HOP, Options, R, S, Seat, World, connected, ends, exchange, virtual
from strangers_kit import Stranger

from warpgate.config import Config
from warpgate.core.connection.paths import Path
from warpgate.core.connection.quic_bounds import AHEAD, Holdings
from warpgate.core.connection.quic_channels import QuicChannels
from warpgate.core.connection.quic_stream import QuicStream
from warpgate.core.search.equipment import Equipment
from warpgate.core.search.quic_ahead import COMPUTING
from warpgate.core.udp.demultiplexer import GREETED_PAIRS, UNVALIDATED_DATAGRAMS, SessionChecks
from warpgate.events import PathOpened, PathsMissing, StrangerRefused
from warpgate.model.address import BrokerRef
from warpgate.proto.signals import PluginMessage, Signal
from warpgate_testing.internet import PathSpec

r = HOP
MODES = ["path", "stream"]
CHECK = 400  # connectivity checks are smaller than that, what QUIC says at first is not


def flight_of(stranger: Stranger, mode: str = "path") -> tuple[bytes, ...]:
    """What a client with the stranger's key says to b first, for a connection of durable pipes or for a stream."""
    b_key, now = stranger.world.b.node.public_key, stranger.world.now
    session = stranger.network.host.name.encode().ljust(16, b"\0")
    client = QuicChannels.client if mode == "path" else QuicStream.client
    return tuple(client(stranger.identity, b_key, session, now, Holdings()).datagrams(now))


def begun(seat: Seat) -> int:
    """How many connections there are, and streams that were begun by an offer and have no pair."""
    return len(seat.run.connections) + len(seat.run.quic_door._ahead)


@pytest.mark.parametrize(
    ("kind_a", "kind_b", "seconds"),
    [
        ("public", "public", R),
        ("eim-apdf", "public", R),
        ("edm", "public", R),
        ("eim-apdf", "eim-apdf", S + r),
        ("public", "eim-apdf", S + r),
    ],
)
def test_the_connection_is_open_when_its_first_path_is(kind_a: str, kind_b: str, seconds: float) -> None:
    async def main() -> None:
        async with World(kind_a, kind_b) as world:
            near, far, waited = await connected(world, durable=True)
            assert waited == pytest.approx(seconds, abs=1e-6)
            began = world.now
            await near.send(b"there")
            assert await far.recv() == b"there"
            await far.send(b"back")
            assert await near.recv() == b"back"
            assert world.now - began == pytest.approx(R, abs=1e-6)
            assert world.a.signals()["offer"] == 1
            await far.close()

    virtual(main)


def test_an_offer_without_room_for_it_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the client says it on its path."""
    publish = Equipment.publish

    def crowded(
        self: Equipment, peer_key: bytes, signal: Signal, brokers: tuple[BrokerRef, ...]
    ) -> int:  # as large as an address and its messages may make it
        filler = tuple(PluginMessage(f"filler{number}", bytes(1000)) for number in range(2))
        return publish(self, peer_key, msgspec.structs.replace(signal, messages=(*signal.messages, *filler)), brokers)

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            monkeypatch.setattr(Equipment, "publish", crowded)
            near, far, waited = await connected(world, durable=True)
            assert waited == pytest.approx(S + r + R, abs=1e-6)
            await exchange(near, far)
            await near.close()
            await far.close()

    virtual(main)


def test_an_answer_that_a_nat_or_relay_does_not_let_in_yet_is_said_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            greet = SessionChecks.greet

            def lost(self: SessionChecks, greeting: tuple[bytes, ...]) -> None:
                if self not in world.b.run.udp.sessions.values():
                    greet(self, greeting)

            monkeypatch.setattr(SessionChecks, "greet", lost)
            near, far, waited = await connected(world, transport="udp")
            assert waited == pytest.approx(S + r + COMPUTING + R, abs=1e-6)
            await exchange(near, far)
            await near.close()
            await far.close()

    virtual(main)


@pytest.mark.parametrize("options", [{"durable": True}, {"transport": "udp"}])
def test_loss_of_what_is_said_first_is_made_up_for(options: Options) -> None:
    waits: list[float] = []

    async def main(seed: int) -> None:
        async with World("eim-apdf", "eim-apdf", seed=seed, loss=0.1) as world:
            near, far, waited = await connected(world, **options)
            waits.append(waited)
            await exchange(near, far)
            await near.close()
            await far.close()

    for seed in range(20):
        virtual(lambda seed=seed: main(seed))
    assert statistics.median(waits) < 0.15
    assert sorted(waits)[-2] < 1.0


@pytest.mark.parametrize(("round_trip", "most"), [(0.01, 0), (0.04, 0), (0.6, 1), (2.5, 2)])
def test_a_slow_path_is_not_filled_with_what_was_said_already(
    round_trip: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the broker is near: what proved the path says how long its answers may take."""
    repeated: Counter[Path] = Counter()
    say_again = Path.say_again

    def counted(self: Path) -> None:
        repeated[self] += 1
        say_again(self)

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            delayed = PathSpec(delay=round_trip / 2)
            world.internet.set_path(world.routers["a"], world.routers["b"], delayed)
            monkeypatch.setattr(Path, "say_again", counted)
            near, far, _ = await connected(world, durable=True)
            began = world.now
            await near.send(b"there")
            assert await far.recv() == b"there"
            await far.send(b"back")
            assert await near.recv() == b"back"
            assert world.now - began < round_trip + 0.05
            await asyncio.sleep(3 * round_trip)
            assert all(count <= most for count in repeated.values())
            assert len(world.a.said(PathOpened)) == len(world.b.said(PathOpened)) == 1, "none is taken for dead"
            await near.close()
            await far.close()

    virtual(main)


def test_a_proof_that_is_lost_is_said_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    say = Path.say
    lost: list[Path] = []

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:

            def say_but_once(self: Path, datagrams: list[bytes]) -> None:
                if datagrams and not lost and self.origin.local.ip == world.a.node.address.attachments[0].host:
                    lost.append(self)
                    with monkeypatch.context() as patch:
                        patch.setattr(self, "send", lambda _: None)
                        say(self, datagrams)
                else:
                    say(self, datagrams)

            monkeypatch.setattr(Path, "say", say_but_once)
            began = world.now
            near, far, waited = await connected(world, durable=True)
            assert waited == pytest.approx(S + r, abs=1e-6)
            assert world.now - began == pytest.approx(S + r + 0.125 + r, abs=1e-6), "the responder has the pipe, too"
            await near.close()
            await far.close()

    virtual(main)


def test_a_peer_that_is_gone_with_the_first_path_is_missed_as_soon_as_ever() -> None:
    """Two probe timeouts of a round trip that was not measured: no broker is farther than usual."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            near, _, _ = await connected(world, durable=True)
            world.internet.partition(world.routers["a"], world.routers["b"])
            await near.send(b"there")
            await asyncio.sleep(0.7)
            assert world.a.said(PathsMissing)
            near.abort()

    virtual(main)


# -- attacks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_addresses_of_others_get_little_for_an_offer(mode: str) -> None:
    """An offer may name whoever it likes as its sender: each gets checks, and one flight, but none that goes on."""

    async def main() -> None:
        async with World("eim", "public") as world:
            packets = world.internet.capture()
            stranger = Stranger(world)
            victims = [f"198.51.100.{number}" for number in range(100, 108)]
            named = stranger.address(*(stranger.attachment(ip, port=7000) for ip in victims))
            offer = stranger.offer(
                ("udp_punch", {"volley": 1, "endpoints": [], "delay": -1.0}),
                address=named,
                mode=mode,
                flight=flight_of(stranger, mode),
            )
            for _ in range(5):
                stranger.publish(offer)
                await asyncio.sleep(1)
            await asyncio.sleep(30)
            sent = [
                seen.packet
                for seen in packets
                if seen.sent and seen.host == "b" and str(seen.packet.flow.destination.ip) in victims
            ]
            large = Counter(packet.flow.destination for packet in sent if len(packet.payload) > CHECK)
            assert 0 < len(large) <= GREETED_PAIRS
            assert max(large.values()) <= UNVALIDATED_DATAGRAMS
            assert begun(world.b) == 0
            stranger.close()

    virtual(main)


@pytest.mark.parametrize("mode", MODES)
def test_who_has_no_path_cannot_hold_many_connections(mode: str) -> None:
    async def main() -> None:
        async with World("eim-apdf", "public") as world:
            strangers = [Stranger(world, f"m{n}", f"198.51.101.{n + 1}") for n in range(AHEAD + 30)]
            for stranger in strangers:
                stranger.publish(stranger.offer(mode=mode, flight=flight_of(stranger, mode)))
                await asyncio.sleep(0.06)
            assert begun(world.b) == AHEAD
            options: Options = {"durable": True} if mode == "path" else {"transport": "udp"}
            near, far, waited = await connected(world, **options)  # the slower way is open
            assert waited <= 2 * R + 0.001
            await near.close()
            await far.close()
            await asyncio.sleep(100)
            assert begun(world.b) == 0
            for stranger in strangers:
                stranger.close()

    virtual(main)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_said_first_may_be_nonsense_or_somebody_elses(mode: str) -> None:
    async def main() -> None:
        async with World("eim-apdf", "public") as world:
            near, far, _ = await connected(world, durable=True)
            await exchange(near, far)
            stranger, other = Stranger(world), Stranger(world, "other", "198.51.100.67")
            first = flight_of(stranger, mode)
            [honest] = [one.first_words.flight for one in world.a.run.connections.known]
            for flight in (
                (first[0][:30] + bytes(1170),),
                (b"\xc0\0\0\0\1" + bytes(1195),),
                (b"",),
                (b"x", b""),
                (bytes(1200), first[0]),
                honest,
            ):
                stranger.publish(stranger.offer(mode=mode, flight=flight))
            other.publish(other.offer(mode=mode, flight=first))  # from another key, before its own
            await asyncio.sleep(1)
            stranger.publish(stranger.offer(mode=mode, flight=first))
            await asyncio.sleep(60)
            assert world.loop_errors == []
            await exchange(near, far)
            assert begun(world.b) == 1
            assert not [event for event in world.b.said(StrangerRefused) if "crashed" in event.reason]
            await near.close()
            await far.close()
            stranger.close()
            other.close()

    virtual(main)


@pytest.mark.parametrize("mode", MODES)
def test_who_is_not_allowed_gets_no_answer_to_what_it_says_first(mode: str) -> None:
    async def main() -> None:
        async with World("eim-apdf", "public", config_b=Config(allow=frozenset({"a" * 26}))) as world:
            stranger = Stranger(world)
            stranger.publish(stranger.offer(mode=mode, flight=flight_of(stranger, mode)))
            for data in flight_of(stranger, mode):
                stranger.send(data)
            await asyncio.sleep(1)
            assert begun(world.b) == 0
            assert stranger.received == []
            stranger.close()

    virtual(main)


# -- the last word on a path that is not validated yet ---------------------------------------------------------------


@pytest.mark.parametrize("after", [0.001, 0.01, r])
def test_who_leaves_before_its_path_is_validated_says_so(after: float) -> None:
    """Its datagrams that may leave by then are used up; who is not told searches for somebody who is gone."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            pipe = await world.a.node.connect(world.b.node.address, durable=True)
            await pipe.send(bytes(5_000))
            await asyncio.sleep(after)
            (path,) = pipe.connection._paths
            assert not path._checks.agent.path_validated
            assert path._held
            left, offers = world.now, world.b.signals()["offer"]
            pipe.connection.close(reason="enough")
            other = await world.b.node.accept()
            assert await ends(other)
            assert other._end == "the QUIC connection ended: enough"
            assert world.now - left == pytest.approx(r, abs=1e-6)
            assert world.b.signals()["offer"] == offers

    virtual(main)
