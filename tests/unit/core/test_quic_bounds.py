"""What a peer of a QUIC connection can make us hold, with hand-made packets; and that honest ones are let be."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from quic_forger import Forger, batches, holes, integer, stream_frame
from quic_kit import Path

from warpgate.core.connection.byte_stream import WINDOW
from warpgate.core.connection.quic_bounds import (
    CONTROL,
    GAP,
    PIECES,
    PIECES_TOTAL,
    UNPROVED_BYTES,
    Holdings,
)
from warpgate.core.connection.quic_engine import State
from warpgate.core.connection.quic_stream import QuicStream
from warpgate.proto.quic_proof import HEAD_SIZE

PER_PACKET = 60  # one-byte frames: some less than are ended at sight
FAR = HEAD_SIZE + WINDOW // 2


@pytest.fixture(autouse=True)
def same_packets_looked_at() -> None:
    random.seed(1)


def attack(target: QuicStream, secret: bytes | None, payloads: list[bytes]) -> int:
    """How many of the packets it took until the target ended the connection."""
    assert secret is not None
    forger = Forger(target, secret)
    sent = 0
    for batch in batches(map(forger.seal, payloads)):
        if target.state is State.ENDED:
            break
        target.receive(batch, 1.0)
        target.datagrams(1.0)
        sent += len(batch)
    return sent


def many_holes(packets: int, stream: int = 0) -> list[bytes]:
    return [holes(stream, FAR + 2 * PER_PACKET * index, PER_PACKET) for index in range(packets)]


@pytest.mark.parametrize("victim", ["server", "client"])
def test_a_stream_of_holes_is_ended_when_it_costs_a_few_megabytes(victim: str) -> None:
    path = Path()
    client, server = path.open()
    target = server if victim == "server" else client
    secrets = target._secrets
    sent = attack(
        target,
        secrets.client_secret if victim == "server" else secrets.server_secret,
        many_holes(3500),
    )
    assert target.state is State.ENDED
    assert "pieces" in str(target.failure)
    assert sent * PER_PACKET < 3 * PIECES


def test_a_packet_full_of_holes_is_no_accident() -> None:
    path = Path()
    _, server = path.open()
    sent = attack(
        server,
        server._secrets.client_secret,
        [holes(0, FAR + 320 * index, 160) for index in range(1500)],
    )
    assert server.state is State.ENDED
    assert sent * 160 < 3 * PIECES


def test_progress_in_order_hides_no_holes() -> None:
    path = Path()
    _, server = path.open()
    payloads = [
        frame
        for index, hole in enumerate(many_holes(3500))
        for frame in (hole, stream_frame(0, HEAD_SIZE + 500 * index, bytes(500)))
    ]
    sent = attack(server, server._secrets.client_secret, payloads)
    assert server.state is State.ENDED
    assert sent * PER_PACKET / 2 < 3 * PIECES


def unproved() -> Path:
    """A client that has shaken hands and keeps its proof to itself."""
    path = Path()
    path.client._certain = lambda: None
    path.steps(4)
    assert path.server is not None
    assert path.server.state is State.OPENING
    return path


def test_without_a_proof_64_kib_are_all() -> None:
    path = unproved()
    server = path.server
    assert server is not None
    forger = Forger(server, server._secrets.client_secret or b"")
    taken = 0
    for payload in many_holes(1000):
        if server.state is State.ENDED:
            break
        packet = forger.seal(payload)
        server.receive([packet], 1.0)
        taken += len(packet)
    assert server.state is State.ENDED
    assert "without a proof" in str(server.failure)
    assert taken <= UNPROVED_BYTES + 1400


def test_handshake_packets_after_the_proof_are_few_and_end_nothing() -> None:
    """Whoever is on the path can forge them, and has the library look at each."""
    path = Path()
    client, server = path.open()
    looked_at: list[int] = []
    given = server._hand_over
    server._hand_over = lambda part, now: looked_at.extend(map(len, part)) or given(part, now)  # type: ignore[method-assign, func-returns-value]
    for number in range(200):
        server.receive([b"\xe0" + number.to_bytes(2, "big") + bytes(1197)], path.now)
    assert sum(looked_at) <= UNPROVED_BYTES
    assert path.carry(client, server, b"on it goes" * 100) == b"on it goes" * 100


def test_all_unproved_together_are_bounded_and_the_frugal_are_spared() -> None:
    holdings = Holdings()
    path = Path(holdings=holdings)
    hungry = []
    for _ in range(40):
        other = Path(holdings=holdings)
        other.client._certain = lambda: None
        other.steps(3)
        assert other.server is not None
        forger = Forger(other.server, other.server._secrets.client_secret or b"")
        for payload in many_holes(105):  # some 50 KiB
            if other.server.state is not State.ENDED:
                other.server.receive([forger.seal(payload)], 1.0)
        hungry.append(other.server)
    assert sum(server.state is not State.ENDED for server in hungry) < 30
    path.open()


@pytest.mark.parametrize(
    "frame",
    [
        b"\x1a" + bytes(8),
        b"\x06" + integer(9) + b"\x01x",
        b"\x31\x01x",
        b"\x04\x04\x00\x00",
        b"\x12" + integer(200),
    ],
    ids=["PATH_CHALLENGE", "CRYPTO", "DATAGRAM", "RESET_STREAM of another", "MAX_STREAMS"],
)
@pytest.mark.parametrize("victim", ["server", "client"])
def test_floods_of_control_frames_are_ended(frame: bytes, victim: str) -> None:
    path = Path()
    client, server = path.open()
    target = server if victim == "server" else client
    secrets = target._secrets
    each = 1100 // len(frame)
    sent = attack(
        target,
        secrets.client_secret if victim == "server" else secrets.server_secret,
        [frame * each] * 6000,
    )
    assert target.state is State.ENDED
    assert sent * each < 4 * CONTROL


def test_holes_on_a_stream_of_nobody_are_found_though_no_byte_comes_out() -> None:
    path = Path()
    _, server = path.open()
    sent = attack(server, server._secrets.client_secret, many_holes(3000, stream=4))
    assert server.state is State.ENDED
    assert sent < 1500


@pytest.mark.parametrize("times", [1, 2])
def test_a_peer_that_renews_its_keys_does_not_go_out_of_sight(times: int) -> None:
    path = Path()
    client, server = path.open()
    core = client._quic._core
    assert core is not None
    for _ in range(times):
        core.request_key_update()
        for _ in range(400):
            if server.state is State.OPEN and client.room:
                client.write(bytes(min(3000, client.room)))
            server.read()
            path.step()
    assert server.state is State.ENDED
    assert "renewed" in str(server.failure)


@pytest.mark.parametrize("victim", ["server", "client"])
@pytest.mark.parametrize("first", [b"\x40", b"\xc0\0\0\0\1\x08", b"\xe0\0\0\0\1\x08"], ids=["short", "first", "long"])
def test_forged_datagrams_end_nothing(first: bytes, victim: str) -> None:
    """Whoever sees the packets knows the connection ids, and may be able to send in the peer's name."""
    path = Path()
    client, server = path.open()
    target = server if victim == "server" else client
    rng = random.Random(5)
    for _ in range(60):
        assert target.receive([first + target.id + rng.randbytes(1200) for _ in range(50)], 1.0) == 0
    client.write(b"still here")
    path.steps(3)
    assert server.read() == b"still here"


