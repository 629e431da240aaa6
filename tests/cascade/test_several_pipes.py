"""Several pipes between the same two nodes: datagrams carry no label, so each pair of endpoints carries one pipe."""

from __future__ import annotations

import asyncio

import pytest
from cascade_world import BOTH_WAYS, OVER_TCP, OVER_UDP, Options, R, S, World, connected, ends, exchange, virtual
from rogue_plugins import QUICK, ROGUES, DialsAfterwards, Hangs, ReturnsADeadLink, registry_with

from warpgate.core.connections import LINGERING
from warpgate.core.pipes.base import Pipe
from warpgate.errors import ConnectFailed, PipeClosed
from warpgate.events import LinkVerified, PluginEnded, PluginNoted
from warpgate.model.endpoint import Transport


async def close_all(world: World, *pipes: Pipe) -> None:
    for pipe in pipes:
        await pipe.close()
    await world.quiet()


async def tell_apart(pairs: list[tuple[Pipe, Pipe]]) -> None:
    """What is sent into one comes out at its own other end."""
    for number, (one, _) in enumerate(pairs):
        await one.send(b"to %d" % number)
    for number, (_, other) in enumerate(pairs):
        assert await other.recv(timeout=5.0) == b"to %d" % number
        await other.send(b"from %d" % number)
    for number, (one, _) in enumerate(pairs):
        assert await one.recv(timeout=5.0) == b"from %d" % number


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize(
    ("kind_a", "kind_b"),
    [
        ("public", "public"),
        ("eim-apdf", "eim-apdf"),
        ("eim-adf", "masquerade"),
        ("edm", "public"),
        ("public", "eim-apdf"),
    ],
)
def test_one_after_the_other(kind_a: str, kind_b: str, options: Options) -> None:
    async def main() -> None:
        async with World(kind_a, kind_b) as world:
            pairs = []
            for number in range(3):
                one, other, waited = await connected(world, plugins=QUICK, **options)
                pairs.append((one, other))
                assert waited < 1.0, f"pipe {number}"
            assert len({(one.local, one.remote) for one, _ in pairs}) == 3
            assert len({one.session for one, _ in pairs}) == 3
            await tell_apart(pairs)
            for pipe in pairs.pop(1):
                await pipe.close()
            await asyncio.sleep(3.0)
            await tell_apart(pairs)
            await close_all(world, *(pipe for pair in pairs for pipe in pair))

    virtual(main)


