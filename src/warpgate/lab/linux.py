"""The few system calls that Python 3.11 does not have: unshare, setns, prctl, timerfd. Linux only.

And the names that Python has on Linux alone, so that the lab can be read and checked anywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Final

from warpgate.errors import ConfigError

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000
PR_SET_PDEATHSIG: Final = 1
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
CLOCK_MONOTONIC: Final = 1
TFD_TIMER_ABSTIME: Final = 1
AF_NETLINK: Final = 16
NETLINK_ROUTE: Final = 0
O_NONBLOCK: Final = 0o4000
O_CLOEXEC: Final = 0o2000000
SIGKILL: Final = 9
EBADFD: Final = 77

try:
    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.unshare  # noqa: B018 - to see whether it is there
except (TypeError, AttributeError):
    raise ConfigError("the lab is made of Linux's network namespaces: it runs on Linux only") from None


class _TimerSpec(ctypes.Structure):
    """struct itimerspec: interval, then first expiry."""

    _fields_ = (
        ("interval_sec", ctypes.c_long),
        ("interval_nsec", ctypes.c_long),
        ("value_sec", ctypes.c_long),
        ("value_nsec", ctypes.c_long),
    )


def unshare(flags: int) -> None:
    """Give the calling thread (CLONE_NEWUSER: the process) fresh namespaces. Raises OSError."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace behind `fd`. Raises OSError."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def mount(source: str, target: str, flags: int) -> None:
    """mount(2) without a file system of its own: for binding, and for what flags alone do. Raises OSError."""
    _check(_libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None), "mount")


def ioctl(fd: int, request: int, argument: bytes) -> None:
    """For requests that only read their argument. Raises OSError."""
    _check(_libc.ioctl(ctypes.c_int(fd), ctypes.c_ulong(request), argument), "ioctl")


def user_and_group() -> tuple[int, int]:
    """The effective ones."""
    return _libc.geteuid(), _libc.getegid()


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends, however it ends."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(SIGKILL), 0, 0, 0), "prctl")


class TimerFd:
    """A kernel timer on the monotonic clock: readable when due. asyncio's own timers round up to a millisecond."""

    def __init__(self) -> None:
        self.fd: int = _libc.timerfd_create(CLOCK_MONOTONIC, O_NONBLOCK | O_CLOEXEC)
        _check(self.fd, "timerfd_create")

    def set(self, when: float) -> None:
        """Fire once at `when` (seconds, time.monotonic()); an instant in the past fires now."""
        seconds, fraction = divmod(max(when, 1e-9), 1.0)
        spec = _TimerSpec(0, 0, int(seconds), int(fraction * 1e9) or 1)
        _check(_libc.timerfd_settime(self.fd, TFD_TIMER_ABSTIME, ctypes.byref(spec), None), "timerfd_settime")

    def clear(self) -> None:
        """Acknowledge that it fired."""
        with contextlib.suppress(BlockingIOError):  # set anew between the wake-up and this read
            os.read(self.fd, 8)

    def close(self) -> None:
        os.close(self.fd)


def _check(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
