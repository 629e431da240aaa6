"""A thread in a network namespace of its own, for what loopback alone cannot show."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable

import pytest

CLONE_NEWNET = 0x40000000


def command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def in_namespace(test: Callable[[], None]) -> None:
    """Run `test` where nothing but a loopback interface exists, which is up; skips where that needs rights we
    lack.
    """
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNET):
                pytest.skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
            command("ip", "link", "set", "lo", "up")
            test()
        except BaseException as error:  # noqa: BLE001 - raised again where pytest sees it
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