def test_fifty_at_once_take_turns_with_their_signals() -> None:
    """The peer listens to 20 a second of each sender: it heard a part of the offers, and repetitions of that part."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            address = world.b.node.address
            ones = await asyncio.gather(*(world.a.node.connect(address, **OVER_TCP) for _ in range(50)))
            assert world.a.signals()["offer"] <= 2 * len(ones)
            others = [await world.b.node.accept() for _ in ones]
            await close_all(world, *ones, *others)

    virtual(main)


def test_durable_pipes_beyond_what_one_connection_carries_are_on_another() -> None:
    """qh3 lets a peer open 100 streams; the hundredth pipe failed after 20 s, "did not answer"."""

    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            address = world.b.node.address
            ones = await asyncio.gather(*(world.a.node.connect(address, durable=True) for _ in range(120)))
            others = [await world.b.node.accept() for _ in ones]
            assert len({pipe.connection.id for pipe in ones}) == 2  # type: ignore[attr-defined]
            for number, pipe in enumerate(ones):
                await pipe.send(number.to_bytes(2))
            assert sorted([int.from_bytes(await other.recv_n(2)) for other in others]) == list(range(120))
            for pipe in (*ones[:3], *others[:3]):
                await pipe.close()
            began = world.now
            again = await world.a.node.connect(address, durable=True)
            assert world.now - began < R
            for pipe in (*ones, *others, again, await world.b.node.accept()):
                await pipe.close()
            await asyncio.sleep(2 * LINGERING)  # then connections are closed that nobody uses
            await world.quiet()

    virtual(main)


def test_punched_tcp_takes_other_ports_for_the_second_pipe_at_once() -> None:
    async def main() -> None:
        async with World("eim-apdf", "eim-apdf") as world:
            address = world.b.node.address
            ones = await asyncio.gather(*(world.a.node.connect(address, **OVER_TCP) for _ in range(3)))
            assert all(pipe.plugin == "tcp_punch" and pipe.seconds < 0.4 for pipe in ones)
            notes = [event.text for event in world.a.events if isinstance(event, PluginNoted)]
            assert sum(text.startswith("fired at") for text in notes) == 1, notes
            assert sum(text.startswith("volley 2 from fresh ports") for text in notes) == 2, notes
            others = [await world.b.node.accept() for _ in ones]
            await close_all(world, *ones, *others)

    virtual(main)


@pytest.mark.parametrize("kind_a", ["eim-apdf", "masquerade"])
def test_datagram_pipes_beside_another_take_one_fresh_port_at_once(kind_a: str) -> None:
    """Each waited 1.7 s: for its first volley, in vain, on the endpoints that carry the first pipe."""

    async def main() -> None:
        async with World(kind_a, "eim-apdf") as world:
            address = world.b.node.address
            listening = address.attachments[0].host_endpoint(Transport.UDP)
            ones = await asyncio.gather(*(world.a.node.connect(address, **OVER_UDP) for _ in range(10)))
            ones.append(await world.a.node.connect(address, **OVER_UDP))  # beside those that are open
            assert [one.seconds for one in ones] == pytest.approx([S + R / 2] + 10 * [R + S + R / 2])
            assert world.a.signals()["offer"] <= 2 * len(ones)
            assert not world.b.signals()
            others = [await world.b.node.accept() for _ in ones]
            assert {other.local for other in others} == {listening}  # the router there has no new mappings
            await close_all(world, *ones, *others)

    virtual(main)


def test_direct_datagram_pipes_at_once_have_a_socket_of_their_own_each() -> None:
    async def main() -> None:
        async with World("public", "public") as world:
            address = world.b.node.address
            ones = await asyncio.gather(*(world.a.node.connect(address, **OVER_UDP) for _ in range(5)))
            assert [(one.plugin, one.seconds) for one in ones] == [("direct", pytest.approx(R))] * 5
            await close_all(world, *ones, *[await world.b.node.accept() for _ in ones])

    virtual(main)


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize("kind", ["public", "eim-apdf"])
def test_three_at_once(kind: str, options: Options) -> None:
    async def main() -> None:
        async with World(kind, kind) as world:
            address = world.b.node.address
            ones = await asyncio.gather(*(world.a.node.connect(address, plugins=QUICK, **options) for _ in range(3)))
            others = {pipe.session: pipe for pipe in [await world.b.node.accept() for _ in range(3)]}
            assert len(others) == 3
            pairs = [(one, others[one.session]) for one in ones]
            await tell_apart(pairs)
            await close_all(world, *ones, *others.values())

    virtual(main)


@pytest.mark.parametrize("kind", ["public", "eim-apdf"])
def test_streams_over_udp_and_datagrams_beside_each_other(kind: str) -> None:
    async def main() -> None:
        async with World(kind, kind) as world:
            over_quic: Options = {"plugins": ["direct", "udp_punch"], "transport": Transport.UDP}
            first = await connected(world, plugins=QUICK, **OVER_UDP)
            second = await connected(world, **over_quic)
            third = await connected(world, plugins=QUICK, **OVER_UDP)
            await tell_apart([(one, other) for one, other, _ in (first, second, third)])
            await close_all(world, *(pipe for one, other, _ in (first, second, third) for pipe in (one, other)))

    virtual(main)


@pytest.mark.parametrize("options", BOTH_WAYS)
@pytest.mark.parametrize("kind", ["public", "eim-apdf", "masquerade"])
def test_both_call_each_other_in_the_same_instant(kind: str, options: Options) -> None:
    """Both may get their pipe; over UDP one of the two may be told that the other's took its place. None goes deaf."""

    async def main() -> None:
        async with World(kind, kind) as world:
            to_a, to_b = world.a.node.address, world.b.node.address
            ours, theirs = await asyncio.gather(
                world.a.node.connect(to_b, plugins=QUICK, **options),
                world.b.node.connect(to_a, plugins=QUICK, **options),
            )
            at_b = await accepted(world.b.node.accept)
            at_a = await accepted(world.a.node.accept)
            alive = 0
            for mine, other in ((ours, at_b), (theirs, at_a)):
                if other is None or mine.closed or other.closed:
                    assert await ends(mine, 10.0)
                    if other is not None:
                        assert await ends(other, 10.0)
                else:
                    assert mine.session == other.session
                    try:
                        await exchange(mine, other)
                        alive += 1
                    except (PipeClosed, TimeoutError):
                        assert await ends(mine, 10.0)
                        assert await ends(other, 10.0)
            assert alive >= 1
            await close_all(world, *(pipe for pipe in (ours, theirs, at_a, at_b) if pipe is not None))

    virtual(main)


