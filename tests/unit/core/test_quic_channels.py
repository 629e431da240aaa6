"""Many pipes on one QUIC connection: what arrives, how each ends, and what a hostile peer cannot do."""

from __future__ import annotations

import gc
import random

import pytest
from channels_kit import Two
from quic_kit import DELAY, OTHER, A

from warpgate.core.connection import quic_engine
from warpgate.core.connection.byte_stream import FIRST_WINDOW, WINDOW
from warpgate.core.connection.channel import UNASKED, Channel
from warpgate.core.connection.pool import FLOOR
from warpgate.core.connection.quic_bounds import PARTS, UNSENT_TOTAL, Holdings
from warpgate.core.connection.quic_channels import (
    AHEAD,
    NEWS_AT_ONCE,
    TOTAL_WINDOW,
    Finished,
    QuicChannels,
)
from warpgate.core.connection.quic_engine import BROKEN, CLOSED, FIRST_CREDIT, HOLD, State
from warpgate.errors import AuthenticationError
from warpgate.model.address import NodeAddress
from warpgate.proto.channel_wire import SEEN, SERVER_CREDIT, encode_credit
from warpgate.proto.quic_wire import is_protected

NOISE = random.Random(3).randbytes(300_000)


def test_pipes_of_both_ends_with_their_services() -> None:
    two = Two().open()
    near, far = two.pipe("ssh")
    back = two.server.open("web")
    two.steps()
    assert [channel.service for channel in two.opened] == ["ssh", "web"]
    assert near.stream % 4 == 0
    assert back.stream % 4 == 1
    far.take_pipe()
    for source, sink, data in ((near, far, b"forth"), (far, near, b"back")):
        source.write(data)
        two.steps(3)
        assert sink.read() == data
    assert near.taken


@pytest.mark.parametrize("by_client", [True, False])
def test_an_orderly_end_says_which_pipes_were_never_seen(by_client: bool) -> None:
    two = Two().open()
    one, other = (two.client, two.server) if by_client else (two.server, two.client)
    seen = one.open("seen")
    two.steps(3)
    back = other.open("on its way back")
    late = [one.open("") for _ in range(3)]
    other.close(CLOSED, "going")
    two.steps(3)
    assert one.state is State.ENDED
    assert [one.unseen(channel.stream) for channel in (seen, *late)] == [False, True, True, True]
    assert not other.unseen(back.stream)  # it was this side's own word


def test_a_peer_that_closes_right_after_its_proof_is_heard_to_the_end() -> None:
    """Its last packet comes with those before: our answer to them is late, what they say and why it went count."""
    two = Two()
    two.steps(2)
    assert (two.client.state, two.server.state) == (State.OPEN, State.OPENING)
    for service in ("one", "two"):
        two.client.open(service).write(b"in short")
    two._forth += two.client.datagrams(two.now)
    two.client.close(CLOSED, "that was all")
    two._forth += two.client.datagrams(two.now)
    two.step()
    assert str(two.server.failure) == "the QUIC connection ended: that was all"
    assert two.server.closed_with == SEEN
    assert [(channel.service, channel.read()) for channel in two.opened] == [
        ("one", b"in short"),
        ("two", b"in short"),
    ]


def test_a_proof_that_overtakes_the_end_of_the_handshake_is_not_lost() -> None:
    two = Two()
    two.steps(2)
    near = two.client.open("soon")
    near.write(b"here")
    flight = two._forth + two.client.datagrams(two.now)
    two.server.receive([data for data in flight if is_protected(data)], two.now)
    assert two.server.state is State.OPENING
    two.server.receive([data for data in flight if not is_protected(data)], two.now)
    assert two.server.state is State.OPEN
    assert [(channel.service, channel.read()) for channel in two.opened] == [("soon", b"here")]


def test_a_connection_that_breaks_says_nothing_of_pipes() -> None:
    two = Two().open()
    late = two.client.open("")
    two.server.close(BROKEN, "a fault")
    two.steps(3)
    assert two.client.state is State.ENDED
    assert not two.client.unseen(late.stream)


def test_what_is_read_is_new_credit_and_nothing_more_is_held() -> None:
    two = Two().open()
    near, far = two.pipe()
    two.steps()
    sent, idle = 0, 0
    while idle < 50:  # steps: until nothing more is taken
        idle += 1
        if room := near.room:
            piece = NOISE[: min(room, len(NOISE))]
            near.write(piece)
            sent, idle = sent + len(piece), 0
        two.step()
        assert len(far._unread) <= FIRST_WINDOW
    assert sent == FIRST_WINDOW
    got = 0
    for _ in range(3000):
        got += len(far.read())
        two.step()
        if got == sent:
            break
    assert got == sent
    assert near.room > 0


