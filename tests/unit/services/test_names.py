"""Look-ups against real servers on loopback: honest, dead, slow and lying ones (docs/names.md)."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from ipaddress import ip_address
from pathlib import Path

import pytest

from warpgate.errors import ConfigError, NameNotFound, NameRefused, PeerKeyChanged, ServiceError
from warpgate.events import Event, ServerFailed
from warpgate.lab.certificate import write_certificate
from warpgate.model.address import Attachment, Listening, NodeAddress
from warpgate.model.contact import Contact
from warpgate.model.endpoint import Endpoint
from warpgate.model.identity import Identity
from warpgate.net.system import SystemNetwork
from warpgate.net.tls import Trust
from warpgate.proto.name_record import NameRecord, RecordKind, seal
from warpgate.services import names
from warpgate.services.name_answers import NameAnswers
from warpgate.services.names import NameServers
from warpgate_testing.name_server import LabNameServer, refusal

ALICE, MALLORY = Identity.generate(), Identity.generate()
NOW = int(time.time())  # when the tests were collected, which may be a quarter of an hour ago
PATIENCE = 1.5  # instead of the grace, where machines that are held up must not decide a test
ANY_PORT = Endpoint.parse("127.0.0.1:0")
HOST = ip_address("192.0.2.1")


def address_of(identity: Identity, port: int = 4242) -> bytes:
    here = Attachment(HOST, None, Listening(port), Listening(port))
    return NodeAddress(identity.public_key, (), (here,)).encode()


def record(identity: Identity = ALICE, name: str = "alice", sequence: int = 7, **changes: object) -> NameRecord:
    # The same record for a minute, however often it is made: two made around a change of second must be equal.
    issued = int(time.time()) // 60 * 60
    made = NameRecord(RecordKind.CLAIM, name, identity.public_key, sequence, issued, 3600, address_of(identity))
    return replace(made, **changes)  # type: ignore[arg-type]


def signed(identity: Identity = ALICE, **changes: object) -> bytes:
    return seal(record(identity, **changes), identity)  # type: ignore[arg-type]


def altered_address() -> bytes:
    """The endpoint changed by somebody who has not the key."""
    return signed().replace(HOST.packed, ip_address("198.51.100.66").packed)


def of_another_address() -> bytes:
    """Signed by Mallory as Mallory's, with Alice's address in it."""
    return signed(MALLORY).replace(address_of(MALLORY), address_of(ALICE))


async def nobody() -> Contact | None:
    """The contact book before the first use."""
    return None


async def pinned() -> Contact | None:
    return Contact("alice", ALICE.public_key, 7, NOW - 86_400)


@asynccontextmanager
async def honest(data: bytes | None = None) -> AsyncIterator[LabNameServer]:
    server = LabNameServer(SystemNetwork(), ANY_PORT, time.time)
    if data is not None:
        server.records["alice"] = data
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def liar(status: int, body: bytes) -> AsyncIterator[LabNameServer]:
    async with honest() as server:
        server.lie = lambda _: (status, body)
        yield server


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that answers each connection's first request by `talk`; its URL."""
    talking: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)


def said(text: bytes) -> Talk:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()

    return talk


@asynccontextmanager
async def client(*urls: str, ca_file: str | None = None) -> AsyncIterator[tuple[NameServers, list[Event]]]:
    events: list[Event] = []
    servers = NameServers(SystemNetwork(), urls, events.append, trust=Trust(ca_file))
    try:
        yield servers, events
    finally:
        await servers.close()
        assert {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("HTTP")} == set()


def reasons(events: list[Event]) -> str:
    return "; ".join(event.reason for event in events if isinstance(event, ServerFailed))


def test_a_node_without_names_does_not_pay_for_the_client() -> None:
    program = "import sys, warpgate.core.launch; print({'h11', 'aiohttp'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


