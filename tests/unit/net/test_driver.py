from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import pytest

from warpgate.errors import DecodeError
from warpgate.model.endpoint import Endpoint
from warpgate.net.driver import MachineDriver
from warpgate_testing.clock import run_virtual

PEER = Endpoint.parse("192.0.2.1:7")


class Script:
    """A machine that notes its inputs; tests fill its queues."""

    def __init__(self) -> None:
        self.inputs: list[tuple[object, ...]] = []
        self.transmits: deque[str] = deque()
        self.events: deque[str] = deque()
        self.deadline: float | None = None
        self.on_timeout: Callable[[float], None] = lambda now: None

    def receive(self, data: bytes, source: Endpoint, now: float) -> None:
        self.inputs.append((data, source, now))
        if data == b"bad":
            self.transmits.append("complaint")
            raise DecodeError("bad")

    def handle_timeout(self, now: float) -> None:
        self.inputs.append(("timeout", now))
        self.deadline = None
        self.on_timeout(now)

    def poll_transmit(self) -> str | None:
        return self.transmits.popleft() if self.transmits else None

    def poll_event(self) -> str | None:
        return self.events.popleft() if self.events else None

    def poll_timeout(self) -> float | None:
        return self.deadline


def test_every_input_is_followed_by_its_outputs_in_order() -> None:
    async def main() -> None:
        machine, out = Script(), []
        driver: MachineDriver[str, str] = MachineDriver(machine, out.append, out.append)
        machine.transmits += ["t1", "t2"]
        machine.events += ["e1", "e2"]
        driver.receive(b"x", PEER)
        assert machine.inputs == [(b"x", PEER, 0.0)]
        assert out == ["t1", "t2", "e1", "e2"]
        driver.close()

    run_virtual(main())


def test_one_timer_follows_the_deadline() -> None:
    async def main() -> None:
        machine = Script()
        driver: MachineDriver[str, str] = MachineDriver(machine, print, print)
        for deadline in (5.0, 2.0, 3.0):
            machine.deadline = deadline
            driver.drain()
        await asyncio.sleep(10)
        assert machine.inputs == [("timeout", 3.0)]
        machine.on_timeout = lambda now: setattr(machine, "deadline", now + 1 if now < 14 else None)
        machine.deadline = 12.0
        driver.drain()
        await asyncio.sleep(10)
        assert [entry[1] for entry in machine.inputs] == [3.0, 12.0, 13.0, 14.0]
        machine.deadline = 30.0
        driver.drain()
        driver.close()
        await asyncio.sleep(100)
        assert len(machine.inputs) == 4

    run_virtual(main())


def test_a_timer_that_fires_early_is_still_due() -> None:
    async def main() -> None:
        machine = Script()
        driver: MachineDriver[str, str] = MachineDriver(machine, print, print)
        machine.deadline = 1.0
        driver.drain()
        loop = asyncio.get_running_loop()
        loop.time = lambda: 0.999_999_999  # type: ignore[method-assign]
        driver._expired(1.0)
        assert machine.inputs == [("timeout", 1.0)]

    run_virtual(main())


def test_callbacks_may_use_the_driver() -> None:
    async def main() -> None:
        machine, out = Script(), []

        def on_event(event: str) -> None:
            out.append(event)
            if event == "e1":
                machine.events.append("e3")
                driver.receive(b"from within", PEER)
                driver.drain()
                out.append("e1 is done")  # nothing overtook it

        driver: MachineDriver[str, str] = MachineDriver(machine, out.append, on_event)
        machine.events += ["e1", "e2"]
        driver.drain()
        assert out == ["e1", "e1 is done", "e2", "e3"]
        assert machine.inputs == [(b"from within", PEER, 0.0)]

    run_virtual(main())


def test_closing_from_an_event_sends_the_goodbye_and_gives_no_more_events() -> None:
    async def main() -> None:
        machine, out = Script(), []

        def on_event(event: str) -> None:
            out.append(event)
            machine.transmits.append("goodbye")
            driver.close()

        driver: MachineDriver[str, str] = MachineDriver(machine, out.append, on_event)
        machine.events += ["e1", "e2"]
        machine.deadline = 1.0
        driver.drain()
        driver.close()
        driver.receive(b"late", PEER)
        await asyncio.sleep(2)
        assert out == ["e1", "goodbye"]
        assert machine.inputs == []

    run_virtual(main())


def test_an_error_of_the_machine_comes_through_after_its_transmits() -> None:
    async def main() -> None:
        machine, out = Script(), []
        driver: MachineDriver[str, str] = MachineDriver(machine, out.append, out.append)
        with pytest.raises(DecodeError):
            driver.receive(b"bad", PEER)
        assert out == ["complaint"]

    run_virtual(main())


def test_an_error_of_a_callback_does_not_hold_up_the_rest() -> None:
    async def main() -> None:
        machine, out = Script(), []

        def on_event(event: str) -> None:
            if event == "e1":
                raise ZeroDivisionError
            out.append(event)

        driver: MachineDriver[str, str] = MachineDriver(machine, out.append, on_event)
        machine.events += ["e1", "e2"]
        machine.deadline = 1.0
        with pytest.raises(ZeroDivisionError):
            driver.drain()
        await asyncio.sleep(2)
        assert out == ["e2"]
        assert machine.inputs == [("timeout", 1.0)]

    run_virtual(main())
