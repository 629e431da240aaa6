"""Pipes of datagrams on a QUIC connection: what arrives, what is lost, and what a hostile peer cannot do."""

from __future__ import annotations

import gc
import random
from dataclasses import dataclass, field

import pytest
from channels_kit import Two
from quic_forger import Forger, batches, stream_frame
from quic_kit import DELAY

from warpgate.core.connection.channel import EACH, QUEUE, UNSENT, DatagramChannel
from warpgate.core.connection.pool import FLOOR
from warpgate.core.connection.quic_bounds import CONTROL, UNREAD_TOTAL, Holdings
from warpgate.core.connection.quic_channels import HELD, TOTAL_WINDOW
from warpgate.core.connection.quic_engine import FIRST_CREDIT, State
from warpgate.proto.channel_wire import LARGEST_DATAGRAM, encode_datagram, encode_pipe_head
from warpgate.proto.quic_wire import encode_integer

LARGEST = bytes(LARGEST_DATAGRAM)


def read(channel: DatagramChannel) -> list[bytes]:
    data = list(channel.queue)
    channel.queue.clear()
    for each in data:
        channel.took(each)
    return data


def frame(payload: bytes) -> bytes:
    return b"\x31" + encode_integer(len(payload)) + payload


def datagram_frame(stream: int, data: bytes) -> bytes:
    return frame(encode_datagram(stream, data))


def hostile_client(two: Two) -> Forger:
    secret = two.server._secrets.client_secret
    assert secret is not None
    return Forger(two.server, secret)


# -- honest ends --------------------------------------------------------------------------------------------------


def test_datagrams_of_several_pipes_both_ways_beside_a_stream() -> None:
    two = Two().open()
    one, other = two.datagrams("voice"), two.datagrams()
    stream = two.pipe("files")
    assert (one[1].service, other[1].service) == ("voice", "")
    for near, far in (one, other, one[::-1], other[::-1]):
        for data in (b"", b"x", LARGEST):
            assert near.offer(data, displace=False)
        two.steps(3)
        assert read(far) == [b"", b"x", LARGEST]
    stream[0].write(b"bytes")
    two.steps(3)
    assert stream[1].read() == b"bytes"


def test_the_server_opens_them_too() -> None:
    two = Two().open()
    near = two.server.open("game", datagrams=True)
    two.steps(2)
    far = two.opened[-1]
    assert isinstance(near, DatagramChannel)
    assert isinstance(far, DatagramChannel)
    assert near.stream % 4 == 1
    near.offer(b"hello", displace=False)
    two.steps(3)
    assert read(far) == [b"hello"]


def test_one_that_is_read_and_closed_leaves_nothing() -> None:
    two = Two().open()
    near, far = two.datagrams()
    near.offer(b"last", displace=False)
    two.steps(1)
    near.finish()
    near.leave()
    two.steps(6)
    assert read(far) == [b"last"]
    assert far.peer_finished
    far.finish()
    two.steps(4)
    assert (near.over, far.over) == (True, True)
    assert (len(two.client), len(two.server)) == (0, 0)
    assert two.server.unread.held == two.client.unread.held == 0


def test_a_reset_is_told() -> None:
    two = Two().open()
    near, far = two.datagrams()
    near.reset()
    two.steps(3)
    assert far.failure == "reset by the peer"
    assert (len(two.client), len(two.server)) == (0, 0)


def test_it_may_be_turned_away() -> None:
    two = Two().open()
    near = two.client.open("chess", datagrams=True)
    two.steps(2)
    two.opened[-1].turn_away("no such service")
    two.steps(6)
    assert near.failure == "refused: no such service"


