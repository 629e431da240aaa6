from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing, suppress

import pytest
from network_worlds import uvloop

from warpgate.net.sockets import Readiness, network_error
from warpgate.platform.readiness import watch_of

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.SelectorEventLoop, uvloop.new_event_loop]


@pytest.mark.parametrize("factory", LOOPS)
def test_a_loop_that_can_waits_itself(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with closing(factory()) as loop:
        assert watch_of(loop) is loop


@pytest.mark.parametrize("factory", LOOPS)
def test_several_wait_one_is_cancelled_the_rest_wake(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            writable = Readiness.to_write(asyncio.get_running_loop(), ours)
            await asyncio.gather(writable.wait(), writable.wait())
            with suppress(BlockingIOError):
                while True:
                    ours.send(bytes(65536))
            waiting = [asyncio.ensure_future(writable.wait()) for _ in range(3)]
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in waiting)
            waiting[0].cancel()
            await asyncio.sleep(0)
            theirs.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    theirs.recv(65536)
            await asyncio.wait(waiting)
            assert waiting[0].cancelled()
            assert not asyncio.get_running_loop().remove_writer(ours.fileno())  # nothing is left registered

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


@pytest.mark.parametrize("factory", LOOPS)
def test_the_last_cancellation_stops_watching(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            readable = Readiness.to_read(asyncio.get_running_loop(), ours)
            waiting = asyncio.ensure_future(readable.wait())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert not asyncio.get_running_loop().remove_reader(ours.fileno())

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


@pytest.mark.parametrize("factory", LOOPS)
def test_an_attempt_is_repeated_until_it_succeeds(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            attempts = 0

            def third() -> bool:
                nonlocal attempts
                attempts += 1
                return attempts == 3

            await Readiness.to_write(asyncio.get_running_loop(), ours).wait(third)
            assert attempts == 3

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_errors_are_sentences() -> None:
    assert str(network_error("connect to x", OSError(111, "whatever"))) == "connect to x: connection refused"
    assert str(network_error("resolve x", socket.gaierror(-2, "Unknown"))) == "resolve x: unknown"
