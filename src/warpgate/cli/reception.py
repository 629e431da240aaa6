"""Files that peers send, taken into a folder: what `receive` and `listen --receive` have in common."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from warpgate.cli.asking import Doorkeeper
from warpgate.cli.options import UsageError
from warpgate.cli.shell import Shell
from warpgate.cli.transfer_records import NotReceived, ReceivedShown, TextShown
from warpgate.cli.transfer_view import TransferView
from warpgate.errors import TransferFailed, TransferRefused, WarpgateError
from warpgate.proto.transfer_wire import Reason
from warpgate.transfer.receiver import Receiver, Rules

if TYPE_CHECKING:
    from warpgate.core.pipes.base import Pipe


def writable(text: str) -> Path:
    """A directory to put files into. UsageError when it is none, or cannot be written to."""
    folder = Path(text)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"the directory {folder} cannot be written to")
    return folder


class Reception:
    """Takes what peers send into a folder, and tells.

    `asking`: the person at the terminal decides about each stranger's offer.
    """

    def __init__(
        self, shell: Shell, folder: Path, rules: Rules, *, overwrite: bool = False, asking: bool = False
    ) -> None:
        self._shell = shell
        self.folder = folder
        self._overwrite = overwrite
        self._rules = rules
        self._asking = asking
        self.view = TransferView(shell.output)
        self._receiver = self._receiver_by(rules)
        self.received = asyncio.Event()
        self.failed = asyncio.Event()  # a transfer ended in a way that is not made good by another try

    def trust(self, sender: str) -> None:
        """This peer is a known one from now on."""
        self._receiver = self._receiver_by(replace(self._rules, known={sender}))

    def warn_of_strangers(self) -> None:
        if not self._asking:
            self._shell.output.note(f"whoever has this address may put files into {self.folder} (--allow says who)")

    def _receiver_by(self, rules: Rules) -> Receiver:
        doorkeeper = Doorkeeper(self._shell.output, self.view.paused)
        return Receiver(
            self.folder,
            overwrite=self._overwrite,
            rules=rules,
            consent=doorkeeper.consent if self._asking else None,
            watcher=self.view.watch,
        )

    async def take(self, pipe: Pipe) -> None:
        """One pipe from start to end; what goes wrong with it concerns no other."""
        output = self._shell.output
        try:
            if not pipe.secure:
                raise TransferRefused("files are taken by encrypted pipes alone", Reason.PROTOCOL)
            done = await self._receiver.take(pipe)
        except (WarpgateError, OSError) as error:
            reason = error.reason if isinstance(error, TransferRefused) else ""
            output.warn(NotReceived(pipe.peer, str(error), reason))
            if isinstance(error, TransferFailed) and reason != Reason.BUSY:
                self.failed.set()
        else:
            if done.text is None:
                output.show(ReceivedShown.of(done, path=str(self.folder / done.name)))
            else:
                output.show(TextShown(done.peer, tuple(done.text.splitlines())))
            if not done.more:
                self.received.set()
