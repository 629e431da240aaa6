"""Waiting for sockets on any event loop.

asyncio's selector loops and uvloop have `add_reader` and the like. Windows' own loop (the Proactor) has not, but it
alone starts processes there, so it is what `asyncio.run` takes, and a library cannot ask for another. Beside such a
loop a thread runs `select`, and calls back on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

# CPython for Windows is built for 512 sockets in one `select` (FD_SETSIZE): a thread has one for itself, and so many.
MOST_SOCKETS = 500


class Watch(Protocol):
    """What asyncio documents of its loops."""

    def add_reader(self, fd: int, callback: Callable[[], None], /) -> object: ...
    def remove_reader(self, fd: int, /) -> object: ...
    def add_writer(self, fd: int, callback: Callable[[], None], /) -> object: ...
    def remove_writer(self, fd: int, /) -> object: ...


_watches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, SelectorThreads] = weakref.WeakKeyDictionary()


def watch_of(loop: asyncio.AbstractEventLoop) -> Watch:
    """The loop itself, where it can."""
    if type(loop).add_reader is not asyncio.AbstractEventLoop.add_reader:
        return loop
    found = _watches.get(loop)
    if found is None:
        found = _watches[loop] = SelectorThreads(loop)
    return found


class SelectorThreads:
    """As many threads as the sockets need. All methods are for the loop's own thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._threads: list[SelectorThread] = []
        self._of: dict[int, SelectorThread] = {}

    def __len__(self) -> int:
        return len(self._of)

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self._thread(fd).add(fd, selectors.EVENT_READ, callback)

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        self._thread(fd).add(fd, selectors.EVENT_WRITE, callback)

    def remove_reader(self, fd: int) -> bool:
        return self._remove(fd, selectors.EVENT_READ)

    def remove_writer(self, fd: int) -> bool:
        return self._remove(fd, selectors.EVENT_WRITE)

    def _thread(self, fd: int) -> SelectorThread:
        if fd in self._of:
            return self._of[fd]
        thread = next((each for each in self._threads if len(each) < MOST_SOCKETS), None)
        if thread is None:
            loop = self._loop()
            assert loop is not None
            thread = SelectorThread(loop)
            self._threads.append(thread)
        self._of[fd] = thread
        return thread

    def _remove(self, fd: int, event: int) -> bool:
        thread = self._of.get(fd)
        if thread is None:
            return False
        removed = thread.remove(fd, event)
        if not thread.watches(fd):
            del self._of[fd]
            if not len(thread):
                self._threads.remove(thread)
                thread.close()
        return removed


class SelectorThread:
    """One thread with one selector, for as long as it has a socket.

    The thread owns the selector only while it is in `select`: the loop's side notes changes, wakes it, and the thread
    carries them out. What was ready is reported once, and then not looked at until the loop has called back: a socket
    that stays ready would otherwise be reported without end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callbacks: dict[int, dict[int, Callable[[], None]]] = {}  # by descriptor, by event
        self._lock = threading.Lock()
        self._wanted: dict[int, int] = {}  # what to look at from now on: 0 for nothing; under the lock
        self._closed = False
        self._awake, self._waker = socket.socketpair()
        self._awake.setblocking(False)
        self._waker.setblocking(False)
        # A daemon, so that a program which forgets to close a socket can end; asyncio closes a loop without warning.
        threading.Thread(target=self._run, name="warpgate-select", daemon=True).start()

    def __len__(self) -> int:
        return len(self._callbacks)

    def watches(self, fd: int) -> bool:
        return fd in self._callbacks

    def add(self, fd: int, event: int, callback: Callable[[], None]) -> None:
        self._callbacks.setdefault(fd, {})[event] = callback
        self._want(fd)

    def remove(self, fd: int, event: int) -> bool:
        callbacks = self._callbacks.get(fd, {})
        removed = callbacks.pop(event, None) is not None
        if not callbacks:
            self._callbacks.pop(fd, None)
        if removed:
            self._want(fd)
        return removed

    def close(self) -> None:
        """The thread ends by itself."""
        self._closed = True
        self._wake()

    def _want(self, fd: int) -> None:
        events = 0
        for event in self._callbacks.get(fd, {}):
            events |= event
        with self._lock:
            self._wanted[fd] = events
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake; closed: nobody has to
            self._waker.send(b"\0")

    def _ready(self, found: list[tuple[int, int]]) -> None:
        """On the loop: call back, and have what is still wanted looked at again."""
        for fd, events in found:
            for event in (selectors.EVENT_READ, selectors.EVENT_WRITE):
                callback = self._callbacks.get(fd, {}).get(event) if events & event else None
                if callback is not None:
                    self._loop.call_soon(callback)
        self._loop.call_soon(self._look_again, [fd for fd, _ in found])

    def _look_again(self, descriptors: list[int]) -> None:
        for fd in descriptors:
            if fd in self._callbacks:
                self._want(fd)

    # -- in the thread

    def _run(self) -> None:
        with self._awake, self._waker, selectors.DefaultSelector() as selector:
            selector.register(self._awake, selectors.EVENT_READ)
            while not self._closed:
                self._carry_out(selector)
                try:
                    found = [(key.fd, events) for key, events in selector.select() if key.fileobj is not self._awake]
                except OSError:  # one was closed without being taken out first: drop those that are gone
                    _drop_closed(selector)
                    continue
                with contextlib.suppress(OSError):
                    while self._awake.recv(4096):
                        pass
                for fd, _ in found:
                    selector.unregister(fd)
                if found and not self._tell(found):
                    return

    def _carry_out(self, selector: selectors.BaseSelector) -> None:
        with self._lock:
            wanted, self._wanted = self._wanted, {}
        for fd, events in wanted.items():
            if fd in selector.get_map():
                selector.unregister(fd)
            if events:
                with contextlib.suppress(ValueError, OSError):  # closed by now
                    selector.register(fd, events)

    def _tell(self, found: list[tuple[int, int]]) -> bool:
        """False when the loop is closed: nobody waits any more."""
        try:
            self._loop.call_soon_threadsafe(self._ready, found)
        except RuntimeError:
            return False
        return True


def _drop_closed(selector: selectors.BaseSelector) -> None:
    for key in list(selector.get_map().values()):
        try:
            with selectors.SelectSelector() as probe:
                probe.register(key.fd, key.events)
                probe.select(0)
        except (OSError, ValueError):
            selector.unregister(key.fd)