class TestOneServer:
    async def test_a_look_up_is_one_request_and_connections_are_kept(self) -> None:
        async with honest(signed()) as server, client(server.url) as (servers, events):
            await servers.warm()
            for _ in range(3):
                found = await servers.look_up("alice", nobody())
            assert found.record == record()
            assert found.address.node_id == ALICE.node_id
            assert found.server == server.url
            assert server.requests == [("GET", "/v1/names/alice")] * 3
            assert server.connections == 1
        assert events == []

    async def test_names_of_all_alphabets(self) -> None:
        async with honest() as server, client(server.url) as (servers, _):
            server.records["алиса"] = signed(name="алиса")
            assert (await servers.look_up("алиса", nobody())).record.name == "алиса"

    async def test_a_path_before_ours(self) -> None:
        async with honest() as server, client(server.url + "/some/where/") as (servers, _):
            with pytest.raises(ServiceError):
                await servers.look_up("alice", nobody())
            assert server.requests == [("GET", "/some/where/v1/names/alice")]

    async def test_nobody_of_that_name(self) -> None:
        async with honest() as server, client(server.url) as (servers, events):
            with pytest.raises(NameNotFound, match="nobody has registered 'alice'"):
                await servers.look_up("alice", nobody())
        assert events == []

    async def test_a_kept_connection_that_died_is_replaced(self) -> None:
        async with honest(signed()) as server, client(server.url) as (servers, events):
            await servers.warm()
            server.kill()
            server.revive()
            await servers.look_up("alice", nobody())
        assert events == []

    async def test_no_answer_is_waited_for_two_seconds(self) -> None:
        async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read()

        async with raw(silent) as url, client(url) as (servers, _):
            began = time.perf_counter()
            with pytest.raises(ServiceError, match="no answer within 2 s"):
                await servers.look_up("alice", nobody())
            assert 1.9 < time.perf_counter() - began < 4

    async def test_a_slow_drip_is_no_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(names, "LOOK_UP_PATIENCE", 0.3)
        dripped = 0

        async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal dripped
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(1000):
                writer.write(b"x")
                await writer.drain()
                dripped += 1
                await asyncio.sleep(0.02)

        async with raw(drip) as url, client(url) as (servers, _):
            with pytest.raises(ServiceError, match=r"no answer within 0.3 s"):
                await servers.look_up("alice", nobody())
        assert dripped > 3

    async def test_closing_ends_a_look_up(self) -> None:
        asked = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            asked.set()
            await reader.read()

        async with raw(silent) as url, client(url) as (servers, _):
            looking = asyncio.create_task(servers.look_up("alice", nobody()))
            await asked.wait()
            await servers.close()
            with pytest.raises(ServiceError, match="closed on this side"):
                await looking

    async def test_health(self) -> None:
        async with honest() as server, client(server.url, "http://127.0.0.1:1") as (servers, _):
            well, dead = await servers.check()
        assert (well.server, well.error) == (server.url, "")
        assert 0 < well.seconds < 1
        assert "refused" in dead.error

    @pytest.mark.parametrize(
        ("field", "ahead"),
        [(lambda: formatdate(time.time() - 3600, usegmt=True), 3600.0), (lambda: "last Tuesday", None)],
    )
    async def test_how_far_our_clock_is_ahead(self, field: Callable[[], str], ahead: float | None) -> None:
        answer = f"HTTP/1.1 200 OK\r\nDate: {field()}\r\nContent-Length: 0\r\n\r\n"
        async with raw(said(answer.encode())) as url, client(url) as (servers, _):
            (well,) = await servers.check()
        assert well.error == ""
        assert well.ahead == (ahead if ahead is None else pytest.approx(ahead, abs=60.0))

    async def test_a_contact_book_that_cannot_be_read_ends_the_look_up(self) -> None:
        async def damaged() -> Contact | None:
            raise ConfigError("line 7")

        async with honest(signed()) as server, client(server.url) as (servers, _):
            with pytest.raises(ConfigError, match="line 7"):
                await servers.look_up("alice", damaged())


