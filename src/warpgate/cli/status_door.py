"""What a running command tells of its node: to `warpgate status` at a socket beside the key, to Prometheus over HTTP.

The socket is the user's alone (mode 600, in a folder of mode 700; `status_place` has what is there instead on Windows)
and named after identity and process. Who asks there gets one JSON object and the end. Metrics hold no peers, and their
labels come from closed sets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpgate.cli.ends import cancel_all
from warpgate.cli.status_place import HERE, Stream, answering
from warpgate.core.disk.identity_store import identity_file
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint
from warpgate.net.system import SystemNetwork
from warpgate.plugins.registry import registered_names
from warpgate.server.metrics import CONTENT_TYPE, family

if TYPE_CHECKING:
    from warpgate.cli.shell import Shell
    from warpgate.core.node import Node
    from warpgate.core.pipes.base import Pipe
    from warpgate.server.peer_relay import PeerRelay

# Who asks takes the answer at once, or has gone.
PATIENCE = 5.0
ASKING_AT_ONCE = 8
LONGEST_REQUEST = 8192
LOCAL_NAMES = (b"127.0.0.1", b"localhost")


@contextlib.asynccontextmanager
async def told(
    node: Node, shell: Shell, command: str, metrics: int | None = None, relay: PeerRelay | None = None
) -> Any:
    """While the block lasts `status` can ask, and Prometheus at the port `metrics` of the loopback address.

    NetworkError when that port is taken. Where there can be no socket, `status` does not see this process.
    """
    tasks: set[asyncio.Task[None]] = set()

    def accepted(answer: Callable[[Stream], Awaitable[None]], stream: Stream) -> None:
        if len(tasks) >= ASKING_AT_ONCE:
            stream.abort()
            return
        task = asyncio.create_task(_within_patience(answer, stream))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    identity = shell.settings.config.identity
    with contextlib.ExitStack() as stack:
        if metrics is not None:
            asked = partial(accepted, partial(_answer_http, node))
            stack.callback(SystemNetwork().listen_tcp(Endpoint.of(HERE, metrics), asked).close)
        try:
            place, tell = socket_file(identity, os.getpid()), partial(_told, node, identity, command, relay)
            stack.enter_context(answering(place, tell, accepted))
        except (NetworkError, OSError) as error:
            if shell.output.verbose:
                shell.output.note(f"warpgate status will not see this process: {error}")
        try:
            yield
        finally:
            await cancel_all(tasks)


def socket_file(identity: str, process: int | str) -> Path:
    """Where this process of the identity can be asked; "*" for all of them, as a pattern."""
    key = identity_file(identity)
    return key.with_name(f"{key.stem}.{process}.sock")


async def _within_patience(answer: Callable[[Stream], Awaitable[None]], stream: Stream) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            await answer(stream)
    except (TimeoutError, NetworkError):
        stream.abort()
    except BaseException:
        stream.abort()
        raise
    else:
        stream.close()


def _told(node: Node, identity: str, command: str, relay: PeerRelay | None) -> bytes:
    return json.dumps(snapshot(node, identity, command, relay)).encode("ascii")


async def _answer_http(node: Node, stream: Stream) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        more = await stream.recv(LONGEST_REQUEST)
        request += more
        if not more or len(request) > LONGEST_REQUEST:
            raise NetworkError("no HTTP request")
    first, *fields = request.partition(b"\r\n\r\n")[0].split(b"\r\n")
    found = first.split(b" ")[:2] == [b"GET", b"/metrics"] and _is_for_us(fields)
    body = metrics_text(node).encode() if found else b"ask this machine for GET /metrics\n"
    await stream.send(
        (
            f"HTTP/1.1 {'200 OK' if found else '404 Not Found'}\r\n"
            f"Content-Type: {CONTENT_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode("ascii")
        + body
    )


def _is_for_us(fields: list[bytes]) -> bool:
    """A web page whose name has been made to lead here could read the answer: its browser says that name (Host)."""
    split = [field.partition(b":") for field in fields]
    hosts = [value.strip().lower() for name, _, value in split if name.strip().lower() == b"host"]
    return all(host.rpartition(b":")[0] in LOCAL_NAMES or host in LOCAL_NAMES for host in hosts)


def snapshot(node: Node, identity: str, command: str, relay: PeerRelay | None = None) -> dict[str, Any]:
    """The object of `status --json`, its "event" aside. Instants are Unix seconds."""
    status = node.status()
    return {
        "identity": identity,
        "command": command,
        "pid": os.getpid(),
        "since": round(status.since, 3),
        "node_id": node.node_id,
        "port": node.port,
        "accepts": bool(node.address.instance),
        "address": node.address.to_text(),
        "services": list(status.services),
        "brokers": [{"url": broker.url, "rtt": broker.rtt} for broker in status.brokers],
        "pipes": [_pipe(pipe, since) for pipe, since in status.pipes],
        "server_list": status.server_list,
        "twin": status.twin,
        "relay": None if relay is None else asdict(relay.use),
    }


def _pipe(pipe: Pipe, since: float) -> dict[str, Any]:
    return {
        "peer": pipe.peer,
        "service": pipe.service,
        "plugin": pipe.plugin,
        "mode": pipe.mode.value,
        "transport": pipe.transport.value,
        "relayed": pipe.relayed,
        "secure": pipe.secure,
        "durable": pipe.durable,
        "local": str(pipe.local),
        "remote": str(pipe.remote),
        "since": round(since, 3),
    }


def metrics_text(node: Node) -> str:
    """For Prometheus."""
    status = node.status()
    strategies = registered_names()
    pipes = Counter(
        (
            pipe.service,
            # On this side the name of the strategy is what the peer says it is.
            pipe.plugin if pipe.plugin in strategies else "other",
            pipe.transport.value,
            str(pipe.relayed).lower(),
            str(pipe.durable).lower(),
        )
        for pipe, _ in status.pipes
    )
    labels = ("service", "strategy", "transport", "relayed", "durable")
    told = ((dict(zip(labels, each, strict=True)), count) for each, count in sorted(pipes.items()))
    started = f"{status.since:.3f}"
    lines = [
        *family("node_start_time_seconds", "gauge", "When the node was started, in Unix seconds.", [({}, started)]),
        *family("brokers", "gauge", "Brokers that this node listens on.", [({}, len(status.brokers))]),
        *family("pipes", "gauge", "Open pipes.", told),
        *family(
            "events_total",
            "counter",
            "What happened, by the name of the event.",
            (({"event": event}, count) for event, count in status.counts),
        ),
        *family("stray_datagrams_total", "counter", "Datagrams that belonged to nothing.", [({}, status.strays)]),
    ]
    return "\n".join(lines) + "\n"
