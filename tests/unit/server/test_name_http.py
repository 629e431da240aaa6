"""The name server over HTTP on loopback: statuses, bodies, headers, limits, and what strangers send."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from names_kit import ALICE, BOB, UNLIMITED, Client, Owner, asking, free_port

from warpgate.errors import NetworkError, ServiceError
from warpgate.server import name_server as name_server_module
from warpgate.server.limits import Limits
from warpgate.server.name_server import Place, name_server
from warpgate.server.rules import Step
from warpgate.server.sqlite import open_sqlite
from warpgate.server.store import Change, StoreError


@contextlib.asynccontextmanager
async def up(folder: Path, limits: Limits = UNLIMITED, *, trust_proxy: bool = False) -> AsyncIterator[Client]:
    place = Place("127.0.0.1", free_port(), trust_proxy)
    async with (
        name_server(str(folder / "names.sqlite"), limits, place) as server,
        asking(server.url) as client,
    ):
        yield client


def claim(owner: Owner = ALICE, name: str = "alice", sequence: int = 1, **fields: int) -> bytes:
    return owner.seal(replace(owner.claim(name, sequence, issued=int(time.time())), **fields))  # type: ignore[arg-type]


def release(owner: Owner = ALICE, name: str = "alice", sequence: int = 1) -> bytes:
    return owner.seal(owner.release(name, sequence, issued=int(time.time())))


async def test_register_look_up_update_release(tmp_path: Path) -> None:
    async with up(tmp_path) as client:
        assert (await client.get()).error == (404, "not_found")
        first = claim()
        created = await client.put(first)
        assert (created.status, created.json) == (201, {"result": "create"})
        found = await client.get()
        assert (found.status, found.body) == (200, first)
        assert found.headers["Content-Type"] == "application/octet-stream"
        assert found.headers["Cache-Control"] == "no-store"
        repeated = await client.put(first)
        assert (repeated.status, repeated.json) == (200, {"result": "repeated"})
        second = claim(sequence=2)
        assert (await client.put(second)).status == 200
        assert (await client.get("ALICE")).body == second
        released = await client.put(release(sequence=3))
        assert (released.status, released.json) == (200, {"result": "release"})
        assert (await client.get()).status == 404
        assert (await client.put(second)).error == (409, "stale_sequence")


async def test_names_of_other_alphabets(tmp_path: Path) -> None:
    async with up(tmp_path) as client:
        data = claim(name="佐々木")
        assert (await client.put(data, "佐々木")).status == 201
        assert (await client.get("%E4%BD%90%E3%80%85%E6%9C%A8")).body == data


REFUSALS: list[tuple[str, Callable[[], bytes], str, int, str]] = [
    ("empty", lambda: b"", "alice", 400, "malformed"),
    ("garbage", lambda: b"\x01garbage" * 20, "alice", 400, "malformed"),
    ("bad name", claim, "admin", 400, "bad_name"),
    ("name with a slash", claim, "al%2Fice", 400, "bad_name"),
    ("another's name", claim, "bob", 400, "name_mismatch"),
    ("altered", lambda: claim()[:-1] + b"\0", "alice", 403, "bad_signature"),
    ("too large", lambda: bytes(2049), "alice", 413, "too_large"),
    ("much too large", lambda: bytes(1_000_000), "alice", 413, "too_large"),
    ("early", lambda: claim(issued=int(time.time()) + 1000), "alice", 422, "clock"),
    ("late", lambda: claim(issued=int(time.time()) - 1000), "alice", 422, "clock"),
    ("taken", lambda: claim(BOB, sequence=99), "alice", 409, "taken"),
    ("stale", lambda: claim(sequence=4), "alice", 409, "stale_sequence"),
    ("release of another's", lambda: release(BOB, sequence=99), "alice", 409, "taken"),
]


async def test_refusals(tmp_path: Path) -> None:
    async with up(tmp_path) as client:
        assert (await client.put(claim(sequence=5))).status == 201
        for what, body, name, status, code in REFUSALS:
            answer = await client.put(body(), name)
            assert answer.error == (status, code), what
            assert answer.json["reason"], what
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.json.get("sequence") == (5 if code == "stale_sequence" else None)
        assert (await client.get()).status == 200


async def test_too_many_names_and_rates_say_when_to_come_back(tmp_path: Path) -> None:
    limits = Limits(names_per_key=1, names_per_network=2, writes_per_key=3, writes_per_network=6, lookups_per_network=3)
    async with up(tmp_path, limits) as client:
        assert (await client.put(claim())).status == 201
        assert (await client.put(claim(name="second"), "second")).error == (429, "too_many_names")
        assert (await client.put(claim(sequence=2))).status == 200
        limited = await client.put(claim(sequence=3))
        assert limited.error == (429, "rate")
        assert 0 < int(limited.headers["Retry-After"]) <= 20
        assert (await client.put(claim(BOB, "bob"), "bob")).status == 201
        carol = Owner()
        assert (await client.put(claim(carol, "carol"), "carol")).error == (429, "too_many_names")
        assert (await client.put(claim(carol, "carol"), "carol")).error == (429, "rate")
        statuses = [(await client.get()).status for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        assert (await client.ask("GET", "/health")).status == 200


async def test_forwarded_addresses_count_only_when_asked(tmp_path: Path) -> None:
    limits = replace(UNLIMITED, lookups_per_network=1)
    async with up(tmp_path, limits) as client:
        answers = [await client.get(X_Forwarded_For=f"192.0.2.{n}") for n in (1, 2)]
        assert [each.status for each in answers] == [404, 429]


async def test_behind_a_proxy_the_last_forwarded_address_counts(tmp_path: Path) -> None:
    limits = replace(UNLIMITED, lookups_per_network=1, connections_per_network=1)
    async with up(tmp_path, limits, trust_proxy=True) as client:
        said = [
            "192.0.2.1",
            "192.0.2.2",
            "6.6.6.6, 192.0.2.1",
            "192.0.2.1, 192.0.2.3",
            "2001:db8::1",
            "2001:db8::2",
        ]
        answers = [await client.get(X_Forwarded_For=each) for each in said]
        assert [each.status for each in answers] == [404, 404, 429, 404, 404, 429]
        assert [(await client.get(X_Forwarded_For=each)).status for each in ("nonsense", "")] == [404, 429]


async def test_health_and_metrics(tmp_path: Path) -> None:
    async with up(tmp_path) as client:
        await client.put(claim())
        await client.get()
        await client.get("nobody-here")
        health = await client.ask("GET", "/health")
        assert (health.status, health.json["status"]) == (200, "ok")
        metrics = await client.ask("GET", "/metrics")
        assert metrics.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = metrics.body.decode().splitlines()
        assert 'warpgate_requests_total{operation="write",status="201"} 1' in lines
        assert 'warpgate_requests_total{operation="lookup",status="404"} 1' in lines
        assert 'warpgate_refusals_total{code="not_found"} 1' in lines
        assert 'warpgate_request_seconds_count{operation="lookup"} 2' in lines
        assert "warpgate_connections 1" in lines


async def test_what_has_expired_is_purged_in_the_background(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "names.sqlite") as store:
        for owner, name, lifetime in ((ALICE, "alice", 60), (BOB, "bob", 2_592_000)):
            record = owner.claim(name, issued=int(time.time()) - 5000, lifetime=lifetime)
            change = Change(record, owner.seal(record), "192.0.2.1/32", record.issued, UNLIMITED)
            assert await store.apply(change) is Step.CREATE
    async with up(tmp_path) as client, asyncio.timeout(20):
        while b"\nwarpgate_purged_total 1\n" not in (await client.ask("GET", "/metrics")).body:
            pass
        assert b"\nwarpgate_names 1\n" in (await client.ask("GET", "/metrics")).body
        assert (await client.get("bob")).status == 200


async def test_other_paths_and_methods(tmp_path: Path) -> None:
    async with up(tmp_path) as client:
        for method, path, status in (
            ("GET", "/", 404),
            ("GET", "/v1/names/", 404),
            ("GET", "/v1/names/a/b", 404),
            ("POST", "/v1/names/alice", 405),
            ("DELETE", "/v1/names/alice", 405),
            ("GET", "/v1/names/" + "x" * 5000, 400),
            ("GET", "/v1/names/%00%ff", 400),
        ):
            assert (await client.ask(method, path)).status == status, path


@pytest.mark.parametrize("path", [b"/health", b"/v1/names/alice", b"/nowhere"])
@pytest.mark.parametrize("expectation", [b"100-\x80continue", b"miracles"])
async def test_expectations_that_nobody_can_meet(
    tmp_path: Path, path: bytes, expectation: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Also those that are no text: anybody could fill the log with errors of ours by them."""
    async with up(tmp_path) as client:
        request = b"GET %b HTTP/1.1\r\nHost: x\r\nExpect: %b\r\nConnection: close\r\n\r\n" % (
            path,
            expectation,
        )
        assert (await raw(client, request)).startswith(b"HTTP/1.1 417 ")
    assert not caplog.records