class TestHttps:
    async def test_only_with_a_certificate_that_is_trusted(self, tmp_path: Path) -> None:
        certificate, key = write_certificate(tmp_path, [ip_address("127.0.0.1")])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(signed())
        async with raw(said(answer + signed()), context) as url:
            async with client(url, ca_file=str(certificate)) as (servers, _):
                assert (await servers.look_up("alice", nobody())).record.public_key == ALICE.public_key
            async with client(url) as (servers, _):
                with pytest.raises(ServiceError, match="certificate not trusted"):
                    await servers.look_up("alice", nobody())


LIES = [
    pytest.param(signed(MALLORY), "has changed|names another", id="another key, signed with it"),
    pytest.param(signed(sequence=6), "out of date: sequence 6, after 7", id="an old record"),
    pytest.param(altered_address(), "signature does not verify", id="an altered address"),
    pytest.param(of_another_address(), "signature does not verify", id="our address under another key"),
    pytest.param(signed(name="alicia"), "the record of 'alicia'", id="another name's record"),
    pytest.param(
        signed(kind=RecordKind.RELEASE, address=b""),
        "a release of 'alice'",
        id="a release served as a record",
    ),
    pytest.param(signed(issued=NOW - 7200), r"expired \d{4} s ago", id="an expired record"),
    pytest.param(signed()[:-1], "no good", id="a truncated record"),
    pytest.param(signed() + b"\0", "no good", id="a record and more"),
    pytest.param(b"\x01" + bytes(300), "no good", id="garbage"),
    pytest.param(b"", "no good", id="nothing"),
]


