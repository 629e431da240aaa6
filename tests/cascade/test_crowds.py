"""Nobody has all of a node: who comes late finds room beside one stranger, and whom we know beside any number."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from cascade_world import BOTH_WAYS, OVER_TCP, OVER_UDP, Options, World, connected, identity, virtual
from strangers_kit import Stranger, fresh_bytes, read_answer

from warpgate.config import Budgets, Config
from warpgate.core.connection.quic_bounds import UNPROVED, Holdings
from warpgate.core.connection.quic_stream import QuicStream
from warpgate.core.search.links import LINKS_A_SESSION, UnchosenLinks
from warpgate.errors import NetworkError
from warpgate.events import SignalRefused, StrangerRefused
from warpgate.model.endpoint import Endpoint, Mode
from warpgate.plugins.udp_punch import Punch
from warpgate.proto.check_wire import CheckCodec
from warpgate.proto.gate import GLOBAL_BURST, GLOBAL_RATE
from warpgate.proto.hello import Role
from warpgate.proto.marks import Marks

_numbers = itertools.count()
# Small, so that little is enough to use them up.
FEW = Config(budgets=Budgets(offers_per_second=4.0, offers_at_once=8.0, introductions_per_second=20.0))


def renew(mallory: Stranger) -> None:
    """With another key from now on, which costs nothing."""
    mallory.identity = identity(f"m{next(_numbers)}")


def offer(mallory: Stranger, *, elsewhere: bool = False) -> None:
    """Claims to be where it is, or `elsewhere`, each time in another network."""
    at = mallory.attachment()
    if elsewhere:
        number = next(_numbers)
        at = mallory.attachment(reflexive=f"20.{number // 250 % 250}.{number % 250}.1")
    mallory.publish(mallory.offer(("udp_punch", Punch(1)), address=mallory.address(at)))


def introduce(mallory: Stranger) -> None:
    codec = mallory.codec(fresh_bytes(16))
    mallory.send(codec.request(fresh_bytes(12), "direct", mallory.target, introduce=True))


@asynccontextmanager
async def flood(world: World, once: Callable[[], None], rate: float, before: float) -> AsyncIterator[None]:
    """`once`, `rate` times a second, for `before` seconds and then as long as the body takes."""

    async def go_on() -> None:
        while True:
            once()
            await asyncio.sleep(1 / rate)

    flooding = asyncio.ensure_future(go_on())
    await asyncio.sleep(before)
    yield
    flooding.cancel()
    with suppress(asyncio.CancelledError):
        await flooding


def refused(world: World, reason: str) -> int:
    kinds = (SignalRefused, StrangerRefused)
    return sum(reason in event.reason for kind in kinds for event in world.b.said(kind))


# -- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", ["three keys", "a key each time"])
def test_a_stranger_that_offers_without_end_leaves_room_for_newcomers(keys: str) -> None:
    async def main() -> None:
        async with World(kind_b="eim-apdf", config_b=FEW) as world:
            mallory = Stranger(world)

            def once() -> None:
                if keys == "a key each time" or not next(_numbers) % 30:
                    renew(mallory)
                offer(mallory)

            async with flood(world, once, 50, before=3.0):
                one, other, seconds = await connected(world, **OVER_UDP)
                assert seconds < 0.5
            assert refused(world, "more offers from all peers") > 80
            await one.close()
            await other.close()
            mallory.close()
            await world.quiet()

    virtual(main)


def test_whom_we_know_has_offers_left_whatever_strangers_make_up() -> None:
    async def main() -> None:
        config = Config(budgets=Budgets(offers_per_second=8.0, offers_at_once=32.0))
        async with World(kind_b="eim-apdf", config_b=config) as world:
            one, other, _ = await connected(world, **OVER_UDP)
            await one.close()
            await other.close()
            mallory = Stranger(world)

            def once() -> None:
                renew(mallory)
                offer(mallory, elsewhere=True)

            async with flood(world, once, 50, before=3.0):
                for _ in range(5):
                    one, other, seconds = await connected(world, **OVER_UDP)
                    assert seconds < 0.5
                    await one.close()
                    await other.close()
            assert refused(world, "more offers from all peers") > 80
            mallory.close()
            await world.quiet()

    virtual(main)


@pytest.mark.parametrize("durable", [False, True])
def test_whom_we_know_is_heard_whatever_floods_the_topic(durable: bool) -> None:
    """The answer to `how many` comes before anything is opened: by then nobody has a name."""

    async def main() -> None:
        async with World(kind_a="eim-apdf", kind_b="eim-apdf") as world:
            options = OVER_UDP | {"durable": durable}
            one, other, _ = await connected(world, **options)
            await one.close()
            await other.close()
            await asyncio.sleep(200.0)  # until neither the connection nor its sockets are kept any more
            mallory = Stranger(world)

            def once() -> None:
                for _ in range(5):
                    mallory.publish(fresh_bytes(500))

            async with flood(world, once, 1000, before=3.0):
                one, other, seconds = await connected(world, **options)
            assert seconds < 0.5
            await one.close()
            await other.close()
            await asyncio.sleep(70.0)
            assert refused(world, "over the rate") > 3 * 4000
            mallory.close()
            await world.quiet()

    virtual(main)


def test_who_has_marks_without_end_has_no_more_opened_than_a_stranger() -> None:
    """As one has who opens pipe after pipe. Another one that we know gets through, still."""

    async def main() -> None:
        async with World(kind_a="eim-apdf", kind_b="eim-apdf") as world:
            one, other, _ = await connected(world, **OVER_UDP)
            await one.close()
            await other.close()
            mallory, known = Stranger(world), world.b.run.context.acquainted
            names = [identity(f"known {number}").node_id for number in range(8)]
            marks = Marks()
            for name in names:
                known.meet(name, Endpoint.of(mallory.ip, 1).ip)
                marks.met(name)

            def once() -> None:
                name, sealed = names[next(_numbers) % len(names)], fresh_bytes(500)
                mark = marks.mark(name, sealed)
                if mark is None:
                    key = fresh_bytes(32)
                    marks.renew(name, key, Role.INITIATOR)
                    known.marks.renew(name, key, Role.RESPONDER)
                    mark = marks.mark(name, sealed)
                assert mark is not None
                mallory.publish(mark + sealed)

            async with flood(world, once, 1000, before=5.0):
                one, other, seconds = await connected(world, **OVER_UDP)
            assert seconds < 0.5
            assert refused(world, "not sealed") <= GLOBAL_BURST + GLOBAL_BURST / 2 + 6 * GLOBAL_RATE
            await one.close()
            await other.close()
            mallory.close()
            await world.quiet()

    virtual(main)


def test_who_is_known_by_pipes_of_its_own_takes_no_more_than_others() -> None:
    """Anybody may have opened a pipe, here with three keys, and then offer without end."""

    async def main() -> None:
        async with World(kind_b="eim-apdf", config_b=FEW) as world:
            mallory = Stranger(world)
            keys = [identity(f"known {number}") for number in range(3)]
            for key in keys:
                world.b.run.context.acquainted.meet(key.node_id, Endpoint.of(mallory.ip, 1).ip)

            def once() -> None:
                mallory.identity = keys[next(_numbers) % 3]
                offer(mallory, elsewhere=True)

            async with flood(world, once, 50, before=3.0):
                one, other, seconds = await connected(world, **OVER_UDP)
                assert seconds < 0.5
            assert refused(world, "more offers from all peers") > 80
            await one.close()
            await other.close()
            mallory.close()
            await world.quiet()

    virtual(main)


@pytest.mark.parametrize("options", BOTH_WAYS)
def test_introductions_from_one_place_leave_room_for_others(options: Options) -> None:
    async def main() -> None:
        async with World("public", "public", config_b=FEW) as world:
            mallory = Stranger(world)

            def once() -> None:
                renew(mallory)
                introduce(mallory)

            async with flood(world, once, 300, before=2.0):
                one, other, seconds = await connected(world, plugins=["direct"], **options)
                assert seconds < 0.2
            assert refused(world, "too many introductions") > 200
            await one.close()
            await other.close()
            mallory.close()
            await world.quiet()

    virtual(main)


# -- places -----------------------------------------------------------------------------------------------------------


def test_sessions_of_one_place_make_room_before_others() -> None:
    """Eight sessions, and 50 a second of fresh keys: an honest one may need longer than these take to go round."""

    async def main() -> None:
        config = Config(budgets=Budgets(sessions_at_once=8))
        async with World("public", "public", config_b=config) as world:
            mallory, slow = Stranger(world), Stranger(world, "slow", "203.0.113.40")
            session = fresh_bytes(16)
            offered = slow.offer(("udp_punch", Punch(1)), session=session)
            slow.publish(offered)
            await asyncio.sleep(0.1)
            assert session in world.b.run.sessions

            def once() -> None:
                renew(mallory)
                introduce(mallory)

            async with flood(world, once, 50, before=2.0):
                assert session in world.b.run.sessions
                assert len(world.b.run.sessions) <= 8
            mallory.close()
            slow.close()
            await world.quiet()

    virtual(main)


@pytest.mark.parametrize("who", ["came by an offer", "known"])
def test_introductions_in_anybodys_name_push_out_nobody_of_another_group(who: str) -> None:
    """Each with a new key, and from another network: no crowd is large."""

    async def main() -> None:
        config = Config(budgets=Budgets(sessions_at_once=8))
        async with World("public", "public", config_b=config) as world:
            mallory, slow = Stranger(world), Stranger(world, "slow", "203.0.113.40")
            session = fresh_bytes(16)
            if who == "known":
                world.b.run.context.acquainted.meet(slow.identity.node_id, Endpoint.of(slow.ip, 1).ip)
                slow.send(slow.codec(session).request(fresh_bytes(12), "direct", slow.target, introduce=True))
            else:
                slow.publish(slow.offer(("udp_punch", Punch(1)), session=session))
            await asyncio.sleep(0.1)
            assert session in world.b.run.sessions

            def once() -> None:
                renew(mallory)
                number = next(_numbers)
                source = Endpoint.of(f"20.{number // 250 % 250}.{number % 250}.1", 4000)
                codec = mallory.codec(fresh_bytes(16))
                mallory.forge(source, codec.request(fresh_bytes(12), "direct", mallory.target, introduce=True))

            async with flood(world, once, 50, before=2.0):
                assert session in world.b.run.sessions
                assert len(world.b.run.sessions) == 8
            mallory.close()
            slow.close()
            await world.quiet()

    virtual(main)


def test_a_slow_hello_is_waited_for_while_somebody_else_fills_the_door() -> None:
    async def main() -> None:
        config = Config(budgets=Budgets(unauthenticated_connections=16))
        async with World("public", "public", config_b=config) as world:
            mallory, slow = Stranger(world), Stranger(world, "slow", "203.0.113.40")
            waiting = await slow.dial()
            streams = [await mallory.dial() for _ in range(40)]
            handshake = slow.handshake(fresh_bytes(16))
            await waiting.send(handshake.data_to_send())
            await read_answer(waiting, handshake)  # NetworkError if it was hung up on
            for stream in (waiting, *streams):
                stream.abort()
            mallory.close()
            slow.close()
            await world.quiet()

    virtual(main)


def test_a_link_that_waits_for_its_nomination_is_kept_while_somebody_else_proves_hundreds() -> None:
    async def main() -> None:
        config = Config(budgets=Budgets(unchosen_links=24))
        async with World("public", "public", config_b=config) as world:
            mallory, slow = Stranger(world), Stranger(world, "slow", "203.0.113.40")
            session = fresh_bytes(16)
            handshake = slow.handshake(session)
            streams = [await slow.authenticate(handshake)]
            for _ in range(40):
                renew(mallory)
                with suppress(NetworkError):
                    streams.append(await mallory.authenticate(mallory.handshake(fresh_bytes(16))))
            assert len(world.b.run.equipment.unchosen) == 24
            handshake.nominate()
            await streams[0].send(handshake.data_to_send())
            async with asyncio.timeout(1.0):
                pipe = await world.b.node.accept()
            assert pipe.peer == slow.identity.node_id
            pipe.abort()
            for stream in streams:
                stream.abort()
            mallory.close()
            slow.close()
            await world.quiet()

    virtual(main)


def test_links_that_peers_prove_from_everywhere_leave_ours_waiting() -> None:
    """Each from another network and in a session of its own: no crowd is large."""
    aborted: list[str] = []

    class Waiting:
        def __init__(self, ip: str) -> None:
            self.remote = Endpoint.of(ip, 4000)

        def abort(self) -> None:
            aborted.append(str(self.remote.ip))

    links = UnchosenLinks(8)
    links.add(b"ours", Waiting("198.51.100.1"), ours=True)
    for number in range(100):
        links.add(number.to_bytes(16, "big"), Waiting(f"20.0.{number}.1"), ours=False)
    assert aborted == [f"20.0.{number}.1" for number in range(93)]


def test_one_session_keeps_eight_links_waiting_for_a_nomination() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            mallory, session = Stranger(world), fresh_bytes(16)
            streams = [await mallory.authenticate(mallory.handshake(session)) for _ in range(20)]
            assert len(world.b.run.equipment.unchosen) == LINKS_A_SESSION
            for stream in streams:
                stream.abort()
            mallory.close()
            await world.quiet()

    virtual(main)


def test_who_opens_pipes_with_many_keys_is_known_as_few() -> None:
    """Else a stranger would have a share of those whom we know for each key."""

    async def main() -> None:
        async with World("public", "public") as world:
            one, other, _ = await connected(world, **OVER_TCP)
            mallory = Stranger(world)
            for _ in range(40):
                renew(mallory)
                handshake = mallory.handshake(fresh_bytes(16))
                stream = await mallory.authenticate(handshake)
                handshake.nominate()
                await stream.send(handshake.data_to_send())
                (await world.b.node.accept()).abort()
                stream.abort()
            known = world.b.run.context.acquainted
            assert world.a.node.node_id in known
            assert len(known) == 1 + 16
            await one.close()
            await other.close()
            mallory.close()
            await world.quiet()

    virtual(main)


def shake_hands(mallory: Stranger, port: int) -> None:
    """By a new key, from this port: a stream's first check and QUIC's first packet, and never the proof."""
    key, session, target = identity(f"m{next(_numbers)}"), fresh_bytes(16), mallory.target
    b_key = mallory.world.b.node.public_key
    secret = key.session_key(b_key, session, initiator=True)
    codec = CheckCodec(True, session, secret, fresh_bytes(32), key.public_key, Mode.STREAM)
    quic = QuicStream.client(key, b_key, session, mallory.world.now, Holdings())
    sock = mallory.network.open_udp(Endpoint.of(mallory.ip, port), lambda *_: None)
    sock.send(codec.request(fresh_bytes(12), "direct", target, introduce=True), target.sockaddr)
    sock.send(quic.datagrams(mallory.world.now)[0], target.sockaddr)
    sock.close()


def test_handshakes_of_streams_without_a_proof_are_few_short_and_leave_room_for_others() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            mallory, eve = Stranger(world), Stranger(world, "eve", "203.0.113.50")
            begun = world.b.run.quic_door._unproved
            for port in range(5000, 5000 + UNPROVED + 10):
                shake_hands(mallory, port)
            await asyncio.sleep(1.0)
            assert len(begun) == UNPROVED
            shake_hands(eve, 5000)
            await asyncio.sleep(1.0)
            assert [flow.remote.ip for flow in begun._held].count(Endpoint.of(eve.ip, 1).ip) == 1
            await asyncio.sleep(Budgets().hello_patience)
            assert len(begun) == 0
            mallory.close()
            eve.close()
            await world.quiet()

    virtual(main)