def test_what_comes_before_its_pipe_waits_for_it() -> None:
    """The packet with the head is lost: the library says that again, datagrams it does not."""
    two = Two().open()
    near = two.client.open("voice", datagrams=True)
    assert isinstance(near, DatagramChannel)
    lost = two.client.datagrams(two.now)
    assert len(lost) == 1
    for number in range(HELD):
        near.offer(bytes((number,)), displace=False)
    two.steps(2)
    assert two.opened == []
    assert len(two.server._held) == HELD
    two.steps(20)
    far = two.opened[-1]
    assert isinstance(far, DatagramChannel)
    assert read(far) == [bytes((number,)) for number in range(HELD)]
    assert not two.server._held


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3])
def test_whatever_is_lost_what_arrives_is_whole_and_came_once(loss: float) -> None:
    rng = random.Random(7)
    two = Two().open()
    near, far = two.datagrams()
    two.lossy = lambda _data: rng.random() < loss
    sent, came = set[bytes](), list[bytes]()
    for _ in range(1500):
        data = rng.randbytes(rng.choice((8, 100, 900, LARGEST_DATAGRAM)))
        if near.offer(data, displace=False):
            sent.add(data)
        two.step()
        came += read(far)
    assert len(came) == len(set(came))
    assert set(came) <= sent
    assert len(came) > (0.9 - loss) * len(sent)
    assert len(sent) > 700 if loss == 0.3 else len(sent) > 1400
    assert (two.client.state, two.server.state) == (State.OPEN, State.OPEN)


def test_the_largest_fits_whatever_the_numbers_of_packets_and_streams_are() -> None:
    """One that did not would wait in the library for ever, and all others behind it."""
    two = Two().open()
    near, far = two.datagrams()
    for count in (100, 3000):
        two.lossy = lambda _data: True
        for _ in range(count):  # nothing is acknowledged: packet numbers grow to four bytes
            two.client.ping()
            two.client.datagrams(two.now)
        two.lossy = lambda _data: False
        two.steps(100)
        assert near.offer(LARGEST, displace=False)
        two.steps(5)
        assert read(far) == [LARGEST]
    head = encode_datagram((1 << 62) - 1, LARGEST)
    assert 1 + 9 + 4 + 3 + len(head) + 16 <= 1200
    assert two.client.largest_datagram == LARGEST_DATAGRAM


# -- congestion ---------------------------------------------------------------------------------------------------


def test_no_more_leaves_than_the_path_takes() -> None:
    """And the library holds nothing: it has no bound of its own."""
    two = Two().open()
    near, _ = two.datagrams()
    window = two.client._quic._core.congestion_window
    two.lossy = lambda _data: True
    left = 0
    for _ in range(300):
        while near.offer(LARGEST, displace=False):
            pass
        left += sum(map(len, two.client.datagrams(two.now)))
    assert left <= window + 1200
    assert near._to_send <= UNSENT
    assert two.client._given <= window


def test_when_the_path_is_back_the_newest_leave() -> None:
    two = Two().open()
    near, far = two.datagrams()
    two.lossy = lambda _data: True
    for number in range(5000):
        assert near.offer(number.to_bytes(2, "big") + bytes(998), displace=True)
        if not number % 100:
            two.step()
    two.lossy = lambda _data: False
    came = list[int]()
    for _ in range(400):
        two.client.ping()
        two.step()
        came += [int.from_bytes(data[:2], "big") for data in read(far)]
    assert came[-1] == 4999
    newest = UNSENT // (1000 + EACH)
    assert came[-newest:] == list(range(5000 - newest, 5000))


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_streams_and_datagrams_share_the_window(loss: float) -> None:
    rng = random.Random(3)
    two = Two().open()
    near, far = two.datagrams()
    stream, sink = two.pipe()
    two.lossy = lambda _data: rng.random() < loss
    datagrams = octets = 0
    for _ in range(600):
        while near.offer(LARGEST, displace=False):
            pass
        if room := stream.room:
            stream.write(bytes(min(room, 200_000)))
        two.step()
        datagrams += len(read(far)) * len(LARGEST)
        while sink.readable:
            octets += len(sink.read())
    assert 0.2 < datagrams / octets < 5