async def test_a_compressed_body_is_not_unpacked(tmp_path: Path) -> None:
    async with up(tmp_path) as client:
        bomb = zlib.compress(bytes(1_500_000))
        assert len(bomb) < 2048
        assert (await client.put(bomb, Content_Encoding="deflate")).error == (400, "malformed")


async def test_a_body_in_chunks_is_bounded_too(tmp_path: Path) -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield bytes(1000)

    async with up(tmp_path) as client:
        for count, status in ((2, 400), (3, 413), (2000, 413)):
            with contextlib.suppress(ConnectionError):  # it may hang up while we still send
                url = f"{client.url}/v1/names/alice"
                async with client.session.put(url, data=chunks(count)) as response:
                    assert response.status == status
        assert (await client.ask("GET", "/health")).status == 200


async def test_a_body_in_chunks_that_is_too_long_is_refused_before_its_end(tmp_path: Path) -> None:
    async with up(tmp_path) as client:
        head = b"PUT /v1/names/alice HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert b" 413 " in (await raw(client, head + b"bb8\r\n" + bytes(3000) + b"\r\n")).partition(b"\r\n")[0]


async def raw(client: Client, data: bytes) -> bytes:
    """What the server answers to these bytes, until it hangs up: we do not."""
    port = int(client.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_who_is_slow_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing said, half a head, half a body: each connection ends, and others are served meanwhile."""
    monkeypatch.setattr(name_server_module, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr("warpgate.server.front.BODY_SECONDS", 0.4)
    half_body = b"PUT /v1/names/alice HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"
    async with up(tmp_path) as client:
        slow = [raw(client, said) for said in (b"", b"GET /health HTTP/1.1\r\nHos", half_body)]
        waiting = asyncio.gather(*slow)
        assert (await client.ask("GET", "/health")).status == 200
        silent, half_head, half = await waiting
        assert silent == half_head == b""
        assert half.startswith(b"HTTP/1.1 400")


async def test_who_hangs_up_in_mid_body_leaves_no_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with up(tmp_path) as client:
        port = int(client.url.rpartition(":")[2])
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PUT /v1/names/alice HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        assert (await client.put(claim())).status == 201
    assert not caplog.records


async def test_connections_are_bounded(tmp_path: Path) -> None:
    async with up(tmp_path, replace(UNLIMITED, connections=3)) as client:
        port = int(client.url.rpartition(":")[2])
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for _, writer in held:
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        for reader, _ in held:
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        assert await raw(client, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        for reader, writer in held:
            writer.close()
            await reader.read()
        for _ in range(100):  # until the server has seen them go
            if b"200 OK" in await raw(client, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
                break
        else:
            pytest.fail("closed connections still count")


HEADS = st.sampled_from(
    (b"GET /v1/names/alice HTTP/1.1\r\nHost: x\r\n", b"PUT /v1/names/alice HTTP/1.1\r\nHost: x\r\n")
)
HEADERS = st.lists(
    st.sampled_from(
        (
            b"Content-Length: 5\r\n",
            b"Content-Length: -1\r\n",
            b"Content-Length: 99999999999999999999\r\n",
            b"Content-Length: 5, 6\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: gzip, chunked\r\n",
            b"Content-Encoding: gzip\r\n",
            b"Content-Encoding: br\r\n",
            b"Expect: 100-continue\r\n",
            b"Expect: nonsense\r\n",
            b"Upgrade: websocket\r\nConnection: upgrade\r\n",
            b"X-Forwarded-For: \xff\xfe, ,,,\r\n",
            b"X: " + b"y" * 9000 + b"\r\n",
            b"\x00\x01: x\r\n",
            b": empty\r\n",
            b"Cookie: " + b"a=b;" * 500 + b"\r\n",
        )
    ),
    max_size=4,
).map(b"".join)
TARGETS = st.sampled_from((b"/v1/names/", b"/", b"http://x/v1/names/", b"//", b"/v1/../", b"*", b""))
LINES = st.builds(
    lambda method, target, rest, version: b"%s %s%s %s\r\nHost: x\r\n" % (method, target, rest, version),
    st.sampled_from((b"GET", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"PRI", b"\x16\x03\x01")),
    TARGETS,
    st.binary(max_size=30) | st.text(max_size=10).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from((b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"")),
)
REQUESTS = st.builds(
    lambda head, headers, body: head + headers + b"\r\n" + body,
    HEADS | LINES,
    HEADERS,
    st.binary(max_size=60) | st.sampled_from((b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1\r\n")),
)


async def test_hostile_requests_break_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes, the answer is no server error, nothing is logged, and the next honest client is served."""
    monkeypatch.setattr(name_server_module, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr("warpgate.server.front.BODY_SECONDS", 0.5)
    async with up(tmp_path) as client:
        await client.put(claim())
        sent: list[bytes] = []
        collect = settings(derandomize=True, deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))

        @collect
        @given(st.binary(max_size=200) | REQUESTS)
        def gather(data: bytes) -> None:
            sent.append(data)

        gather()
        answers = []
        for start in range(0, len(sent), 150):
            answers += await asyncio.gather(*(raw(client, data) for data in sent[start : start + 150]))
        assert (await client.get()).status == 200
        assert (await client.put(claim(sequence=2))).status == 200
        statuses = [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", b"".join(answers))]
        assert len(statuses) > 100  # the others were cut off in the middle of what they began
        assert max(statuses) < 500
    assert not caplog.records


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    async with up(tmp_path) as client:
        place = Place("127.0.0.1", int(client.url.rpartition(":")[2]))
        with pytest.raises(NetworkError, match="cannot listen on 127"):
            async with name_server(str(tmp_path / "other.sqlite"), UNLIMITED, place):
                pass


@pytest.mark.parametrize("content", [b"not a database" * 100, None])
async def test_a_database_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "names.sqlite"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be opened"):
        async with name_server(str(path), UNLIMITED, Place("127.0.0.1", free_port())):
            pass


async def test_a_postgres_that_is_not_there(tmp_path: Path) -> None:
    url = f"postgresql://user:secret@127.0.0.1:{free_port()}/names"
    with pytest.raises(ServiceError, match="cannot be opened") as caught:
        async with name_server(url, UNLIMITED, Place("127.0.0.1", free_port())):
            pass
    assert "secret" not in str(caught.value)
