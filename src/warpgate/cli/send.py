"""`warpgate send`: files and directories to a peer that runs `warpgate receive`, by TARGET or by a one-time code."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from warpgate.cli.address import draw_qr
from warpgate.cli.connecting import Journey
from warpgate.cli.options import UsageError
from warpgate.cli.outages import Outages
from warpgate.cli.shell import Shell
from warpgate.cli.status_door import told
from warpgate.cli.transfer_records import CodeShown, SentShown, Skipped
from warpgate.cli.transfer_view import TransferView
from warpgate.errors import TransferFailed
from warpgate.model.wanted import FILES_SERVICE
from warpgate.net.threads import in_thread
from warpgate.proto.transfer_wire import MAX_SHOWN
from warpgate.transfer.sender import send
from warpgate.transfer.source import Source, scan

if TYPE_CHECKING:
    from warpgate.core.codes import CodeExchange
    from warpgate.core.node import Node
    from warpgate.model.address import NodeAddress

PATIENCE = 120.0
INCOMPLETE = 1  # all the rest has arrived


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    text: str | None = arguments.text
    if text is None:
        files, arguments.target = split(arguments.words, arguments.to)
    else:
        files, arguments.target = [], target_of_text(text, arguments.words, arguments.to)
    journey = Journey.of(arguments, shell.settings.config)
    if journey.service:
        raise UsageError(f"files go to the service {FILES_SERVICE!r} of a peer: leave /{journey.service} out")
    journey = replace(journey, service=FILES_SERVICE)
    patience = PATIENCE if arguments.patience is None else arguments.patience
    if text is None:
        return shell.run(_send(shell, files, journey, patience, qr=arguments.qr))
    with TemporaryDirectory(prefix="warpgate-") as folder:
        place = Path(folder) / "text"
        place.write_text(text, encoding="utf-8", newline="")
        return shell.run(_send(shell, [place], journey, patience, qr=arguments.qr, text=True))


def target_of_text(text: str, words: Sequence[str], to: str | None) -> str | None:
    """UsageError for files beside it, for what is too long, and for bytes that are no text."""
    if len(words) > (to is None):
        raise UsageError("--text goes with no files")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UsageError("--text: it is not UTF-8") from None
    if size > MAX_SHOWN:
        raise UsageError(f"--text: {size} bytes are more than {MAX_SHOWN}; send them as a file")
    return to or (words[0] if words else None)


def split(words: Sequence[str], to: str | None) -> tuple[list[Path], str | None]:
    """Files, and the target. The last of several words is one if it is written like one, or names no file."""
    if not words:
        raise UsageError("say what to send: warpgate send FILE... [TARGET] (or --text TEXT)")
    *before, last = words
    like_a_target = last.startswith(("wg1", "@"))
    if to is not None or not (like_a_target or (before and not Path(last).exists())):
        return [Path(word) for word in words], to
    if not before:
        raise UsageError(f"say what to send: warpgate send FILE... {last[:12]}{'...' * (len(last) > 12)}")
    return [Path(word) for word in before], last


async def _send(
    shell: Shell, files: Sequence[Path], journey: Journey, patience: float, *, qr: bool, text: bool = False
) -> int:
    sources, complete = await _scanned(shell, files)
    told_of_outages = None if shell.output.json else Outages(shell.output).observe
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(shell.node(accept=False, observer=told_of_outages))
        await stack.enter_async_context(told(node, shell, "send"))
        if journey.target is None:
            offered = await stack.enter_async_context(node.offer_code())  # to the end: others are told that it is used
            journey = replace(journey, target=await _taken(offered, shell, qr=qr))
        with TransferView(shell.output) as view:
            for place, listed in enumerate(sources):
                # Until somebody had the code, or the files before it were sent, it may have become another.
                source = listed if listed.directory else await in_thread(lambda: scan(listed.places[0]))  # noqa: B023
                more = len(sources) - place - 1
                complete &= await _send_one(shell, node, source, journey, patience, view, more, text)
    return 0 if complete else INCOMPLETE


async def _scanned(shell: Shell, files: Sequence[Path]) -> tuple[list[Source], bool]:
    """What there is to send, and whether that is all: what cannot be is told. TransferFailed when nothing can."""
    sources: list[Source] = []
    complete = True
    for path in files:
        try:
            source = await in_thread(lambda: scan(path))  # noqa: B023 - called before the next round
        except TransferFailed as failure:
            if len(files) == 1:
                raise
            shell.output.warn(Skipped(str(path), str(failure)))
            complete = False
            continue
        for left_out in source.not_sent:
            shell.output.warn(Skipped(left_out.path, left_out.reason))
            complete = complete and not left_out.lost
        sources.append(source)
    if not sources:
        raise TransferFailed("nothing of this can be sent")
    return sources, complete


async def _taken(offered: CodeExchange, shell: Shell, *, qr: bool) -> NodeAddress:
    """Print the code and wait for the one who has it. CodeFailed."""
    code = str(offered.code)
    shell.output.show(CodeShown(code))
    if qr:
        shell.output.heading(draw_qr(code))
    return await offered.agreed()


async def _send_one(
    shell: Shell,
    node: Node,
    source: Source,
    journey: Journey,
    patience: float,
    view: TransferView,
    more: int,
    text: bool,
) -> bool:
    """Whether all of it has arrived that was listed."""
    began = time.monotonic()
    sent = await send(
        source, lambda: journey.connect(node), patience=patience, watcher=view.watch, more=more, text=text
    )
    shell.output.show(SentShown.of(sent, seconds=round(time.monotonic() - began, 3)))
    return not sent.left_out