def test_a_voice_beside_a_file_waits_for_nothing() -> None:
    """A small datagram each 20 ms goes with the next packets, though a stream would fill the window."""
    two = Two().open()
    near, far = two.datagrams()
    stream, sink = two.pipe()
    rng = random.Random(3)
    two.lossy = lambda _data: rng.random() < 0.01
    late = []
    for number in range(500):
        near.offer(number.to_bytes(2, "big") + bytes(160), displace=False)
        if room := stream.room:
            stream.write(bytes(min(room, 200_000)))
        two.step()
        late += [number - int.from_bytes(data[:2], "big") for data in read(far)]
        while sink.readable:
            sink.read()
    assert len(late) > 480
    assert sorted(late)[len(late) // 2] <= 2
    assert max(late) <= 6


def test_a_burst_right_after_the_opening_arrives() -> None:
    two = Two().open()
    near = two.client.open("", datagrams=True)
    assert isinstance(near, DatagramChannel)
    for number in range(HELD + 2):
        near.offer(bytes((number,)) * 1000, displace=False)
    two.steps(4)
    far = two.opened[-1]
    assert isinstance(far, DatagramChannel)
    assert len(read(far)) == HELD + 2


def test_two_pipes_take_turns() -> None:
    two = Two().open()
    one, other = two.datagrams(), two.datagrams()
    came = [0, 0]
    for _ in range(100):
        for near, _ in (one, other):
            while near.offer(LARGEST, displace=False):
                pass
        two.step()
        for index, (_, far) in enumerate((one, other)):
            came[index] += len(read(far))
    assert min(came) > 0.9 * max(came)


def test_before_the_server_has_answered_a_client_sends_little() -> None:
    """What an unproved client may make a server hold is bounded: whoever sends more is cut off."""
    two = Two()
    while two.client.state is State.OPENING:
        two.step()
    near = two.client.open("", datagrams=True)
    assert isinstance(near, DatagramChannel)
    two._forth = []  # its proof is lost
    left = 0
    for _ in range(50):
        while near.offer(LARGEST, displace=False):
            pass
        left += sum(map(len, flight := two.client.datagrams(two.now)))
        two.server.receive(flight, two.now)
    assert left <= FIRST_CREDIT
    assert two.server.state is State.OPENING
    two.steps(40)
    assert (two.client.state, two.server.state) == (State.OPEN, State.OPEN)


# -- hostile peers ------------------------------------------------------------------------------------------------


def test_a_flood_for_a_reader_that_does_not_read_is_dropped() -> None:
    two = Two().open()
    _, far = two.datagrams()
    forger = hostile_client(two)
    for batch in batches(forger.seal(datagram_frame(far.stream, LARGEST)) for _ in range(8000)):
        two.server.receive(batch, two.now)
        two.server.datagrams(two.now)
    assert two.server.state is State.OPEN
    assert len(far.queue) <= QUEUE
    assert far.dropped == 8000 - len(far.queue)
    assert two.server.unread.held <= TOTAL_WINDOW


def test_empty_datagrams_are_not_free() -> None:
    two = Two().open()
    _, far = two.datagrams()
    far.limit = 1 << 30
    forger = hostile_client(two)
    many = datagram_frame(far.stream, b"") * 300
    for batch in batches(forger.seal(many) for _ in range(500)):
        two.server.receive(batch, two.now)
    assert two.server.state is State.OPEN
    assert len(far.queue) * EACH <= FLOOR + TOTAL_WINDOW
    assert far.dropped > 0


def test_many_pipes_that_nobody_reads_hold_no_more_together() -> None:
    holdings = Holdings()
    two = Two(holdings=holdings).open()
    pipes = [two.datagrams() for _ in range(95)]
    forger = hostile_client(two)
    for _, far in pipes:
        for batch in batches(forger.seal(datagram_frame(far.stream, LARGEST)) for _ in range(600)):
            two.server.receive(batch, two.now)
            two.server.datagrams(two.now)
    held = sum(len(far.queue) * (len(LARGEST) + EACH) for _, far in pipes)
    assert held <= TOTAL_WINDOW + len(pipes) * FLOOR
    assert holdings.unread.held <= UNREAD_TOTAL
    for _, far in pipes:
        assert len(read(far)) * len(LARGEST) > FLOOR / 2
    assert holdings.unread.held == 0
    del far, pipes
    two.opened.clear()
    gc.collect()


@pytest.mark.parametrize("stream", [4 * 50, 1, 2, 3, 6, (1 << 62) - 4])
def test_datagrams_of_no_pipe_are_forgotten(stream: int) -> None:
    two = Two().open()
    forger = hostile_client(two)
    for batch in batches(forger.seal(datagram_frame(stream, LARGEST)) for _ in range(2000)):
        two.server.receive(batch, two.now)
        two.server.datagrams(two.now)
    assert two.server.state is State.OPEN
    assert len(two.server._held) <= HELD
    assert two.server.unread.held == 0


def test_datagrams_of_a_pipe_that_is_over_are_forgotten() -> None:
    two = Two().open()
    near, far = two.datagrams()
    near.reset()
    two.steps(4)
    two.server.receive([hostile_client(two).seal(datagram_frame(far.stream, b"late"))], two.now)
    assert two.server.state is State.OPEN
    assert not two.server._held
    assert not far.queue


@dataclass
class Misuse:
    """What a client must not send; `stream` stands for the pipe's."""

    name: str
    payloads: list[bytes] = field(default_factory=list)
    why: str = ""


def misuses(datagrams: int, octets: int) -> list[Misuse]:
    return [
        Misuse("a datagram on a stream of bytes", [datagram_frame(octets, b"x")], "on a stream of bytes"),
        Misuse("bytes on a pipe of datagrams", [stream_frame(datagrams, 1, b"x")], "more than it may"),
        Misuse("no stream at all", [frame(b"")], "cut short"),
        Misuse("half a number", [frame(b"\xc0\0")], "cut short"),
        Misuse("a service too long", [stream_frame(datagrams + 8, 0, b"\xa1" + bytes(33))], "33 bytes"),
        Misuse("larger than we take", [frame(bytes(1250))], ""),
    ]


@pytest.mark.parametrize("which", range(6))
def test_what_no_honest_peer_sends_ends_the_connection(which: int) -> None:
    two = Two().open()
    near, _ = two.datagrams()
    stream, _ = two.pipe()
    misuse = misuses(near.stream, stream.stream)[which]
    forger = hostile_client(two)
    two.server.receive([forger.seal(payload) for payload in misuse.payloads], two.now)
    assert two.server.state is State.ENDED, misuse.name
    assert misuse.why in str(two.server.failure)


def test_datagrams_are_no_control_frames() -> None:
    """An honest sender of many small ones goes on for ever."""
    two = Two().open()
    _, far = two.datagrams()
    random.seed(1)
    forger = hostile_client(two)
    for batch in batches(forger.seal(datagram_frame(far.stream, b"x" * 20)) for _ in range(2 * CONTROL)):
        two.server.receive(batch, two.now)
        two.server.datagrams(two.now)
        read(far)
    assert two.server.state is State.OPEN


def test_plain_streams_take_no_datagrams() -> None:
    from quic_kit import Path  # noqa: PLC0415 - another kind of connection

    path = Path()
    _, server = path.open()
    secret = server._secrets.client_secret
    assert secret is not None
    server.receive([Forger(server, secret).seal(datagram_frame(0, b"x"))], path.now + DELAY)
    assert server.state is State.ENDED


def test_the_head_says_what_kind_of_pipe_it_is() -> None:
    assert encode_pipe_head("ssh") == b"\x03ssh"
    assert encode_pipe_head("ssh", datagrams=True) == b"\x83ssh"
