"""What every system is asked about processes and terminals."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from warpgate.errors import ConfigError


class ProcessGroup(ABC):
    """A program that was started with `Processes.own_group`, and all that it starts. Once gone it does nothing."""

    @abstractmethod
    def terminate(self) -> None:
        """Ask it to end, if the system can."""

    @abstractmethod
    def kill(self) -> None: ...


class Processes(ABC):
    @abstractmethod
    def own_group(self) -> dict[str, Any]:
        """For asyncio's create_subprocess functions: the program is not told what this one is told."""

    @abstractmethod
    def group_of(self, process: int) -> ProcessGroup:
        """Of a program started so, just now."""

    @abstractmethod
    def on_stop(self, stop: Callable[[], None]) -> None:
        """Call `stop` on the running loop when this program is told to end, by whatever is not Ctrl-C.

        Outside the main thread nobody can be told: there the system ends the program.
        """

    may_have_systemd = False

    # -- for what `warpgate serve` runs beside itself

    def user_to_become(self, *names: str) -> str | None:
        """The first of these that this process may become, for fewer rights."""
        return None

    def become(self, user: str) -> None:
        """OSError or KeyError."""
        raise ConfigError(f"this system lets nobody become {user}")

    def give(self, path: Path, user: str) -> None:
        """Let a user own this, whom we could become. OSError or KeyError."""
        raise ConfigError(f"this system lets nobody give files to {user}")

    def end_with_parent(self) -> None:
        """As far as the system can: when the parent dies, this process is killed. OSError."""

    def limit_memory(self, size: int) -> None:
        """Of this process, in bytes of address space. OSError."""

    has_memory_files = False

    def memory_file(self, name: str, content: bytes) -> int:
        """The descriptor of a file that is nowhere on disk and readable by the program we start, whoever it runs as.

        A program that inherits it opens it as `/dev/fd/N`. Raises OSError, and ConfigError where there is no such
        thing.
        """
        raise ConfigError(
            f"this system has no way to hand {name} to a program with fewer rights: start mosquitto by yourself "
            "(deploy/mosquitto.conf)"
        )


class Terminal(ABC):
    """stdin, stdout and stderr, whatever they are. `descriptor` is one of theirs, or of what stands for it in tests."""

    def read(self, descriptor: int, limit: int) -> bytes:
        """Some bytes, b"" at the end; blocks. OSError."""
        while True:
            try:
                return os.read(descriptor, limit)
            except BlockingIOError:  # somebody who shares the descriptor has made it non-blocking
                self.wait(descriptor, write=False)

    def write(self, descriptor: int, data: bytes) -> None:
        """All of it; blocks. OSError."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                self.wait(descriptor, write=True)

    @abstractmethod
    def wait(self, descriptor: int, *, write: bool) -> None:
        """Until a non-blocking descriptor is ready."""

    @abstractmethod
    async def line(self, descriptor: int) -> str:
        """The next line that is typed; "" at the end of the input."""

    @abstractmethod
    def is_ours(self, descriptor: int) -> bool:
        """Whether we are in the foreground of the terminal: a job in the background that reads it is stopped."""

    @abstractmethod
    def forget_typed(self, descriptor: int) -> None:
        """What is on the line before a question."""