@pytest.mark.parametrize("victim", ["server", "client"])
def test_datagrams_that_are_repeated_count_once(victim: str) -> None:
    """Somebody on the path doubles them a thousand times."""
    path = Path()
    client, server = path.open()
    source, target = (client, server) if victim == "server" else (server, client)
    source.write(b"once")
    packets = source.datagrams(path.now)
    assert target.receive(packets, path.now) > 0
    for _ in range(200):
        assert target.receive(packets * 50, path.now) == 0
    assert target.watch.pieces == 0
    assert target.read() == b"once"
    assert target.state is State.OPEN


def test_the_one_that_holds_most_goes_when_all_hold_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each less than one may; looked at evenly here, as chance would end some of them for themselves."""
    monkeypatch.setattr("warpgate.core.connection.quic_bounds._gap", lambda: GAP - 1)
    holdings = Holdings()
    servers = []
    for packets in (1000, *[880] * 5):
        path = Path(holdings=holdings)
        _, server = path.open()
        attack(server, server._secrets.client_secret, many_holes(packets))
        servers.append(server)
    assert [server.watch.excess is None for server in servers] == [False, *[True] * 5]
    held = [server.watch.pieces for server in servers]
    assert sum(held[1:]) <= PIECES_TOTAL < sum(held)


@pytest.mark.parametrize("seed", range(5))
def test_an_honest_peer_whose_path_came_back_is_not_ended(seed: int) -> None:
    """A minute of 64-byte writes every 10 ms, none of them acknowledged, sent anew by two paths in any order."""
    path = Path()
    _, server = path.open()
    writes = [bytes((index % 251,)) * 64 for index in range(6000)]
    forger = Forger(server, server._secrets.client_secret or b"")
    order = list(range(1, 6000, 2)) + list(range(2, 6000, 2)) + [0]
    if seed:
        random.Random(seed).shuffle(order)
    came = bytearray()
    packets = (forger.seal(stream_frame(0, HEAD_SIZE + 64 * index, writes[index])) for index in order)
    for batch in batches(packets):
        server.receive(batch, 1.0)
        server.datagrams(1.0)
        while server.readable:
            came += server.read()
    assert server.state is State.OPEN
    assert bytes(came) == b"".join(writes)


RESIDENT = """
import resource, sys
sys.path.insert(0, "tests/unit/core")
import test_quic_bounds as t
t.random.seed(1)
path = t.Path()
_, server = path.open()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
t.attack(server, server._secrets.client_secret, t.many_holes(3500))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_resident_memory_under_holes_grows_by_less_than_twenty_megabytes() -> None:
    run = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 20_000  # the frames of the attack, 2 MB, among them
