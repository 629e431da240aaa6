"""Where a service of a domain is: by its SRV records (RFC 2782), and where there are none, at its usual port.

So a fleet behind one name can grow, move and be weighted without a word to its clients. The resolver is asked directly,
as `getaddrinfo` knows no such records; the names of the targets go the usual way.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Sequence
from functools import partial

from warpgate.errors import DecodeError, NetworkError
from warpgate.model.endpoint import Endpoint, SockAddr
from warpgate.model.scope import Scope, scope_of
from warpgate.net.network import Network
from warpgate.net.race import RaceLost, first_of, heed
from warpgate.net.reach import in_turn
from warpgate.proto.dns_srv import (
    ID_SIZE,
    LARGEST_ANSWER,
    MOST_TARGETS,
    ResolverFailed,
    ServiceTarget,
    Truncated,
    by_priority,
    decode_answer,
    encode_question,
)

# Seconds for all resolvers, of which each gets its question twice. The name itself is looked up meanwhile.
PATIENCE = 1.5
REPEATED_AFTER = 0.4
MOST_RESOLVERS = 3
# Not on anybody's word: a zone that a stranger runs must not lead to this machine or what is on its links.
_REACHED = (Scope.GLOBAL, Scope.SITE)


async def service_endpoints(network: Network, service: str, host: str, port: int) -> tuple[Endpoint, ...]:
    """Where `service` ("_turn._udp") of `host` is, the first choice first; at `port` of the host itself where its
    domain says nothing. NetworkError when that is nowhere, or the domain says that it does not serve this.
    """
    resolvers = network.resolvers()[:MOST_RESOLVERS]
    if not resolvers or "." not in host or host.endswith((".local", ".localhost")):
        return await network.resolve(host, port)
    itself = asyncio.ensure_future(network.resolve(host, port))
    try:
        targets = await _ask(network, resolvers, f"{service}.{host}")
        if not targets:
            return await itself
        return await _found(network, f"{service}.{host}", targets)
    finally:
        itself.cancel()
        await asyncio.gather(itself, return_exceptions=True)


async def _found(network: Network, name: str, targets: Sequence[ServiceTarget]) -> tuple[Endpoint, ...]:
    chosen = by_priority(targets, random.SystemRandom().uniform)
    if not chosen:
        raise NetworkError(f"resolve {name}: the domain says that it does not serve this")
    found = await asyncio.gather(
        *(network.resolve(target.host, target.port) for target in chosen), return_exceptions=True
    )
    endpoints = [each for result in found if not isinstance(result, BaseException) for each in result[:MOST_TARGETS]]
    usable = tuple(dict.fromkeys(each for each in endpoints if scope_of(each.ip) in _REACHED))
    if not usable:
        raise NetworkError(f"resolve {name}: its targets lead nowhere ({', '.join(each.host for each in chosen)})")
    return usable


async def _ask(network: Network, resolvers: Sequence[Endpoint], name: str) -> tuple[ServiceTarget, ...]:
    """() also when nobody says anything of use: then there is the name itself."""
    asked = {str(resolver): partial(_ask_one, network, resolver, name) for resolver in resolvers}
    try:
        async with asyncio.timeout(PATIENCE):
            return await first_of(in_turn(asked), lambda _: None)
    except (TimeoutError, RaceLost):
        return ()


async def _ask_one(network: Network, resolver: Endpoint, name: str) -> tuple[ServiceTarget, ...]:
    message_id = secrets.token_bytes(ID_SIZE)
    question = encode_question(message_id, name)
    answer: asyncio.Future[tuple[ServiceTarget, ...] | None] = asyncio.get_running_loop().create_future()
    answer.add_done_callback(heed)

    def received(data: bytes, source: SockAddr) -> None:
        if answer.done() or source[:2] != resolver.sockaddr[:2]:
            return
        try:
            answer.set_result(decode_answer(data, message_id, name))
        except Truncated:
            answer.set_result(None)
        except ResolverFailed as error:
            answer.set_exception(error)
        except DecodeError:
            return  # what is forged, or was asked before, does not keep the true answer away

    source = network.route_source(resolver)
    if source is None:
        raise NetworkError(f"no route to {resolver}")
    sock = network.open_udp(Endpoint(source, 0), received)  # a port by chance: who forges has to guess it, too
    try:
        sock.send(question, resolver.sockaddr)
        done, _ = await asyncio.wait({answer}, timeout=REPEATED_AFTER)
        if not done:
            sock.send(question, resolver.sockaddr)
        told = await answer
    finally:
        sock.close()
    return await _ask_by_stream(network, resolver, message_id, name) if told is None else told


async def _ask_by_stream(
    network: Network, resolver: Endpoint, message_id: bytes, name: str
) -> tuple[ServiceTarget, ...]:
    """RFC 1035 section 4.2.2."""
    question = encode_question(message_id, name)
    stream = await network.dial_tcp(resolver)
    try:
        await stream.send(len(question).to_bytes(2, "big") + question)
        received = b""
        while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
            data = await stream.recv(LARGEST_ANSWER)
            received += data
            if not data or len(received) > LARGEST_ANSWER:
                raise NetworkError(f"{resolver} gives no whole answer")
        return decode_answer(received[2:], message_id, name)
    finally:
        stream.abort()