def test_a_window_grows_with_what_is_read() -> None:
    two = Two().open()
    near, far = two.pipe()
    two.steps()
    for _ in range(2000):
        if room := near.room:
            near.write(bytes(min(room, 100_000)))
        two.step()
        while far.readable:
            far.read()
        if far._window == WINDOW:
            break
    assert far._read < 2 * WINDOW


@pytest.mark.parametrize("reads", [True, False])
def test_a_peer_that_fills_each_pipe_as_it_is_opened_gets_no_more_for_it(reads: bool) -> None:
    """Each is allowed as much as there is, before there are others."""
    two = Two().open()
    pipes = []
    for _ in range(95):
        near, far = two.pipe()
        pipes.append((near, far))
        if reads:
            far._read = far._received = WINDOW  # as if it had been fast
            far._granted = WINDOW
            far._grant(far._read + far._window)
    promised = sum(far._granted - far._read for _, far in pipes)
    assert two.server.unread.held <= TOTAL_WINDOW
    assert TOTAL_WINDOW // 2 < promised <= TOTAL_WINDOW + UNASKED * len(pipes)
    while two.client.may_open:
        two.client.open("")
    assert len(pipes) <= len(two.client) <= 100  # the library's limit


def test_what_is_over_holds_nothing() -> None:
    holdings = Holdings()
    two = Two(holdings=holdings).open()
    for end in ("reset", "leave", "finish"):
        near, far = two.pipe()
        far._grant(far._granted + WINDOW)
        assert holdings.unread.held > 0
        if end == "finish":
            near.finish()
            two.steps()
        else:
            getattr(far, end)()
        two.opened.clear()
        two.steps(3)
        del near, far
        gc.collect()
        assert holdings.unread.held == 0


def test_who_gives_credit_without_end_and_acknowledges_nothing_makes_us_hold_little() -> None:
    """Its acknowledgements open the library's congestion window without end; then they cease."""
    two = Two().open()
    near, far = two.pipe()
    near._allowed = far._granted = 1 << 60
    while in_flight_limit(two.client) < 4 * WINDOW:
        if (room := near.room) > 0:
            near.write(bytes(room))
        two.step()
        far._unread.clear()
    two._back.clear()
    held = 0
    for _ in range(200):
        if (room := near.room) > 0:
            near.write(bytes(room))
            held += room
        two.now += DELAY
        two.client.datagrams(two.now)
    assert held <= UNSENT_TOTAL // PARTS + FLOOR


def in_flight_limit(end: QuicChannels) -> int:
    core = end._quic._core
    assert core is not None
    return core.congestion_window


def test_a_pipe_ends_on_both_sides_and_is_forgotten() -> None:
    two = Two().open()
    near, far = two.pipe()
    far.take_pipe()
    near.write(b"last words")
    near.finish()
    two.steps()
    assert far.read() == b"last words"
    assert far.peer_finished
    assert near.delivered
    far.finish()
    two.steps()
    assert near.over
    assert far.over
    assert (len(two.client), len(two.server)) == (0, 0)
    assert two.client.channels == ()


def test_a_reset_ends_one_pipe_alone() -> None:
    two = Two().open()
    near, far = two.pipe()
    other, last = two.pipe()
    near.reset()
    two.steps()
    assert far.failure == "reset by the peer"
    other.write(b"still here")
    two.steps()
    assert last.read() == b"still here"


def test_a_pipe_that_is_turned_away_hears_why() -> None:
    two = Two().open()
    near, far = two.pipe("mail")
    far.turn_away("there is no service 'mail'")
    two.steps(2)
    assert near.failure == "refused: there is no service 'mail'"
    two.steps()
    assert near.failure_of("peer") == "refused: there is no service 'mail', says node peer"
    assert (len(two.client), len(two.server)) == (0, 0)


def test_credit_that_comes_before_its_pipe_counts() -> None:
    two = Two().open()
    two.client._put(2, encode_credit(4, 1_000_000))
    two.steps(2)
    _, far = two.pipe()
    assert far._allowed >= 1_000_000
    for stream in range(8, 8 + 4 * 3 * AHEAD, 4):
        two.client._put(2, encode_credit(stream, 5))
    two.steps()
    assert len(two.server._ahead) <= AHEAD
    assert two.server.state is State.OPEN


