"""HTTP in front of the name service: five routes (docs/names.md), bounded in size and time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection

import msgspec
from aiohttp import HttpVersion11, web

from warpgate import __version__
from warpgate.server.limits import BODY_SECONDS, MAX_BODY, network_of
from warpgate.server.metrics import CONTENT_TYPE, Metrics
from warpgate.server.relay_desk import RelayDesk
from warpgate.server.rules import Code, Refusal, Step
from warpgate.server.service import NameService, too_large

Handle = Callable[[web.Request], Awaitable[web.Response]]
Methods = dict[str, tuple[str, Handle]]  # by HTTP method: what it is called in the metrics, and what is done
_STATUS = {
    Code.MALFORMED: 400,
    Code.BAD_NAME: 400,
    Code.NAME_MISMATCH: 400,
    Code.BAD_SIGNATURE: 403,
    Code.NOT_FOUND: 404,
    Code.TAKEN: 409,
    Code.STALE_SEQUENCE: 409,
    Code.TOO_LARGE: 413,
    Code.CLOCK: 422,
    Code.RATE: 429,
    Code.TOO_MANY_NAMES: 429,
    Code.STORAGE: 503,
}
# Which software of which version answers helps nobody but attackers.
_HEADERS = {"Cache-Control": "no-store", "Server": "warpgate", "X-Content-Type-Options": "nosniff"}


class _Refused(msgspec.Struct, omit_defaults=True):
    error: str
    reason: str
    sequence: int | None = None


class _Done(msgspec.Struct):
    result: str


class _Healthy(msgspec.Struct, omit_defaults=True):
    status: str
    version: str
    names: int
    reason: str = ""


class Front:
    """Handlers of one server. `trust_proxy`: clients are who X-Forwarded-For says."""

    def __init__(
        self, service: NameService, metrics: Metrics, *, trust_proxy: bool, desk: RelayDesk | None = None
    ) -> None:
        self._service = service
        self._desk = desk
        self._metrics = metrics
        self._trust_proxy = trust_proxy

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY)
        routes: dict[str, Methods] = {
            "/v1/names/{name}": {"GET": ("lookup", self._lookup), "PUT": ("write", self._write)},
            "/health": {"GET": ("health", self._health)},
            "/metrics": {"GET": ("metrics", self._show_metrics)},
        }
        if self._desk is not None:
            routes["/v1/relay/{key}"] = {"GET": ("ticket", self._ticket)}
        for path, methods in routes.items():
            for method, (operation, handle) in methods.items():
                measured = self._measured(operation, handle)
                app.router.add_route(method, path, measured, expect_handler=_expected)
                if method == "GET":
                    app.router.add_route("HEAD", path, measured, expect_handler=_expected)
            app.router.add_route("*", path, _not_allowed(methods), expect_handler=_expected)
        app.router.add_route("*", "/{rest:.*}", _not_found, expect_handler=_expected)
        return app

    def _measured(self, operation: str, handle: Handle) -> Handle:
        async def handler(request: web.Request) -> web.Response:
            began = time.perf_counter()
            response = await handle(request)
            self._metrics.answered(operation, response.status, time.perf_counter() - began)
            return response

        return handler

    async def _lookup(self, request: web.Request) -> web.Response:
        found = await self._service.lookup(request.match_info["name"], self._network(request))
        if isinstance(found, Refusal):
            return self._refuse(found)
        return web.Response(body=found, headers=_HEADERS, content_type="application/octet-stream")

    async def _write(self, request: web.Request) -> web.Response:
        network = self._network(request)
        refusal = self._service.admit_write(network)
        if refusal is not None:
            return self._refuse(refusal)
        body = await _body(request)
        if isinstance(body, Refusal):
            return self._refuse(body)
        outcome = await self._service.write(request.match_info["name"], body, network)
        if isinstance(outcome, Refusal):
            return self._refuse(outcome)
        status = 201 if outcome is Step.CREATE else 200
        return _json(status, _Done(outcome.name.lower()))

    async def _ticket(self, request: web.Request) -> web.Response:
        assert self._desk is not None
        sealed = self._desk.ticket(request.match_info["key"], self._network(request))
        if isinstance(sealed, Refusal):
            return self._refuse(sealed)
        return web.Response(body=sealed, headers=_HEADERS, content_type="application/octet-stream")

    async def _health(self, _request: web.Request) -> web.Response:
        reason = await self._service.health()
        state = _Healthy("failing" if reason else "ok", __version__, self._metrics.names, reason)
        return _json(503 if reason else 200, state)

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._metrics.text(), headers={**_HEADERS, "Content-Type": CONTENT_TYPE})

    def _refuse(self, refusal: Refusal) -> web.Response:
        self._metrics.refused(refusal.code.value)
        response = _json(_STATUS[refusal.code], _Refused(refusal.code.value, refusal.reason, refusal.sequence))
        if refusal.retry_after is not None:
            response.headers["Retry-After"] = str(math.ceil(refusal.retry_after))
        return response

    def _network(self, request: web.Request) -> str:
        """The last address of X-Forwarded-For is the one that the proxy itself saw; anybody can write those before."""
        if self._trust_proxy:
            forwarded = request.headers.getall("X-Forwarded-For", [])
            if forwarded:
                return network_of(forwarded[-1].rpartition(",")[2].strip())
        return network_of(request.remote or "")


async def _expected(request: web.Request) -> None:
    """RFC 9110 section 10.1.1. aiohttp's own answer to an unknown one repeats it, and fails where that is no UTF-8."""
    if request.version < HttpVersion11 or not (expectation := request.headers.get("Expect")):
        return
    if expectation.lower() != "100-continue":
        raise web.HTTPExpectationFailed
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # nothing of the answer itself has been sent


def _not_allowed(methods: Collection[str]) -> Handle:
    async def handler(request: web.Request) -> web.Response:
        raise web.HTTPMethodNotAllowed(request.method, methods)

    return handler


async def _not_found(_request: web.Request) -> web.Response:
    raise web.HTTPNotFound


async def _body(request: web.Request) -> bytes | Refusal:
    if request.content_length is not None and request.content_length > MAX_BODY:
        return too_large()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return too_large()
    except TimeoutError:
        return Refusal(Code.MALFORMED, f"the body did not come within {BODY_SECONDS:.0f} s")
    except (ConnectionError, web.RequestPayloadError) as error:
        return Refusal(Code.MALFORMED, f"the body did not come whole: {error}")


def _json(status: int, body: msgspec.Struct) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(body), headers=_HEADERS, content_type="application/json"
    )
