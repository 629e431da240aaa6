"""Processes and consoles on Windows.

The facts: learn.microsoft.com/windows on job objects, console control handlers and process creation flags; CPython's
documentation of `signal`, `subprocess` and `msvcrt`.
"""

from __future__ import annotations

import sys

assert sys.platform == "win32"

import asyncio
import contextlib
import ctypes
import msvcrt
import os
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import Callable
from ctypes import c_int, c_uint, c_ulong, c_void_p
from typing import Any

from warpgate.platform.processes import Processes, ProcessGroup, Terminal

_kernel = ctypes.WinDLL("kernel32", use_last_error=True)
_kernel.CreateJobObjectW.restype = c_void_p
_kernel.OpenProcess.restype = c_void_p
_SET_QUOTA_AND_TERMINATE = 0x100 | 0x1
_KEY_PAUSE = 0.05  # a console can only be asked whether there is a key
_STDIN_PAUSE = 0.01


class WindowsGroup(ProcessGroup):
    """A job: what the program starts is in it, too."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._job = c_void_p(_kernel.CreateJobObjectW(None, None))
        weakref.finalize(self, _kernel.CloseHandle, self._job)
        handle = c_void_p(_kernel.OpenProcess(c_ulong(_SET_QUOTA_AND_TERMINATE), c_int(0), c_ulong(process)))
        if handle:
            _kernel.AssignProcessToJobObject(self._job, handle)
            _kernel.CloseHandle(handle)

    def terminate(self) -> None:
        """Ctrl-Break, for those who share our console."""
        with contextlib.suppress(OSError):
            os.kill(self._process, signal.CTRL_BREAK_EVENT)

    def kill(self) -> None:
        _kernel.TerminateJobObject(self._job, c_uint(1))


class WindowsProcesses(Processes):
    def own_group(self) -> dict[str, Any]:
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}

    def group_of(self, process: int) -> WindowsGroup:
        return WindowsGroup(process)

    def on_stop(self, stop: Callable[[], None]) -> None:
        """Ctrl-Break, and what the C library makes of a console that is closed."""
        loop = asyncio.get_running_loop()

        def told(_number: int, _frame: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(stop)

        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGBREAK, told)
            # The console's thread wakes the loop by a byte on a socket, and one that is not taken is no news: the loop
            # is being woken right now. Python would print a traceback about it, and about a socket that the loop has
            # closed meanwhile: a duplicate stays until the process ends.
            wakes = socket.fromfd(signal.set_wakeup_fd(-1), socket.AF_INET, socket.SOCK_STREAM)
            wakes.setblocking(False)
            signal.set_wakeup_fd(wakes.detach(), warn_on_full_buffer=False)


class WindowsTerminal(Terminal):
    """Consoles have characters; the bytes here are their UTF-8."""

    def __init__(self) -> None:
        self._consoles: dict[int, Any] = {}

    def read(self, descriptor: int, limit: int) -> bytes:
        if not os.isatty(descriptor):
            msvcrt.setmode(descriptor, os.O_BINARY)
            return super().read(descriptor, limit)
        found: bytes = self._console(descriptor, "rb").read(limit)
        return found

    def write(self, descriptor: int, data: bytes) -> None:
        if not os.isatty(descriptor):
            msvcrt.setmode(descriptor, os.O_BINARY)
            super().write(descriptor, data)
            return
        rest = memoryview(data)
        while rest:
            rest = rest[self._console(descriptor, "wb").write(rest) :]

    def _console(self, descriptor: int, mode: str) -> Any:
        """`open` of a console's descriptor speaks to the console (PEP 528)."""
        if descriptor not in self._consoles:
            self._consoles[descriptor] = open(descriptor, mode, buffering=0, closefd=False)  # noqa: SIM115 - kept
        return self._consoles[descriptor]

    def wait(self, descriptor: int, *, write: bool) -> None:
        time.sleep(_STDIN_PAUSE)

    async def line(self, descriptor: int) -> str:
        """Key by key: a read of the console could not be given up, and would take the next answer, too."""
        typed = ""
        while True:
            while msvcrt.kbhit():
                key = msvcrt.getwche()
                if key in "\r\n":
                    msvcrt.putwch("\n")
                    return typed + "\n"
                if key == "\x03":
                    raise KeyboardInterrupt
                typed = typed[:-1] if key == "\b" else typed + key
            await asyncio.sleep(_KEY_PAUSE)

    def is_ours(self, descriptor: int) -> bool:
        return True

    def forget_typed(self, descriptor: int) -> None:
        while msvcrt.kbhit():
            msvcrt.getwch()