def test_a_client_without_the_key_gets_nowhere() -> None:
    two = Two(key=OTHER.public_key)
    two.steps()
    assert two.server.state is State.ENDED
    assert isinstance(two.server.failure, AuthenticationError)
    assert two.opened == []


def test_nothing_is_given_out_before_the_proof_and_little_is_held() -> None:
    two = Two()
    two.client._certain = lambda: None  # it never proves itself
    two.steps(3)
    two.client._quic.send_stream_data(0, b"")
    for stream in (4, 8):
        two.client._quic.send_stream_data(stream, b"\0" + NOISE[:FIRST_CREDIT])
    two.steps(30)
    assert two.opened == []
    assert two.server.state is State.ENDED


@pytest.mark.parametrize(
    ("stream", "data", "why"),
    [
        (6, b"what is this", "opened a stream 6"),
        (4, b"\x00" + bytes(UNASKED * 200), "more than it may"),
        (4, b"\x21" + b"a" * 40, "name of 33 bytes"),
        (0, b"\xff\xff", "an address of 65535 bytes"),
    ],
)
def test_what_ends_the_connection(stream: int, data: bytes, why: str) -> None:
    two = Two().open()
    two.client._put(stream, data)
    two.steps(400)
    assert two.server.state is State.ENDED
    assert why in str(two.server.failure)


def test_news_come_in_moderation() -> None:
    two = Two().open()
    address = NodeAddress(A.public_key, (), ()).encode()
    for _ in range(NEWS_AT_ONCE):
        two.client.say_news(address)
    two.steps()
    assert two.news == [address] * NEWS_AT_ONCE
    for _ in range(NEWS_AT_ONCE):
        two.client.say_news(address)
    two.steps()
    assert "too often" in str(two.server.failure)


def test_a_reset_of_the_connections_own_streams_ends_it() -> None:
    two = Two().open()
    near, _ = two.pipe()
    two.steps()
    two.server._quic.reset_stream(SERVER_CREDIT, 0)
    two.steps()
    assert two.client.state is State.ENDED
    assert not near.room


def test_finished_streams_take_no_room() -> None:
    finished = Finished(4)
    for stream in (8, 16, 4, 12):
        finished.add(stream)
    assert all(stream in finished for stream in (4, 8, 12, 16))
    assert 20 not in finished
    assert finished._not_yet == set()
    for stream in range(28, 40_000, 4):  # one of a million stays open
        finished.add(stream)
    assert finished._not_yet == {20, 24}
    finished.add(20)
    assert 20 in finished
    assert 24 not in finished


def test_credit_for_what_was_reset_keeps_no_place_from_what_comes() -> None:
    """More late credits than `AHEAD`, and then one that a pipe needs."""
    two = Two().open()
    for _ in range(2 * AHEAD):
        near, far = two.pipe()
        far.reset()
        near._grant(near._granted + 1)  # on its way when the reset comes
        two.steps(3)
    assert two.server._ahead == {}
    two.client.say_credit(4 * (2 * AHEAD + 1), 1_000_000)
    two.steps(2)
    _, far = two.pipe()
    assert far._allowed >= 1_000_000


def test_a_pipe_that_is_reset_before_it_says_anything_is_over_too() -> None:
    two = Two().open()
    for _ in range(50):
        stream = two.client._quic.get_next_available_stream_id()
        two.client._put(stream, b"\x05s")  # half of a name
        two.client.cut(stream, 2)
        two.steps(2)
        near, _ = two.pipe()
        near.reset()
        two.steps(3)
    assert len(two.server) <= 50
    assert two.server._finished[True]._not_yet == set()


@pytest.mark.parametrize("seed", range(12))
def test_pipes_that_are_reset_while_something_of_them_waits_leave_the_others_alone(seed: int) -> None:
    """The library (qh3 2.1) loses its books when it forgets a stream one of whose frames is still prepared."""
    chance, two = random.Random(seed), Two().open()
    two.lossy = lambda _: chance.random() < (0.0, 0.1, 0.3)[seed % 3]
    near: list[Channel] = []
    for _ in range(120):
        if len(near) < 50 and chance.random() < 0.7 and two.client.may_open:
            near.append(two.client.open("x"))
        for channel in near + two.opened:
            if channel.room > 0 and chance.random() < 0.4:
                channel.write(bytes(min(channel.room, 65_536)))
        for channel in two.opened:
            if chance.random() < 0.1:
                channel.read()
            elif chance.random() < 0.05:
                channel.reset()
        if near and chance.random() < 0.4:
            near.pop(chance.randrange(len(near))).reset()
        two.step()
    two.lossy = lambda _: False
    for _ in range(300):
        for channel in near + two.opened:
            channel.read()
        two.step()
    assert (two.client.state, two.server.state) == (State.OPEN, State.OPEN), (two.client.failure, two.server.failure)
    assert two.client._hold is None
    for channel in [channel for channel in near if channel.failure is None and channel.refused is None]:
        other = next(channel_ for channel_ in two.opened if channel_.stream == channel.stream)
        before = other._received
        channel.write(b"after that")
        two.steps(6)
        assert other._received == before + 10
    one, other = two.pipe()
    one.write(b"after that")
    two.steps(6)
    assert other.read() == b"after that"


