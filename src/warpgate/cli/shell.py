"""What a command gets to work with, and how an asynchronous one runs until it is done or told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpgate.cli import words
from warpgate.cli.output import Output
from warpgate.cli.settings import Settings
from warpgate.cli.terminal import in_one_line
from warpgate.cli.words import clocks_differ
from warpgate.config import Config
from warpgate.events import (
    ClocksDiffer,
    ContactPinned,
    Event,
    Observer,
    PeerSilent,
    PeerTwinned,
    SignalRefused,
    StrangerRefused,
    TwinFound,
)
from warpgate.lazy_dataclass import dataclass
from warpgate.platform import PROCESSES

if TYPE_CHECKING:
    from warpgate.core.names.known_peers import ContactBook
    from warpgate.core.node import Node

NodeMaker = Callable[[Config, Observer], "Node"]
CLOCKS_TOLD = 100
TELL_AGAIN = 60.0
TELL_AT_MOST = 10
TERMINATED = 128 + signal.SIGTERM  # what a shell reports for a program ended by SIGTERM


class Sparingly:
    """What peers bring about is told once a minute of each, and of ten of them."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def may_tell(self, peer: str, now: float) -> bool:
        self._told = {each: at for each, at in self._told.items() if now - at < TELL_AGAIN}
        if peer in self._told or len(self._told) >= TELL_AT_MOST:
            return False
        self._told[peer] = now
        return True


@dataclass(frozen=True, slots=True)
class Shell:
    """One run of one command."""

    settings: Settings
    output: Output
    node_maker: NodeMaker

    def node(
        self,
        *,
        accept: bool,
        beside: bool | None = None,
        allow: frozenset[str] | None = None,
        observer: Observer | None = None,
    ) -> Node:
        """A node, not started yet: use it with `async with`. ConfigError when the identity cannot be had.

        `beside` as in `Config`: False for a command that only shows what the node that accepts has, or would have.
        `observer` is given every event after the output.
        """

        turned_away, silent, twinned = Sparingly(), Sparingly(), Sparingly()
        told: set[str] = set()  # whose clock differs; bounded, as anybody may come with a wrong one

        def observe(event: Event) -> None:
            self.output.observe(event)
            if isinstance(event, ClocksDiffer) and event.peer not in told and len(told) < CLOCKS_TOLD:
                told.add(event.peer)
                self.output.note(clocks_differ(event.peer, event.ahead))
            if self.output.verbose:
                pass  # all of these are events, and told already
            elif isinstance(event, PeerSilent):
                if silent.may_tell(event.peer, time.monotonic()):  # a durable pipe is looked for by two searches
                    self.output.note(event.reason)
            elif isinstance(event, PeerTwinned):  # by each pipe to it
                if twinned.may_tell(event.peer, time.monotonic()):
                    self.output.note(words.peer_twinned(event.peer, event.reason))
            elif isinstance(event, TwinFound):
                self.output.note(words.describe(event))
            elif (
                (isinstance(event, SignalRefused) and event.told) or (isinstance(event, StrangerRefused) and event.peer)
            ) and turned_away.may_tell(event.peer, time.monotonic()):
                self.output.notice(event, words.turned_away(event.peer, event.reason))
            if isinstance(event, ContactPinned):
                self.output.note(f"{event.name} is {event.node_id}: from now on it must have this key")
            if observer is not None:
                observer(event)

        return self.node_maker(replace(self.settings.config, accept=accept, beside=beside, allow=allow), observe)

    def secured(self) -> Shell:
        """The same for a command whose node takes only encrypted pipes."""
        config = replace(self.settings.config, secure_only=True)
        return replace(self, settings=replace(self.settings, config=config))

    def run(self, work: Coroutine[Any, Any, int], *, stopped: int = TERMINATED) -> int:
        """Run to the end, or until SIGTERM or SIGHUP: then `work` is cancelled and the status is `stopped`.

        SIGINT cancels in the same way and raises KeyboardInterrupt afterwards.
        """
        if logging.lastResort is not None:
            logging.lastResort.setFormatter(_OneLine("warpgate: log: %(message)s"))
        with asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(self._report_stray)
            return runner.run(_until_told_to_stop(work, stopped))

    def _report_stray(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio's own report of an error nobody waited for would be a traceback."""
        if self.output.verbose:
            self.output.note(f"{context['message']}: {context.get('exception')!r}")


class _OneLine(logging.Formatter):
    """For what libraries log and nobody handles: asyncio, and those beneath it, quote what they were sent."""

    def format(self, record: logging.LogRecord) -> str:
        return in_one_line(super().format(record))


def make_node(config: Config, observer: Observer) -> Node:
    """The real node, with the identity kept on disk."""
    from warpgate.core.node import Node  # noqa: PLC0415 - slow imports, only where needed

    return Node(replace(config, known_peers=str(contact_book(config).path)), observer=observer)


def contact_book(config: Config) -> ContactBook:
    """Where nicknames are pinned: the user's own, unless the settings name another."""
    from warpgate.core.names.known_peers import ContactBook, default_path  # noqa: PLC0415 - only where needed

    return ContactBook(default_path() if config.known_peers is None else Path(config.known_peers))


async def _until_told_to_stop(work: Coroutine[Any, Any, int], stopped: int) -> int:
    task = asyncio.ensure_future(work)
    told = asyncio.Event()

    def stop() -> None:
        told.set()
        task.cancel()

    PROCESSES.on_stop(stop)
    try:
        return await task
    except asyncio.CancelledError:
        if told.is_set():
            return stopped
        raise
