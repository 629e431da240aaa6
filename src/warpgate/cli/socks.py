"""SOCKS5 over a pipe. `listen --forward socks` is the proxy: it dials what the peer asks for, if that is let.
`connect --socks` stands before it, for the programs here.

Whoever may use it sees the network from this machine's place. So by default it reaches public addresses alone, decided
on the address that is dialled, whatever name led to it: not this machine, not its networks, not a cloud's metadata.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from warpgate.cli.ends import LocalStream, PipeEnd, StreamEnd, join, owned_stream
from warpgate.cli.places import SocksPlace
from warpgate.errors import NetworkError, PipeClosed, ProtocolError
from warpgate.model.endpoint import IPAddress, Mode
from warpgate.model.scope import Scope, scope_of
from warpgate.net.network import read_exactly
from warpgate.net.reach import dial_first, in_order
from warpgate.net.system import SystemNetwork
from warpgate.net.tcp import SystemTcpStream
from warpgate.platform import INTERFACES
from warpgate.proto import socks
from warpgate.proto.socks import Destination, Reply

if TYPE_CHECKING:
    from warpgate.core.pipes.base import Pipe

# What a client says before it is served, and a name or a host that does not answer.
HANDSHAKE_PATIENCE = 30.0
DIAL_PATIENCE = 15.0

Read = Callable[[int], Awaitable[bytes]]
Write = Callable[[bytes], Awaitable[None]]


class Refused(NetworkError):
    """`answer`: what the client is told, before its connection ends in order."""

    def __init__(self, answer: bytes, reason: str) -> None:
        super().__init__(reason)
        self.answer = answer


async def serve_socks(pipe: Pipe, place: SocksPlace) -> None:
    """Be the proxy of one pipe. NetworkError when its request is not served."""
    if pipe.mode is not Mode.STREAM:
        raise NetworkError("--forward socks carries streams, the peer opened a datagram pipe")
    try:
        async with asyncio.timeout(HANDSHAKE_PATIENCE):
            wanted = await asked_for(pipe.recv_n, pipe.send)
            stream = await _dial(wanted, place)
    except TimeoutError:
        raise NetworkError("the SOCKS request took too long") from None
    except Refused as refused:
        with suppress(PipeClosed):
            await pipe.send(refused.answer)
            await pipe.close()  # in order, so that the reply arrives
        raise
    with owned_stream(stream):
        await pipe.send(socks.reply(Reply.SUCCEEDED))
        await join(PipeEnd(pipe), StreamEnd(stream))


async def asked_for(read: Read, write: Write) -> Destination:
    """What a client says up to its request. Refused with the answer that is due; NetworkError when it speaks something
    else.
    """
    try:
        methods = await read(socks.methods_follow(await read(2)))
        if not socks.acceptable(methods):
            raise Refused(socks.NONE_ACCEPTABLE, "the SOCKS client insists on a password")
        await write(socks.CHOSEN)
        head = await read(socks.HEAD)
        first = await read(1)
        rest = first + await read(socks.address_follows(head, first))
        if head[1] != socks.CONNECT:
            raise Refused(socks.reply(Reply.NO_SUCH_COMMAND), "SOCKS: only CONNECT is served")
        return socks.destination_of(head, rest)
    except ProtocolError as error:
        raise NetworkError(f"SOCKS: {error}") from error


async def asked_locally(stream: LocalStream) -> Destination:
    """As `asked_for`, of a program here."""
    return await asked_for(_reader(stream), stream.send)


async def ask_peer(pipe: Pipe, wanted: Destination) -> bytes:
    """Ask the proxy at the other end, both steps at once; its reply. NetworkError when there is none."""
    await pipe.send(socks.GREETING + socks.request(wanted))
    try:
        async with asyncio.timeout(HANDSHAKE_PATIENCE):
            chosen = await pipe.recv_n(2)
            if chosen != socks.CHOSEN:
                raise ProtocolError("its answer is another one")
            head = await pipe.recv_n(socks.HEAD)
            first = await pipe.recv_n(1)
            return head + first + await pipe.recv_n(socks.address_follows(head, first))
    except (TimeoutError, PipeClosed, ProtocolError) as error:
        reason = str(error) or "no answer"
        raise NetworkError(f"the peer is no SOCKS proxy, `listen --forward socks` makes it one ({reason})") from error


def _reader(stream: LocalStream) -> Read:
    return lambda count: read_exactly(stream.recv, count, NetworkError("the SOCKS client has gone"))


async def _dial(wanted: Destination, place: SocksPlace) -> SystemTcpStream:
    """The first address of the host that may be reached, and answers. Refused when there is none."""
    network = SystemNetwork()
    try:
        found = await network.resolve(wanted.host, wanted.port)
    except NetworkError as error:
        raise Refused(socks.reply(Reply.HOST_UNREACHABLE), str(error)) from error
    reachable = [endpoint for endpoint in found if wanted.port and _may_reach(endpoint.ip, place)]
    if not reachable:
        named = ", ".join(map(str, found))
        raise Refused(
            socks.reply(Reply.NOT_ALLOWED),
            f"{wanted.host}: {named} is not to be reached by --forward {place}",
        )
    ways = [(endpoint, None) for endpoint in in_order(reachable)]
    try:
        return await dial_first(network.dial_tcp, ways, DIAL_PATIENCE)
    except NetworkError as error:
        raise Refused(socks.reply(Reply.HOST_UNREACHABLE), str(error)) from None


def _may_reach(ip: IPAddress, place: SocksPlace) -> bool:
    scope = scope_of(ip)
    if place.anywhere:
        return scope is not Scope.NOBODY
    if place.networks:
        return any(ip in network for network in place.networks)
    return scope is Scope.GLOBAL and ip not in {assigned.ip for assigned in INTERFACES.assigned()}