def test_a_peer_that_acknowledges_nothing_is_heard_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """While events wait for what is prepared (see `QuicEngine._take_out`)."""
    two = Two().open()
    near, far = two.pipe()
    far.take_pipe()
    two.steps(3)
    monkeypatch.setattr(quic_engine, "has_prepared_nothing", lambda _: False)
    two.client._repeated.add(near.stream)
    far.write(b"still there")
    since = two.now
    while not near.readable:
        two.step()
        assert two.now - since < HOLD + 5 * DELAY
    assert two.now - since > HOLD


def test_a_line_beside_many_files_waits_for_few_of_them() -> None:
    rng = random.Random(3)
    two = Two().open()
    files = [two.pipe() for _ in range(24)]
    near, far = two.pipe()
    two.lossy = lambda _data: rng.random() < 0.02
    late = []
    for number in range(150):
        for stream, sink in files:
            stream.write(bytes(max(0, min(stream.room, 8192))))
            sink.read()
        near.write(bytes([number]))
        late += [number - came for came in far.read()]
        two.step()
    assert len(late) > 130
    assert sorted(late)[len(late) * 3 // 4] <= 3


def test_a_reset_leaves_before_what_waits() -> None:
    two = Two().open()
    pipes = [two.pipe() for _ in range(10)]
    for near, far in pipes:
        far.take_pipe()
        two.steps(2)
        near.write(bytes(near.room))
    assert two.client._unfed_bytes > 100_000
    since = two.now
    pipes[3][0].reset()
    while pipes[3][1].failure is None:
        two.step()
    assert two.now - since <= 4 * DELAY  # an acknowledgment makes room for it


@pytest.mark.parametrize("lost", ["both", "data"])
def test_an_end_arrives_though_it_or_what_is_before_it_is_lost(lost: str) -> None:
    """The library (qh3 2.1) forgets an end that is lost, or has arrived, while something before it has not."""
    two = Two().open()
    near, far = two.pipe()
    far.take_pipe()
    two.steps(6)
    before = two.client._quic.open_outbound_streams
    two.lossy = lambda data: len(data) > 500 or lost == "both"
    near.write(bytes(1000))
    two.step()
    near.finish()
    two.steps(2)
    two.lossy = lambda _: False
    two.steps(60)
    assert len(far.read()) == 1000
    assert far.peer_finished
    far.finish()
    two.steps(6)
    assert near.over
    assert far.over
    assert two.client._quic.open_outbound_streams == before - 1


@pytest.mark.parametrize("seed", [124, 465, 610, 717])
def test_ends_of_both_sides_arrive_over_a_bad_path(seed: int) -> None:
    chance, two = random.Random(seed), Two().open()
    two.lossy = lambda _: chance.random() < 0.15
    two.server.on_channel = lambda channel: (two.opened.append(channel), channel.take_pipe())[0]
    near, left, came, late = two.client.open(""), 20_000, 0, chance.randrange(30)
    for step in range(1000):
        if left and near.room > 0:
            size = min(left, near.room, chance.choice([1136, 8192, 65536]))
            near.write(bytes(size))
            left -= size
        if not left and step >= late:
            near.finish()
        for far in two.opened:
            while far.readable and far.room >= 32_000:
                far.write(far.read())
            if far.peer_finished and not far.readable:
                far.finish()
        while near.readable:
            came += len(near.read())
        two.step()
    assert came == 20_000
    assert near.over
    assert two.opened[0].over


def test_an_end_waits_for_nothing_but_what_is_on_its_way() -> None:
    two = Two().open()
    for on_its_way, steps in ((b"", 1), (bytes(1000), 4)):
        near, far = two.pipe()
        far.take_pipe()
        two.steps(6)
        near.write(on_its_way)
        two.client.datagrams(two.now) if not on_its_way else two.step()
        near.finish()
        two.steps(steps + 1)
        assert far.peer_finished
