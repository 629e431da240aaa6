"""A broker or a relay as a process of ours: started, watched, started again when it dies, ended with us."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable
from pathlib import Path

from warpgate.errors import ConfigError, NetworkError, ServiceError
from warpgate.model.backoff import Backoff
from warpgate.model.endpoint import Endpoint
from warpgate.net.network import Network
from warpgate.server.broker import Broker
from warpgate.server.metrics import Reading

# Both brokers listen within a second on an idle machine; the limit only has to be finite.
START_PATIENCE = 15.0
START_POLL = 0.02
# Between its death and the next try: doubled each time, until it has lived for a while.
BACKOFF = Backoff(0.5, 30.0)
LIVED = 60.0
TERMINATION_PATIENCE = 3.0
LAST_WORDS = 2000


class BrokerProcess:
    """Life: `start`, `close`. While it lives there is a broker, or soon will be again."""

    def __init__(
        self,
        broker: Broker,
        probe: Endpoint,
        network: Network,
        on_trouble: Callable[[str], None],
        *,
        backoff: Backoff = BACKOFF,
        accepts: Callable[[], Awaitable[bool]] | None = None,
        metric: str = "broker",
    ) -> None:
        """`probe`: where it must accept connections to count as started, or be accessible by `accepts`; `on_trouble`
        gets sentences for people; `metric` begins the names of its readings.
        """
        self.restarts = 0
        self._broker = broker
        self._probe = probe
        self._network = network
        self._on_trouble = on_trouble
        self._backoff = backoff
        self._accepts = self._connects if accepts is None else accepts
        self._metric = metric
        self._process: Process | None = None
        self._folder: Path | None = None  # of that process
        self._words = bytearray()
        self._watch: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self._broker.name

    @property
    def port(self) -> int:
        return self._broker.port

    @property
    def pid(self) -> int | None:
        """Of the broker that runs now."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def readings(self) -> tuple[Reading, ...]:
        """For `Metrics.others`."""
        return (
            (f"{self._metric}_up", "gauge", f"Whether {self.name} runs.", int(self.pid is not None)),
            (f"{self._metric}_restarts_total", "counter", "How often it was started again.", self.restarts),
        )

    async def start(self) -> None:
        """Returns when it accepts connections. ServiceError when it cannot be had, ConfigError for its files."""
        if await self._accepts():
            raise ServiceError(f"cannot start {self._broker.name}: {self._probe} is in use by another program")
        try:
            await self._spawn()
            await self._listening()
        except BaseException:
            await self.close()
            raise
        self._watch = asyncio.get_running_loop().create_task(self._keep_alive(), name="broker")

    async def close(self) -> None:
        """Idempotent."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
            self._watch = None
        await self._end()
        self._remove_folder()

    async def _spawn(self) -> None:
        try:
            launch = self._broker.launch()
        except OSError as error:
            raise ServiceError(f"cannot start {self._broker.name}: {error}") from error
        self._remove_folder()
        self._folder = launch.folder
        try:
            self._process = await asyncio.create_subprocess_exec(
                *launch.command,
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=PIPE,
                pass_fds=launch.descriptors,
                start_new_session=True,  # Ctrl-C is for us; we end it
            )
        except OSError as error:
            raise ServiceError(f"cannot start {launch.command[0]}: {error}") from error
        finally:
            for descriptor in launch.descriptors:
                os.close(descriptor)

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _listening(self) -> None:
        process = self._process
        assert process is not None
        reading = asyncio.ensure_future(self._listen_to(process))
        try:
            async with asyncio.timeout(START_PATIENCE):
                while not await self._accepts():
                    if process.returncode is not None:
                        await reading
                        raise ServiceError(f"cannot start {self._broker.name}: {self._ended(process)}")
                    await asyncio.sleep(START_POLL)
        except TimeoutError:
            where = f"{self._probe} within {START_PATIENCE:g} s"
            raise ServiceError(f"{self._broker.name} does not listen on {where}: {self._said()}") from None
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            process = self._process
            assert process is not None
            began = loop.time()
            await self._listen_to(process)
            await process.wait()
            failures = 1 if loop.time() - began >= LIVED else failures + 1
            pause = self._backoff.after(failures)
            self._on_trouble(f"{self._broker.name} ended: {self._ended(process)}; again in {pause:g} s")
            await asyncio.sleep(pause)
            with contextlib.suppress(ServiceError, ConfigError):  # what it says, it says at its end
                await self._spawn()
                self.restarts += 1

    async def _listen_to(self, process: Process) -> None:
        """Until it has closed its stderr, which it does by ending; the last of it is kept."""
        assert process.stderr is not None
        while data := await process.stderr.read(4096):
            self._words += data
            del self._words[:-LAST_WORDS]

    async def _connects(self) -> bool:
        with contextlib.suppress(NetworkError):
            (await self._network.dial_tcp(self._probe)).abort()
            return True
        return False

    def _ended(self, process: Process) -> str:
        status = process.returncode
        how = f"by signal {-status}" if status is not None and status < 0 else f"with status {status}"
        return f"{how}, {self._said()}"

    def _said(self) -> str:
        words = " | ".join(self._words.decode(errors="replace").split("\n")).strip(" |")
        self._words.clear()
        return f"its last words: {words}" if words else "it said nothing"

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(TERMINATION_PATIENCE):
                await process.communicate()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
