"""TLS on stream pipes, over real sockets on loopback: the same pipe as before, and nobody else at its other end."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from warpgate.core.pipes.base import Pipe, PipeInfo
from warpgate.core.pipes.plain_tcp import StreamPipe
from warpgate.core.pipes.streams import streams_over
from warpgate.core.pipes.subscription import Subscription
from warpgate.core.pipes.tls import SecuredStream, TlsEnds, make_context
from warpgate.errors import AuthenticationError, ConfigError, PipeClosed, ProtocolError, WarpgateError
from warpgate.model import certificate
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.model.identity import Identity, check_certificate, trust_anchor
from warpgate.net.network import TcpStream
from warpgate.net.system import SystemNetwork

ALICE, BOB, MALLORY = Identity.generate(), Identity.generate(), Identity.generate()
SESSION, OTHER_SESSION = bytes(range(16)), bytes(range(1, 17))
OF_ALICE = TlsEnds(ALICE, BOB.public_key, SESSION, client=True)
OF_BOB = TlsEnds(BOB, ALICE.public_key, SESSION, client=False)
PATIENCE = 20.0


@asynccontextmanager
async def connection() -> AsyncIterator[tuple[TcpStream, TcpStream]]:
    """Both ends of one; the dialler first."""
    network = SystemNetwork()
    accepted: asyncio.Queue[TcpStream] = asyncio.Queue()
    listener = network.listen_tcp(Endpoint.parse("127.0.0.1:0"), accepted.put_nowait)
    near = await network.dial_tcp(listener.local)
    far = await accepted.get()
    listener.close()
    try:
        async with asyncio.timeout(PATIENCE):
            yield near, far
    finally:
        near.abort()
        far.abort()


def pipe_on(stream: TcpStream, ends: TlsEnds, ended: Callable[[Pipe, str], None] = lambda *_: None) -> StreamPipe:
    peer = "peer"
    made = PipeInfo(ends.session, peer, "direct", Transport.TCP, stream.local, stream.remote, False, 0.1)
    return StreamPipe(made, stream, ends, ended)


@asynccontextmanager
async def pipes(*, tls: bool = True) -> AsyncIterator[tuple[StreamPipe, StreamPipe]]:
    """Alice's end and Bob's."""
    async with connection() as (near, far):
        a, b = pipe_on(near, OF_ALICE), pipe_on(far, OF_BOB)
        if tls:
            await asyncio.gather(a.start_tls(), b.start_tls())
        yield a, b
        a.abort()
        b.abort()


async def read_all(pipe: Pipe) -> bytes:
    return b"".join([chunk async for chunk in pipe])


class TestAsBefore:
    async def test_it_says_that_it_is_secure(self) -> None:
        async with pipes(tls=False) as (a, b):
            assert not a.secure
            await asyncio.gather(a.start_tls(), b.start_tls())
            assert a.secure
            assert b.secure
            await a.start_tls()  # again: nothing is to be done

    async def test_whatever_the_clock_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on a machine without a battery, by whose clock no certificate is valid yet."""
        monkeypatch.setattr(certificate, "_BEGIN", b"491231235959Z")  # 2049, the last that this form has
        async with pipes() as (a, b):
            await a.send(b"x")
            assert await b.recv() == b"x"

    async def test_bytes_both_ways_and_nothing_in_clear(self) -> None:
        sent = b"a secret of some length" * 20_000
        async with connection() as (near, far), connection() as (middle, end):
            seen = bytearray()
            carrying = [
                asyncio.ensure_future(carry(far, middle, seen)),
                asyncio.ensure_future(carry(middle, far, seen)),
            ]
            a, b = pipe_on(near, OF_ALICE), pipe_on(end, OF_BOB)
            await asyncio.gather(a.start_tls(), b.start_tls())
            received = await asyncio.gather(a.send(sent), b.send(sent), a.recv_n(len(sent)), b.recv_n(len(sent)))
            assert received[2:] == [sent, sent]
            assert b"secret" not in seen
            assert len(seen) > 2 * len(sent)
            for task in carrying:
                task.cancel()

    async def test_filters_counts_and_timeouts(self) -> None:
        async with pipes() as (a, b):
            await a.send(b"first\nsecond\n12345rest")
            lines = Subscription(content=rb"\n")
            assert await b.recv(lines) == b"first\n"
            assert await b.recv(lines) == b"second\n"
            assert await b.recv_n(5) == b"12345"
            assert await b.recv() == b"rest"
            with pytest.raises(TimeoutError):
                await b.recv(timeout=0.01)
            await a.send(memoryview(b"later"))  # the timeout has lost nothing
            assert await b.recv() == b"later"

    async def test_as_asyncio_streams(self) -> None:
        async with pipes() as (a, b):
            reader, writer = streams_over(a, 65536)
            writer.write(b"hello\n")
            writer.write_eof()
            assert await read_all(b) == b"hello\n"
            await b.send(b"there\n")
            await b.close()
            assert await reader.read() == b"there\n"
            writer.close()
            await writer.wait_closed()

    async def test_a_slow_reader_stops_the_writer(self) -> None:
        async with pipes() as (a, b):
            sending = asyncio.ensure_future(a.send(bytes(64 << 20)))
            done, _ = await asyncio.wait([sending], timeout=0.5)
            assert not done
            assert len(await b.recv_n(64 << 20)) == 64 << 20
            await sending

    async def test_both_send_more_than_the_kernel_holds(self) -> None:
        """Neither may wait with reading until it has sent."""
        size = 16 << 20
        async with pipes() as (a, b):
            results = await asyncio.gather(a.send(bytes(size)), b.send(bytes(size)), a.recv_n(size), b.recv_n(size))
            assert [len(data) for data in results[2:]] == [size, size]

    async def test_a_cancelled_send_does_not_cut_a_record(self) -> None:
        async with pipes() as (a, b):
            sending = asyncio.ensure_future(a.send(b"x" * (32 << 20)))
            await asyncio.wait([sending], timeout=0.2)
            sending.cancel()
            await asyncio.wait([sending])
            reading = asyncio.ensure_future(read_all(b))
            await a.send(b"END")
            a.write_eof()
            received = await reading
            assert received.rstrip(b"END") == b"x" * (len(received) - 3)
            assert received.endswith(b"END")

    async def test_two_tasks_cannot_receive_or_send_at_once(self) -> None:
        async with pipes() as (a, _):
            first = asyncio.ensure_future(a.recv())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="two tasks receive"):
                await a.recv()
            first.cancel()

    async def test_there_is_no_socket_to_detach(self) -> None:
        async with pipes() as (a, _):
            with pytest.raises(ConfigError, match="TLS"):
                a.detach()
            assert not a.closed


