"""Accounts against providers on loopback, as they ask to be asked; renewal in virtual time."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from connect_proxy import connect_proxy

from warpgate.errors import ServiceError
from warpgate.events import Event, ServerFailed
from warpgate.model.endpoint import Endpoint
from warpgate.net.system import SystemNetwork
from warpgate.net.tls import Trust
from warpgate.services.proxy import Proxies
from warpgate.services.relay import Relays
from warpgate.services.turn_accounts import BACKOFF, Provider, TurnAccount, TurnAccounts
from warpgate_testing.clock import run_virtual

TOKEN = "t0ken"
NO_PROXY = Proxies(lambda scheme, host: None)
GIVEN = [{"urls": "turn:relay.example:3478", "username": "user", "credential": "pw"}]


class FakeProvider:
    """Answers `method` with `answer`, other methods with 405; wants the `authorization`. Counts requests."""

    def __init__(self, method: str = "GET", answer: bytes = b"", status: str = "200 OK") -> None:
        self.method = method
        self.answer = answer or json.dumps(GIVEN).encode()
        self.status = status
        self.authorization = f"Bearer {TOKEN}"
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, target, _ = head.split("\r\n")[0].split()
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(fields.get("content-length", "0")))
                self.asked.append(f"{method} {target}")
                self.bodies.append(body)
                status = self.status if method == self.method else "405 Method Not Allowed"
                if fields.get("authorization") != self.authorization.lower():
                    status = "401 Unauthorized"
                answer = self.answer if status.startswith("20") else b"no"
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer)
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/turn?key=secret"


@asynccontextmanager
async def running(provider: FakeProvider, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeProvider]:
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0, ssl=tls)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.close()


def account(url: str, emit: Any = lambda event: None, **changes: Any) -> TurnAccount:
    options: dict[str, Any] = {"token": TOKEN, "trust": Trust(), "proxies": NO_PROXY, **changes}
    provider = Provider(SystemNetwork(), url, **options)
    return TurnAccount(str(provider.url), provider.ask, emit, lambda: 1.8e9, random.Random(1))


@pytest.mark.parametrize(
    ("method", "asked", "body"),
    [
        ("GET", ["GET"], b""),
        ("POST", ["GET", "POST"], b'{"ttl": 86400}'),
        ("PUT", ["GET", "POST", "PUT"], b'{"format": "urls"}'),
    ],
)
async def test_providers_want_to_be_asked_in_different_ways(method: str, asked: list[str], body: bytes) -> None:
    async with running(FakeProvider(method)) as provider:
        asking = account(provider.url)
        assert [str(server) for server in (await asking.renew()).turn] == ["turn:relay.example:3478"]
        assert provider.asked == [f"{method} /turn?key=secret" for method in asked]
        assert provider.bodies[-1] == body
        await asking.renew()
        assert len(provider.asked) == len(asked) + 1, "the way that worked is remembered"


async def test_a_user_and_a_password_go_in_the_place_of_the_token() -> None:
    async with running(FakeProvider()) as provider:
        provider.authorization = "Basic c2lkOmF1dGg="
        await account(provider.url.replace("//", "//sid:auth@")).renew()


@pytest.mark.parametrize(
    ("provider", "reason"),
    [
        (FakeProvider(status="500 Oops"), "answers 500"),
        (FakeProvider(status="302 Found"), "answers 302"),
        (FakeProvider(method="PATCH"), "answers 405"),
        (FakeProvider(answer=b"<html>"), "not JSON"),
        (FakeProvider(answer=b"[]"), "no TURN server"),
        (FakeProvider(answer=b" " * 20_000), "more than 16384 bytes"),
    ],
)
async def test_a_provider_that_fails_has_a_reason(provider: FakeProvider, reason: str) -> None:
    async with running(provider):
        with pytest.raises(ServiceError, match=reason):
            await account(provider.url).renew()


async def test_a_wrong_token_is_told_without_showing_it() -> None:
    async with running(FakeProvider()) as provider:
        events: list[Event] = []
        asking = account(provider.url, events.append, token="wr0ng")
        task = asyncio.ensure_future(asking.run())
        await asyncio.wait_for(asking.asked.wait(), 10)
        task.cancel()
        [failure] = [event for event in events if isinstance(event, ServerFailed)]
        assert failure == ServerFailed(
            "ice-servers", f"http://127.0.0.1:{provider.port}/...", "it answers 401: is the token right?"
        )


async def test_nobody_there_is_an_error() -> None:
    with pytest.raises(ServiceError, match="refused"):
        await account("http://127.0.0.1:9/x").renew()


async def test_through_the_systems_proxy(tmp_path: Path, certificate: ssl.SSLContext) -> None:
    """The proxy sees the host, and neither the path nor the token."""
    async with running(FakeProvider(), certificate) as provider, connect_proxy() as proxy:
        proxy.leads_to = ("127.0.0.1", provider.port)
        through = Proxies(lambda scheme, host: proxy.url)
        trust = Trust(str(tmp_path / "cert.pem"))
        await account("https://provider.test/turn?key=secret", proxies=through, trust=trust).renew()
        assert proxy.asked == ["CONNECT provider.test:443 HTTP/1.1"]
        assert provider.asked == ["GET /turn?key=secret"]


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=provider"
        f" -addext subjectAltName=DNS:provider.test -keyout {tmp_path}/key.pem -out {tmp_path}/cert.pem".split(),
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


# -- renewal -----------------------------------------------------------------------------------------------------


class Clockwork:
    """An account whose provider is a function of the virtual time."""

    def __init__(self, answer: Any) -> None:
        self.asked: list[float] = []
        self.events: list[Event] = []
        self.account = account("http://127.0.0.1/", self.events.append)

        async def ask() -> bytes:
            now = asyncio.get_running_loop().time()
            self.asked.append(now)
            given = answer(now)
            if isinstance(given, Exception):
                raise given
            return json.dumps(given).encode()

        self.account._ask = ask  # type: ignore[method-assign]


def test_credentials_are_renewed_before_they_end() -> None:
    async def story() -> None:
        provider = Clockwork(lambda now: {"ttl": 3600, "iceServers": GIVEN})
        task = asyncio.ensure_future(provider.account.run())
        for _ in range(48):
            await asyncio.sleep(1800)
            assert provider.account.servers
        task.cancel()
        gaps = [later - sooner for sooner, later in zip(provider.asked, provider.asked[1:], strict=False)]
        assert all(0.5 * 3600 < gap < 0.8 * 3600 for gap in gaps)

    run_virtual(story(), limit=1e6)


def test_a_provider_that_fails_for_a_while_costs_nothing_and_is_asked_ever_more_rarely() -> None:
    async def story() -> None:
        down = range(2000, 10_000)
        provider = Clockwork(
            lambda now: ServiceError("down") if int(now) in down else {"ttl": 7200, "iceServers": GIVEN}
        )
        task = asyncio.ensure_future(provider.account.run())
        await asyncio.sleep(7100)
        assert provider.account.servers, "what was given is good until it ends"
        await asyncio.sleep(200)
        assert provider.account.servers == ()
        await asyncio.sleep(4000)
        assert provider.account.servers
        task.cancel()
        failed = [at for at in provider.asked if int(at) in down]
        assert failed[1] - failed[0] <= BACKOFF.low
        assert len(failed) < 20

    run_virtual(story(), limit=1e6)


# -- and the relays ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "192.168.1.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]"])
async def test_a_provider_cannot_lead_us_into_our_own_network(host: str) -> None:
    given = [{"urls": f"turn:{host}:3478", "username": "user", "credential": "pw"}]
    events: list[Event] = []
    async with running(FakeProvider(answer=json.dumps(given).encode())) as provider:
        accounts = TurnAccounts([account(provider.url, events.append)])
        task = asyncio.ensure_future(accounts.run())
        relays = Relays(SystemNetwork(), (), events.append, accounts=accounts)
        assert relays.configured
        with pytest.raises(ServiceError):
            await relays.open_udp([Endpoint.of("192.0.2.1", 1).family])
        task.cancel()
        assert [event.reason for event in events if isinstance(event, ServerFailed)]
        assert all("provider's word" in event.reason for event in events if isinstance(event, ServerFailed))


async def test_no_relay_is_waited_for_longer_than_the_account_takes_to_fail() -> None:
    accounts = TurnAccounts([account("http://127.0.0.1:9/")])
    task = asyncio.ensure_future(accounts.run())
    relays = Relays(SystemNetwork(), (), lambda event: None, accounts=accounts)
    with pytest.raises(ServiceError, match="no account gives"):
        await relays.open_udp([])
    task.cancel()


def test_a_provider_that_says_nothing_is_given_up_after_ten_seconds() -> None:
    async def story() -> None:
        silent = TurnAccount("provider", asyncio.Event().wait, lambda event: None, lambda: 1.8e9, random.Random(1))
        with pytest.raises(ServiceError, match="no answer within 10 s"):
            await silent.renew()
        assert asyncio.get_running_loop().time() == pytest.approx(10.0)

    run_virtual(story())
