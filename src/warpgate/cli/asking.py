"""Asking the person at the terminal, one question at a time, without holding up anything else.

What is on the line before a question is thrown away: nobody agrees to something by keys pressed earlier.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from warpgate.cli.transfer_records import in_bytes
from warpgate.model.recent import Recent
from warpgate.model.text import printable
from warpgate.platform import TERMINAL

if TYPE_CHECKING:
    from warpgate.cli.output import Output
    from warpgate.transfer.reports import Announced

# Seconds for an answer, the questions before this one included. A sender's patience is longer.
ANSWER_PATIENCE = 60.0
# Peers that were told no are not asked about again; keys are free, so there is an end to it.
REMEMBERED = 256
_LONGEST_NAME = 80
_STDIN = 0


def at_terminal() -> bool:
    """Whether there is somebody who can read a question and answer it."""
    try:
        return os.isatty(_STDIN) and sys.stderr is not None and sys.stderr.isatty()
    except (OSError, ValueError):
        return False


class Doorkeeper:
    """`consent` for a receiver: whether to take what a stranger offers. `quiet`: a block in which nothing is drawn."""

    def __init__(self, output: Output, quiet: Callable[[], AbstractContextManager[None]]) -> None:
        self._output = output
        self._quiet = quiet
        self._asking = asyncio.Lock()
        self._refused: Recent[str, None] = Recent(REMEMBERED)

    async def consent(self, told: Announced) -> bool:
        """False also when nobody answers in time, or the terminal is somebody else's at the moment."""
        if told.peer in self._refused:
            return False
        try:
            async with asyncio.timeout(ANSWER_PATIENCE), self._asking:
                agreed = await self._ask(told)
        except TimeoutError:
            self._output.note(f"no answer: nothing is taken from {told.peer}")
            return False
        if not agreed:
            self._refused[told.peer] = None
        return agreed

    async def _ask(self, told: Announced) -> bool:
        what = f"{told.files} files, " if told.directory else ""
        offered = f"'{printable(told.name, _LONGEST_NAME)}' ({what}{in_bytes(told.size)})"
        question = f"{told.peer} wants to send {offered}. Take it?"
        if not TERMINAL.is_ours(_STDIN):
            self._output.note(f"{question} Nobody can be asked in the background: --yes or --allow answers it")
            return False
        with self._quiet():
            TERMINAL.forget_typed(_STDIN)
            self._output.prompt(f"{question} [y/N] ")
            try:
                answer = await TERMINAL.line(_STDIN)
            except BaseException:
                self._output.prompt("\n")
                raise
        return answer.strip().lower() in ("y", "yes")