async def carry(source: TcpStream, sink: TcpStream, seen: bytearray) -> None:
    while data := await source.recv(65536):
        seen += data
        await sink.send(data)


class TestItsEnd:
    async def test_half_close_leaves_the_other_direction_open(self) -> None:
        async with pipes() as (a, b):
            await a.send(b"question")
            a.write_eof()
            assert await read_all(b) == b"question"
            for _ in range(3):
                await b.send(bytes(1 << 20))
            await b.close()
            assert len(await read_all(a)) == 3 << 20
            assert await a.recv() == b""
            with pytest.raises(PipeClosed, match="end of the stream has been sent"):
                await a.send(b"more")

    async def test_what_had_come_before_our_end_is_not_lost(self) -> None:
        """`unwrap` of the ssl module would throw it away. It came in one piece with the end of the handshake."""
        async with connection() as (near, far), connection() as (middle, end):
            a, b = pipe_on(near, OF_ALICE), pipe_on(end, OF_BOB)
            back = asyncio.ensure_future(carry(middle, far, bytearray()))
            starting = asyncio.ensure_future(b.start_tls())
            began = asyncio.ensure_future(a.start_tls())
            await middle.send(await far.recv(65536))
            await began
            await a.send(b"y" * 30_000)
            held = b""
            while len(held) < 30_000:
                held += await far.recv(65536)
            await middle.send(held)
            await starting
            b.write_eof()
            assert await b.recv_n(30_000) == b"y" * 30_000
            assert await a.recv() == b""
            back.cancel()

    async def test_everything_sent_before_a_close_arrives(self) -> None:
        """Even though the peer says its own end while our kernel still has much to send: that must not reset it."""
        async with connection() as (near, far):
            cast(Any, near)._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            cast(Any, far)._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            a, b = pipe_on(near, OF_ALICE), pipe_on(far, OF_BOB)
            await asyncio.gather(a.start_tls(), b.start_tls())
            await a.send(bytes(2 << 20))
            closing = asyncio.ensure_future(a.close())
            await asyncio.wait([closing], timeout=0.05)
            assert near.unacknowledged()
            b.write_eof()
            await asyncio.wait([closing], timeout=0.05)
            assert len(await read_all(b)) == 2 << 20
            await closing

    async def test_a_close_does_not_wait_for_a_peer_that_stays(self) -> None:
        async with pipes() as (a, b):
            await a.send(b"bye")
            async with asyncio.timeout(2.0):
                await a.close()
            assert await read_all(b) == b"bye"
            with pytest.raises(PipeClosed):
                await a.recv()

    async def test_a_fin_without_close_notify_is_no_end(self) -> None:
        async with connection() as (near, far):
            a, b = pipe_on(near, OF_ALICE), pipe_on(far, OF_BOB)
            await asyncio.gather(a.start_tls(), b.start_tls())
            await a.send(b"half a sentence, and th")
            near.write_eof()
            assert await b.recv_n(23) == b"half a sentence, and th"
            with pytest.raises(PipeClosed, match="close_notify"):
                await b.recv()
            assert b.closed

    async def test_a_reset(self) -> None:
        async with pipes() as (a, b):
            a.abort()
            with pytest.raises(PipeClosed):
                await b.recv()
            assert b.closed

    async def test_a_changed_byte_ends_it(self) -> None:
        async with connection() as (near, far), connection() as (middle, end):
            a, b = pipe_on(near, OF_ALICE), pipe_on(end, OF_BOB)
            back = asyncio.ensure_future(carry(middle, far, bytearray()))
            forth = asyncio.ensure_future(carry(far, middle, bytearray()))
            await asyncio.gather(a.start_tls(), b.start_tls())
            waiting = asyncio.ensure_future(b.recv())
            forth.cancel()
            await asyncio.wait([forth])
            await a.send(b"pay 100 to Bob")
            record = bytearray(await far.recv(65536))
            record[-1] ^= 1
            await middle.send(record)
            # The words of OpenSSL 3.0 and of 3.6, which comes with newer Pythons.
            with pytest.raises(PipeClosed, match=r"bad record mac|record layer failure"):
                await waiting
            back.cancel()


