"""Processes and terminals on Linux, macOS and the BSDs: POSIX.1-2024; what is Linux's alone is in `linux_host.py`."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import asyncio
import contextlib
import os
import resource
import select
import signal
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

from warpgate.platform.processes import Processes, ProcessGroup, Terminal
from warpgate.platform.readiness import watch_of


class PosixGroup(ProcessGroup):
    def __init__(self, process: int) -> None:
        self._process = process

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process, number)


class PosixProcesses(Processes):
    def own_group(self) -> dict[str, Any]:
        return {"start_new_session": True}

    def group_of(self, process: int) -> PosixGroup:
        return PosixGroup(process)

    def on_stop(self, stop: Callable[[], None]) -> None:
        """SIGTERM, and SIGHUP (with which ssh ends its ProxyCommand) unless nohup told us to ignore it."""
        chosen = [signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            chosen.append(signal.SIGHUP)
        loop = asyncio.get_running_loop()
        for number in chosen:
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not the main thread
                loop.add_signal_handler(number, stop)

    def user_to_become(self, *names: str) -> str | None:
        import pwd  # noqa: PLC0415 - for servers alone

        if os.geteuid() != 0:
            return None
        for name in names:
            try:
                user = pwd.getpwnam(name)
            except KeyError:
                continue
            if self._exists(user.pw_uid):
                return name
        return None

    def _exists(self, uid: int) -> bool:
        """Whether root here can become this user."""
        return True

    def become(self, user: str) -> None:
        import pwd  # noqa: PLC0415 - for servers alone

        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)

    def give(self, path: Path, user: str) -> None:
        import pwd  # noqa: PLC0415 - for servers alone

        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)

    def limit_memory(self, size: int) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


class PosixTerminal(Terminal):
    def wait(self, descriptor: int, *, write: bool) -> None:
        select.select([] if write else [descriptor], [descriptor] if write else [], [])

    async def line(self, descriptor: int) -> str:
        loop = asyncio.get_running_loop()
        watch = watch_of(loop)
        typed: asyncio.Future[str] = loop.create_future()

        def ready() -> None:
            watch.remove_reader(descriptor)
            if not typed.done():
                try:
                    # A terminal gives whole lines.
                    typed.set_result(os.read(descriptor, 1024).decode("utf-8", "replace"))
                except OSError:  # it is gone
                    typed.set_result("")

        watch.add_reader(descriptor, ready)
        try:
            return await typed
        finally:
            watch.remove_reader(descriptor)

    def is_ours(self, descriptor: int) -> bool:
        try:
            return os.tcgetpgrp(descriptor) == os.getpgrp()
        except OSError:
            return False

    def forget_typed(self, descriptor: int) -> None:
        termios.tcflush(descriptor, termios.TCIFLUSH)