class TestLies:
    @pytest.mark.parametrize(("body", "reason"), LIES)
    async def test_alone_it_is_refused(self, body: bytes, reason: str) -> None:
        async with liar(200, body) as server, client(server.url) as (servers, events):
            with pytest.raises((ServiceError, PeerKeyChanged), match=reason):
                await servers.look_up("alice", pinned())
        assert [event.server for event in events if isinstance(event, ServerFailed)] == [server.url]

    @pytest.mark.parametrize(("body", "reason"), LIES)
    async def test_beside_an_honest_server_it_changes_nothing(self, body: bytes, reason: str) -> None:
        async with (
            honest(signed()) as truth,
            liar(200, body) as lies,
            client(lies.url, truth.url) as (servers, _),
        ):
            found = await servers.look_up("alice", pinned())
        assert (found.record, found.server) == (record(), truth.url)

    async def test_the_first_use_between_servers_that_disagree_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody can tell which of them lies; the higher sequence proves nothing."""
        monkeypatch.setattr(names, "GRACE", PATIENCE)
        async with (
            honest(signed()) as truth,
            liar(200, signed(MALLORY, sequence=99)) as lies,
            client(lies.url, truth.url) as (servers, _),
        ):
            with pytest.raises(ServiceError, match="disagree about who 'alice' is") as caught:
                await servers.look_up("alice", nobody())
        assert ALICE.node_id in str(caught.value)
        assert MALLORY.node_id in str(caught.value)

    @pytest.mark.parametrize("newer_first", [True, False])
    def test_of_two_records_of_the_right_key_the_newer_counts(self, newer_first: bool) -> None:
        """Who looks the name up for the first time cannot know that one of the servers has kept an old one."""
        answers = NameAnswers("alice", None)
        for sequence in (9, 8) if newer_first else (8, 9):
            answers.take(f"http://server-{sequence}.example", signed(sequence=sequence), 0.1, NOW)
        assert answers.verdict().record == record(sequence=9)

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000, "more than 16384 bytes"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"fffff\r\n" + b"y" * 99_999,
                "16384",
            ),
            (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20_000, "more than 16384 bytes"),
            (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 30_000, "more than 16384|not HTTP"),
            (b"SSH-2.0-OpenSSH_9.7\r\n", "not HTTP"),
            (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + signed(), "not HTTP"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort", "not HTTP"),
            (b"", "hung up"),
        ],
        ids=[
            "endless body",
            "endless chunk",
            "endless hints",
            "endless head",
            "not HTTP",
            "switches protocols",
            "cut off",
            "hangs up",
        ],
    )
    async def test_bytes_that_are_no_answer(self, answer: bytes, reason: str) -> None:
        async with raw(said(answer)) as url, client(url) as (servers, _):
            with pytest.raises(ServiceError, match=reason):
                await servers.look_up("alice", nobody())

    async def test_redirects_are_not_followed(self) -> None:
        async with honest(signed()) as elsewhere:
            head = f"HTTP/1.1 302 Found\r\nLocation: {elsewhere.url}/v1/names/alice\r\nContent-Length: 0\r\n\r\n"
            async with raw(said(head.encode())) as url, client(url) as (servers, _):
                with pytest.raises(ServiceError, match="it redirects to http"):
                    await servers.look_up("alice", nobody())
            assert elsewhere.requests == []

    @pytest.mark.parametrize("status", [400, 403, 429, 500, 503])
    async def test_refusals_are_told_in_the_servers_words_made_printable(self, status: int) -> None:
        _, body = refusal(status, "bad\x1b[2J", "no\x1b]0;evil\x07 way" + "!" * 1000)
        async with liar(status, body) as server, client(server.url) as (servers, _):
            with pytest.raises(ServiceError) as caught:
                await servers.look_up("alice", nobody())
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 400


class TestSeveralServers:
    async def test_the_newest_record_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(names, "GRACE", PATIENCE)
        async with honest(signed(sequence=8)) as newer, honest(signed(sequence=7)) as older:
            async with client(older.url, newer.url) as (servers, _):
                await servers.warm()
                for _ in range(5):
                    assert (await servers.look_up("alice", nobody())).record.sequence == 8
            assert newer.count("GET") == older.count("GET") == 5

    async def test_one_that_refuses_connections_costs_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(names, "GRACE", PATIENCE)
        async with honest(signed()) as server, client("http://127.0.0.1:1", server.url) as (servers, events):
            await servers.warm()
            assert "refused" in reasons(events)
            assert (await servers.look_up("alice", nobody())).seconds < PATIENCE

    async def test_one_that_is_silent_costs_a_moment_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(names, "GRACE", 0.5)

        async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read()

        async with honest(signed()) as server, raw(silent) as url, client(url, server.url) as (servers, _):
            await servers.warm()
            seconds = []
            for _ in range(4):
                began = time.perf_counter()
                await servers.look_up("alice", nobody())
                seconds.append(time.perf_counter() - began)
        assert seconds[0] >= 0.5
        assert max(seconds[1:]) < 0.5

    async def test_each_servers_reason_is_told(self) -> None:
        async with honest() as server, client("http://127.0.0.1:1", server.url) as (servers, _):
            with pytest.raises(ServiceError, match=r"127\.0\.0\.1:1: .*refused.*knows no such name"):
                await servers.look_up("alice", nobody())


class TestPublishing:
    async def test_a_record_is_taken_or_refused_with_the_reason(self) -> None:
        async with honest() as server, client(server.url) as (servers, _):
            (one,) = servers.servers
            data = signed()
            await one.publish("alice", data)
            await one.publish("alice", data)  # the answer was lost: it is the same again
            assert server.records == {"alice": data}
            with pytest.raises(NameRefused, match="registered by another key") as taken:
                await one.publish("alice", signed(MALLORY))
            with pytest.raises(NameRefused) as stale:
                await one.publish("alice", signed(sequence=3))
        assert (taken.value.code, taken.value.sequence) == ("taken", None)
        assert (stale.value.code, stale.value.sequence) == ("stale_sequence", 7)

    async def test_when_to_come_back(self) -> None:
        _, body = refusal(429, "rate", "slowly")
        head = b"HTTP/1.1 429 Slow\r\nRetry-After: 17\r\nContent-Length: %d\r\n\r\n" % len(body)
        async with raw(said(head + body)) as url, client(url) as (servers, _):
            with pytest.raises(NameRefused, match="slowly") as caught:
                await servers.servers[0].publish("alice", signed())
        assert caught.value.retry_after == 17.0
