"""TURN servers by account: credentials that a provider hands out over https for a while, renewed before they end.

The answer is the provider's word, which is believed as far as an account goes: it names TURN servers on the internet.
Another node may be one (`listen --relay`); how that is asked is not known here.
"""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from warpgate.errors import ServiceError, WarpgateError
from warpgate.events import Observer, ServerFailed
from warpgate.lazy_dataclass import dataclass
from warpgate.model.backoff import Backoff
from warpgate.model.ice_servers import AccountUrl, IceServers, parse_ice_servers
from warpgate.model.identity import Identity
from warpgate.model.servers import NameServerUrl
from warpgate.model.turn_server import TurnServer
from warpgate.net.network import Network
from warpgate.net.tls import Trust
from warpgate.proto.relay_ticket import open_ticket
from warpgate.services.http_client import HttpClient
from warpgate.services.proxy import Proxies

# TCP, TLS, and what the provider does: it may have to ask others.
PATIENCE = 10.0
# How providers are asked: metered by GET; Cloudflare and Twilio by POST, Xirsys by PUT. The next when one is not known
# there. A day is what draft-uberti-behave-turn-rest section 2.2 recommends.
WAYS: tuple[tuple[str, bytes | None], ...] = (
    ("GET", None),
    ("POST", b'{"ttl": 86400}'),
    ("PUT", b'{"format": "urls"}'),
)
UNKNOWN_WAY = (404, 405)
# Renewed when so much of the lifetime is over; of one that is not told, after an hour.
RENEWED_AT = 0.75
USUAL_LIFE = 3600.0
BACKOFF = Backoff(5.0, 600.0)
SERVICE = "ice-servers"


@dataclass(frozen=True, slots=True)
class AccountCheck:
    """What one account gave: `servers` and `lifetime` (seconds; None: not told), or the `error`."""

    account: str
    servers: tuple[str, ...] = ()
    lifetime: float | None = None
    error: str = ""


class TurnAccount:
    """One account. Life: made, `run` as a task."""

    def __init__(
        self,
        name: str,
        ask: Callable[[], Awaitable[bytes]],
        emit: Observer,
        wall_clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """`ask` gives what the provider answers, or raises a WarpgateError; `name` is for events."""
        self.name = name
        self.asked = asyncio.Event()  # it has answered or failed once
        self._ask = ask
        self._emit = emit
        self._wall_clock = wall_clock
        self._rng = rng
        self._given: IceServers | None = None
        self._until = 0.0  # on the loop's clock

    @property
    def servers(self) -> tuple[TurnServer, ...]:
        """Those whose credentials are good now."""
        if self._given is None or asyncio.get_running_loop().time() >= self._until:
            return ()
        return self._given.turn

    async def run(self) -> None:
        """Ask now, again before the credentials end, and now and then while the provider fails."""
        failures = 0
        while True:
            try:
                await self.renew()
                failures = 0
                pause = RENEWED_AT * (self._until - asyncio.get_running_loop().time())
            except ServiceError as error:
                self._emit(ServerFailed(SERVICE, self.name, str(error)))
                failures += 1
                pause = BACKOFF.after(failures)
            finally:
                self.asked.set()
            await asyncio.sleep(pause * self._rng.uniform(0.8, 1.0))

    async def renew(self) -> IceServers:
        """ServiceError, with a reason that does not name the account."""
        try:
            async with asyncio.timeout(PATIENCE):
                given = parse_ice_servers(await self._ask(), self._wall_clock())
        except TimeoutError:
            raise ServiceError(f"no answer within {PATIENCE:g} s") from None
        except WarpgateError as error:
            raise ServiceError(str(error)) from None
        self._given = given
        self._until = asyncio.get_running_loop().time() + (given.lifetime or USUAL_LIFE)
        return given


class Provider:
    """Asked over https."""

    def __init__(
        self, network: Network, url: str, token: str | None, trust: Trust, proxies: Proxies | None = None
    ) -> None:
        """`token` goes as a bearer token (RFC 6750), unless the URL has a user and a password; `proxies` None: the
        system's. ConfigError.
        """
        self.url = AccountUrl.parse(url)
        self._network = network
        self._token = token
        self._trust = trust
        self._proxies = Proxies() if proxies is None else proxies
        self._way = 0

    async def ask(self) -> bytes:
        """NetworkError, ServiceError, ConfigError."""
        client = HttpClient(self._network, self.url.at, self._trust, self._proxies)
        try:
            for way in range(self._way, len(WAYS)):
                method, body = WAYS[way]
                fields = [("Accept", "application/json"), *self._authorization()]
                if body is not None:
                    fields.append(("Content-Type", "application/json"))
                answer = await client.ask(method, "", body, tuple(fields))
                if answer.status in (200, 201):
                    self._way = way
                    return answer.body
                if answer.status not in UNKNOWN_WAY:
                    break
        finally:
            await client.close()
        hint = ": is the token right?" if answer.status in (401, 403) else ""
        raise ServiceError(f"it answers {answer.status}{hint}")

    def _authorization(self) -> list[tuple[str, str]]:
        if self.url.login is not None:
            words = base64.b64encode(":".join(self.url.login).encode()).decode("ascii")
            return [("Authorization", f"Basic {words}")]
        return [("Authorization", f"Bearer {self._token}")] if self._token else []


class Desk:
    """A `warpgate serve` that gives our node a log-in for its relay, sealed to our key: `servers` name that relay."""

    def __init__(
        self,
        network: Network,
        url: NameServerUrl,
        servers: Sequence[TurnServer],
        identity: Identity,
        trust: Trust,
    ) -> None:
        self._network = network
        self._url = url
        self._servers = tuple(map(str, servers))
        self._identity = identity
        self._trust = trust

    async def ask(self) -> bytes:
        """As a provider would answer. NetworkError, ServiceError, ProtocolError, ConfigError."""
        client = HttpClient(self._network, self._url, self._trust, Proxies())
        try:
            answer = await client.ask("GET", f"/v1/relay/{self._identity.public_key.hex()}")
        finally:
            await client.close()
        if answer.status != 200:
            raise ServiceError(f"it answers {answer.status}")
        ticket = open_ticket(self._identity, answer.body)
        given = {
            "urls": self._servers,
            "username": ticket.login.user,
            "credential": ticket.login.password,
        }
        return msgspec.json.encode({"ttl": ticket.lifetime, "iceServers": [given]})


class TurnAccounts:
    """All of the settings. Life: made; `run` as a task while the node runs."""

    def __init__(self, accounts: Sequence[TurnAccount]) -> None:
        self._accounts = tuple(accounts)

    def __bool__(self) -> bool:
        return bool(self._accounts)

    @property
    def servers(self) -> tuple[TurnServer, ...]:
        return tuple(dict.fromkeys(server for account in self._accounts for server in account.servers))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for account in self._accounts:
                group.create_task(account.run())

    async def asked(self) -> None:
        """Wait until one account gives servers, or each has answered or failed once."""
        waiting = {asyncio.ensure_future(account.asked.wait()) for account in self._accounts}
        try:
            while waiting and not self.servers:
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    async def check(self) -> tuple[AccountCheck, ...]:
        """Ask each one now: for `doctor`."""
        return tuple(await asyncio.gather(*map(_check, self._accounts)))


async def _check(account: TurnAccount) -> AccountCheck:
    try:
        given = await account.renew()
    except ServiceError as error:
        return AccountCheck(account.name, error=str(error))
    return AccountCheck(account.name, tuple(map(str, given.turn)), given.lifetime)