async def accepted(accept: object) -> Pipe | None:
    try:
        async with asyncio.timeout(2.0):
            return await accept()  # type: ignore[operator, no-any-return]
    except TimeoutError:
        return None


def test_a_peer_that_was_restarted_on_the_same_port_connects_again_at_once() -> None:
    """b still holds the pipe of a's former life, on the very endpoints of the new one."""

    async def main() -> None:
        async with World("public", "public") as world:
            _, old, _ = await connected(world, **OVER_UDP)
            world.a.network.crash()
            await world.a.node.close()
            world.a.network.boot()
            await world.a.node.start()
            one, other, waited = await connected(world, **OVER_UDP)
            assert waited == pytest.approx(R)
            assert (old.local, old.remote) == (other.local, other.remote)
            await exchange(one, other)
            with pytest.raises(PipeClosed, match="another pipe between the same endpoints"):
                await old.recv()
            await close_all(world, one, other)

    virtual(main)


@pytest.mark.parametrize("options", BOTH_WAYS)
def test_again_at_once_after_closing(options: Options) -> None:
    """The former pipe's last words are still on their way."""

    async def main() -> None:
        async with World() as world:
            for _ in range(5):
                one, other, waited = await connected(world, plugins=QUICK, **options)
                assert waited < 1.0
                await exchange(one, other)
                await one.close()
                await other.close()
            await world.quiet()

    virtual(main)


HARMLESS = [rogue for rogue in ROGUES if rogue is not ReturnsADeadLink]  # that one may well win the race


@pytest.mark.parametrize("rogue", HARMLESS)
def test_a_plugin_that_misbehaves_costs_the_others_nothing(rogue: type) -> None:
    async def main() -> None:
        async with World("public", "public", registry=registry_with(rogue)) as world:
            for _ in range(3):
                one, other, _ = await connected(world, **OVER_TCP)
                await exchange(one, other)
                await close_all(world, one, other)
            outcomes = {event.outcome for event in world.a.said(PluginEnded) if event.plugin == rogue.name}
            assert outcomes <= {"lost", "failed", "crashed", "won"}

    virtual(main)


def test_a_link_that_comes_when_its_plugin_is_over_is_dropped() -> None:
    async def main() -> None:
        async with World("public", "public", registry=registry_with(DialsAfterwards, Hangs)) as world:
            names = ["dials_afterwards", "hangs"]
            task = asyncio.ensure_future(world.a.node.connect(world.b.node.address, plugins=names, timeout=2.0))
            await asyncio.sleep(0.3 + 3 * R)
            assert [event.transport for event in world.a.said(LinkVerified)] == ["tcp"]  # it did get that far
            assert [entry for entry in world.strays() if entry.host == "a"] == []
            with pytest.raises(ConnectFailed):
                await task
            await world.quiet()

    virtual(main)


@pytest.mark.parametrize("kind", ["public", "eim-eif"])
def test_direct_alone_finds_a_socket_of_its_own_for_each_pipe(kind: str) -> None:
    async def main() -> None:
        async with World("public", kind) as world:
            made = [await connected(world, plugins=["direct"], **OVER_UDP) for _ in range(3)]
            assert [waited for _, _, waited in made] == pytest.approx([R, R, R])
            assert len({one.local for one, _, _ in made}) == 3
            await tell_apart([(one, other) for one, other, _ in made])
            await close_all(world, *(pipe for one, other, _ in made for pipe in (one, other)))

    virtual(main)


@pytest.mark.parametrize(
    ("name", "outcome", "reason"),
    [
        ("raises", "crashed", "ZeroDivisionError: a plugin's bug"),
        ("returns_nothing", "failed", "it returned None"),
        ("returns_a_stranger", "failed", "links come from the attempt's methods"),
        ("forgets", "crashed", "RuntimeError: forgot everything"),
    ],
)
def test_what_a_plugin_did_wrong_is_in_the_report(name: str, outcome: str, reason: str) -> None:
    async def main() -> None:
        async with World("public", "public", registry=registry_with(*ROGUES)) as world:
            with pytest.raises(ConnectFailed) as failed:
                await world.a.node.connect(world.b.node.address, plugins=[name], timeout=2.0)
            [row] = [row for row in failed.value.report if row.plugin == name]
            assert row.outcome == outcome
            assert reason in row.reason
            await world.quiet()

    virtual(main)