class TestTheStart:
    async def test_in_the_middle_of_a_conversation(self) -> None:
        """What a filter read ahead is the peer's ClientHello: it must not be lost."""
        async with pipes(tls=False) as (a, b):
            await a.send(b"STARTTLS\n")
            starting = asyncio.ensure_future(a.start_tls())
            for _ in range(3):
                await asyncio.sleep(0)
            assert await b.recv(Subscription(content=rb"\n")) == b"STARTTLS\n"
            await asyncio.gather(starting, b.start_tls())
            await b.send(b"in private")
            assert await a.recv() == b"in private"

    async def test_after_an_end_it_cannot_be(self) -> None:
        async with pipes(tls=False) as (a, b):
            a.write_eof()
            with pytest.raises(PipeClosed, match="TLS needs both"):
                await a.start_tls()
            assert await b.recv() == b""
            with pytest.raises(PipeClosed, match="TLS needs both"):
                await b.start_tls()

    async def test_cancelled_it_leaves_a_closed_pipe(self) -> None:
        async with pipes(tls=False) as (a, _):
            starting = asyncio.ensure_future(a.start_tls())
            await asyncio.sleep(0.05)
            starting.cancel()
            await asyncio.wait([starting])
            assert a.closed

    async def test_our_key_is_not_left_on_disk(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        loaded: list[str] = []
        load = ssl.SSLContext.load_cert_chain

        def watched(context: ssl.SSLContext, path: str, **more: Any) -> None:
            with open(path) as file:
                loaded.append(file.read())
            load(context, path, **more)

        monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
        make_context(OF_ALICE)
        assert "BEGIN ENCRYPTED PRIVATE KEY" in loaded[0]
        assert "BEGIN PRIVATE KEY" not in loaded[0]
        assert list(tmp_path.iterdir()) == []

    async def test_a_server_hands_out_no_tickets(self) -> None:
        """By which a handshake without certificates could follow."""
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = make_context(OF_ALICE).wrap_bio(to_client, to_server)
        server = make_context(OF_BOB).wrap_bio(to_server, to_client, server_side=True)
        for end in (client, server, client, server):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
        with pytest.raises(ssl.SSLWantReadError):
            client.read(1)
        assert client.session is not None
        assert not client.session.has_ticket

    async def test_without_room_for_the_key_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
        async with pipes(tls=False) as (a, _):
            with pytest.raises(ConfigError, match="temporary file"):
                await a.start_tls()
            assert a.closed


Peer = Callable[[TcpStream], Coroutine[Any, Any, None]]


async def silent(stream: TcpStream) -> None:
    while await stream.recv(65536):
        pass


async def leaving(stream: TcpStream) -> None:
    stream.write_eof()
    await silent(stream)


async def resetting(stream: TcpStream) -> None:
    await stream.recv(65536)
    stream.abort()


async def babbling(stream: TcpStream) -> None:
    await stream.send(b"SSH-2.0-OpenSSH_9.9\r\n" * 100)
    await silent(stream)


async def echoing(stream: TcpStream) -> None:
    """Sends back what it gets: a reflection of our own handshake."""
    while data := await stream.recv(65536):
        await stream.send(data)


def speaking(context: ssl.SSLContext, *, server: bool) -> Peer:
    """A peer with the `ssl` module and whatever context; says something as soon as it believes to be in."""

    async def speak(stream: TcpStream) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=server)
        in_it = False
        while True:
            try:
                tls.do_handshake()
                if not in_it:
                    tls.write(b"let me in")
                in_it = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                await stream.send(outgoing.read())
                return
            if data := outgoing.read():
                await stream.send(data)
            data = await stream.recv(65536)
            if not data:
                return
            incoming.write(data)

    return speak


def forged(ends: TlsEnds, certificate: bytes, key: Identity) -> ssl.SSLContext:
    """The context that these ends should have, but with another certificate and key."""

    class Posing(Identity):
        def certificate(self) -> bytes:
            return certificate

        def to_encrypted_pem(self, password: bytes) -> bytes:
            return key.to_encrypted_pem(password)

    posing = Posing.from_pem(ends.identity.to_pem())
    return make_context(replace(ends, identity=posing))


def vouched_for_by_bob() -> bytes:
    """A certificate of Mallory's key that Bob's key signed; only Bob could make one."""
    own = x509.load_pem_x509_certificate(MALLORY.certificate())
    key: Any = serialization.load_pem_private_key(BOB.to_pem(), None)
    builder = x509.CertificateBuilder(
        own.issuer, own.subject, own.public_key(), 1, own.not_valid_before_utc, own.not_valid_after_utc
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def with_tls_1_2(ends: TlsEnds) -> ssl.SSLContext:
    context = make_context(ends)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def without_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([OF_BOB.protocol])
    return context


def trusting(context: ssl.SSLContext) -> ssl.SSLContext:
    """A peer that takes us whoever we are."""
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(frozen=True, slots=True)
class Case:
    """One hostile peer: whom it meets, what it is, and what that must come to."""

    victim: TlsEnds
    peer: Callable[[], Peer]
    error: type[WarpgateError]
    message: str


TO_ALICE, TO_BOB = OF_BOB, OF_ALICE  # what an honest peer of theirs would have
HOSTILE = {
    "silence": Case(OF_ALICE, lambda: silent, PipeClosed, "no handshake within"),
    "end": Case(OF_BOB, lambda: leaving, PipeClosed, "close_notify"),
    "reset": Case(OF_ALICE, lambda: resetting, PipeClosed, "receive from"),
    "garbage to a client": Case(OF_ALICE, lambda: babbling, ProtocolError, "TLS with"),
    "garbage to a server": Case(OF_BOB, lambda: babbling, ProtocolError, "TLS with"),
    "a reflected handshake": Case(OF_ALICE, lambda: echoing, ProtocolError, "TLS with"),
    "a client of another node": Case(
        OF_BOB,
        lambda: speaking(make_context(replace(TO_BOB, identity=MALLORY)), server=False),
        AuthenticationError,
        "not trusted",
    ),
    "a server of another node": Case(
        OF_ALICE,
        lambda: speaking(make_context(replace(TO_ALICE, identity=MALLORY)), server=True),
        AuthenticationError,
        "not trusted",
    ),
    "our own certificate": Case(
        OF_ALICE,
        lambda: speaking(trusting(make_context(replace(TO_ALICE, identity=ALICE))), server=True),
        AuthenticationError,
        "not trusted",
    ),
    "a certificate that the node's key vouches for": Case(
        OF_ALICE,
        lambda: speaking(forged(TO_ALICE, vouched_for_by_bob(), MALLORY), server=True),
        AuthenticationError,
        f"certificate is of {MALLORY.node_id}",
    ),
    "no certificate": Case(
        OF_BOB,
        lambda: speaking(without_certificate(), server=False),
        ProtocolError,
        "did not return a certificate",
    ),
    "TLS 1.2 to a server": Case(
        OF_BOB, lambda: speaking(with_tls_1_2(TO_BOB), server=False), ProtocolError, "unsupported protocol"
    ),
    "TLS 1.2 to a client": Case(
        OF_ALICE, lambda: speaking(with_tls_1_2(TO_ALICE), server=True), ProtocolError, "protocol version"
    ),
    "TLS of another session, to a server": Case(
        OF_BOB,
        lambda: speaking(make_context(replace(TO_BOB, session=OTHER_SESSION)), server=False),
        AuthenticationError,
        "not of this pipe",
    ),
    "TLS of another session, to a client": Case(
        OF_ALICE,
        lambda: speaking(make_context(replace(TO_ALICE, session=OTHER_SESSION)), server=True),
        AuthenticationError,
        "not of this pipe",
    ),
}


@pytest.mark.parametrize("case", HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_peers_get_in_nowhere(case: Case) -> None:
    ended: list[str] = []
    async with connection() as (near, far):
        pipe = pipe_on(near, case.victim, lambda _, reason: ended.append(reason))
        peer = asyncio.ensure_future(case.peer()(far))
        with pytest.raises(case.error, match=case.message):
            await pipe.start_tls(timeout=0.3 if case.message == "no handshake within" else 5.0)
        assert pipe.closed
        assert len(ended) == 1
        with pytest.raises(PipeClosed):
            await pipe.recv()
        with pytest.raises(PipeClosed):
            await pipe.send(b"x")
        peer.cancel()
        await asyncio.wait([peer])


@pytest.mark.parametrize("victim", ["client", "server"])
async def test_a_replayed_handshake_is_refused(victim: str) -> None:
    """Everything that one side said in a good handshake, and the secret it sent, said again to the same node."""
    said: dict[str, bytearray] = {"client": bytearray(), "server": bytearray()}
    async with connection() as (near, far), connection() as (middle, end):
        a, b = pipe_on(near, OF_ALICE), pipe_on(end, OF_BOB)
        carrying = [
            asyncio.ensure_future(carry(far, middle, said["client"])),
            asyncio.ensure_future(carry(middle, far, said["server"])),
        ]
        await asyncio.gather(a.start_tls(), b.start_tls())
        await asyncio.gather(a.send(b"open the door"), b.send(b"it is open"), a.recv_n(10), b.recv_n(13))
        for task in carrying:
            task.cancel()
    recording = bytes(said["server" if victim == "client" else "client"])
    async with connection() as (near, far):
        pipe = pipe_on(near, OF_ALICE if victim == "client" else OF_BOB)
        await far.send(recording)
        with pytest.raises((ProtocolError, AuthenticationError), match="TLS with"):
            await pipe.start_tls()
        assert pipe.closed


async def test_a_refused_client_learns_it_when_it_receives() -> None:
    """A client is done before the server has looked at its certificate (RFC 8446 section 2)."""
    async with connection() as (near, far):
        a = pipe_on(near, OF_ALICE)
        b = pipe_on(far, replace(OF_BOB, peer_key=MALLORY.public_key))
        results = await asyncio.gather(a.start_tls(), b.start_tls(), return_exceptions=True)
        assert isinstance(results[1], AuthenticationError)
        with pytest.raises(PipeClosed):
            await a.recv()
        assert a.closed


def test_a_trust_anchor_is_of_a_key_and_no_nodes_certificate() -> None:
    der = trust_anchor(BOB.public_key)
    check_certificate(der, BOB.public_key)
    with pytest.raises(AuthenticationError, match="not of"):
        check_certificate(der, ALICE.public_key)
    with pytest.raises(AuthenticationError):
        trust_anchor(b"\x02" + b"\xff" * 32)


async def _closed(_a: StreamPipe, b: StreamPipe) -> None:
    await b.close()


async def _sends_to_nobody(a: StreamPipe, b: StreamPipe) -> None:
    b.abort()
    with pytest.raises(PipeClosed):
        await a.send(bytes(50_000_000))


async def _reads_from_nobody(a: StreamPipe, b: StreamPipe) -> None:
    b.abort()
    with pytest.raises(PipeClosed):
        await a.recv()


async def _reads_nonsense(a: StreamPipe, b: StreamPipe) -> None:
    await cast(SecuredStream, b._stream)._stream.send(bytes(200))
    with pytest.raises(PipeClosed):
        await a.recv()


async def _aborted_while_it_sends(a: StreamPipe, _b: StreamPipe) -> None:
    sending = asyncio.ensure_future(a.send(bytes(20_000_000)))
    await asyncio.sleep(0)
    a.abort()
    await asyncio.wait([sending])
    assert isinstance(sending.exception(), PipeClosed)


@pytest.mark.parametrize(
    "ending", [_closed, _sends_to_nobody, _reads_from_nobody, _reads_nonsense, _aborted_while_it_sends]
)
async def test_a_link_that_is_over_leaves_nothing_behind_for_the_collector(
    ending: Callable[[StreamPipe, StreamPipe], Coroutine[Any, Any, None]],
) -> None:
    """200 KB for each, which many that come and go add up to before it runs."""
    gc.collect()
    gc.disable()
    try:
        async with connection() as (near, far):
            a, b = pipe_on(near, OF_ALICE), pipe_on(far, OF_BOB)
            await asyncio.gather(a.start_tls(), b.start_tls())
            left = [weakref.ref(one) for pipe in (a, b) for one in (pipe, pipe._stream)]
            await ending(a, b)
            a.abort()
            b.abort()
            del a, b, near, far
        for _ in range(100):
            if not any(one() for one in left):
                break
            await asyncio.sleep(0.01)  # callbacks of the loop that are on their way
        assert [one() for one in left] == [None] * 4
    finally:
        gc.enable()
