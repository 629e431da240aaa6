"""Sender and receiver with each other, over pipes in memory that break where they are told to."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from transfer_kit import ALICE, BLOB, Exchange, PipeInMemory, grow_a_tree, tree_of

from warpgate.errors import NetworkError, PipeClosed, ProtocolError, TransferFailed, TransferRefused
from warpgate.proto.transfer_names import partial_name
from warpgate.proto.transfer_wire import (
    Data,
)
from warpgate.transfer import admission, channel, sender
from warpgate.transfer.receiver import Receiver, Rules
from warpgate.transfer.reports import Advanced, Announced, Interrupted, LeftOut, Report, Transferred
from warpgate.transfer.sender import send
from warpgate.transfer.source import Reader, scan

HEAD = 200_000  # more than the offer and the list take
pytestmark = pytest.mark.usefixtures("quick")


class TestWhatArrives:
    async def test_a_file(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        os.utime(here / "blob", ns=(1, 1_234_567_890_123_456_789))
        (here / "blob").chmod(0o755)
        exchange = Exchange(there)
        done = await exchange.send(here / "blob")
        digest = hashlib.sha256(BLOB).hexdigest()
        assert done == Transferred("b" * 26, "blob", False, 1, len(BLOB), 0, digest)
        assert exchange.received == [Transferred(ALICE, "blob", False, 1, len(BLOB), 0, digest)]
        assert tree_of(there) == {"blob": BLOB}
        found = (there / "blob").stat()
        assert found.st_mtime_ns == 1_234_567_890_123_456_789
        assert found.st_mode & stat.S_IXUSR
        assert exchange.told[0] == Announced("b" * 26, "blob", False, 1, len(BLOB))
        assert [report.done for report in exchange.advances][-1] == len(BLOB)

    async def test_an_executable_is_one_for_those_who_may_read_it_and_others_are_none(
        self, folders: tuple[Path, Path]
    ) -> None:
        here, there = folders
        for name, mode in (("program", 0o700), ("text", 0o666)):
            (here / name).touch()
            (here / name).chmod(mode)
            await Exchange(there).send(here / name)
        before = os.umask(0)
        os.umask(before)
        assert stat.S_IMODE((there / "program").stat().st_mode) == 0o777 & ~before
        assert stat.S_IMODE((there / "text").stat().st_mode) == 0o666 & ~before

    async def test_a_directory(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        grow_a_tree(here)
        exchange = Exchange(there)
        done = await exchange.send(here / "tree")
        assert (done.files, done.sha256) == (153, "")
        assert tree_of(there) == tree_of(here)

    @pytest.mark.parametrize("directory", [False, True])
    async def test_nothing_at_all(self, folders: tuple[Path, Path], directory: bool) -> None:
        here, there = folders
        (here / "empty").mkdir() if directory else (here / "empty").touch()
        await Exchange(there).send(here / "empty")
        assert tree_of(there) == {"empty": None if directory else b""}

    async def test_a_huge_file_with_holes_is_read_and_written_in_blocks(
        self, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here, there = folders
        with (here / "sparse").open("wb") as file:
            file.truncate(20_000_000)
        exchange = Exchange(there)
        await exchange.send(here / "sparse")
        assert (there / "sparse").stat().st_size == 20_000_000
        # What is on its way is a buffer in the pipe, one block at each end, never the file.
        assert max(pipe.out.carried for pipe in exchange.pipes) > 20_000_000
        assert len(exchange.advances) >= 20


class TestBreaks:
    async def test_it_goes_on_where_it_broke(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        exchange = Exchange(there, limits=[1_500_000, HEAD, 900_000])
        done = await exchange.send(here / "blob")
        assert tree_of(there) == {"blob": BLOB}
        assert len(exchange.pipes) == 4
        assert done.resumed > 2_000_000
        assert exchange.carried < len(BLOB) + 4 * 1_100_000  # at most what was not written yet comes twice
        assert [type(report) for report in exchange.told].count(Interrupted) == 3

    async def test_a_directory_goes_on_too(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        grow_a_tree(here)
        exchange = Exchange(there, limits=[700_000, 600_000])
        done = await exchange.send(here / "tree")
        assert tree_of(there) == tree_of(here)
        assert done.resumed > 0

    async def test_until_it_is_complete_there_is_only_a_hidden_part(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        exchange = Exchange(there, limits=[2_000_000] * 9)
        with pytest.raises(TransferFailed, match="nothing got through for 1e-09 s"):
            await exchange.send(here / "blob", patience=1e-9)
        await exchange.over()
        ((name, part),) = tree_of(there).items()
        assert name == partial_name("blob", ALICE) == f".blob.{ALICE[:12]}.wgpart"
        assert BLOB.startswith(part)
        assert len(part) >= 1 << 20
        again = Exchange(there)  # another process, later
        done = await again.send(here / "blob")
        assert done.resumed == len(part)
        assert tree_of(there) == {"blob": BLOB}

    async def test_a_file_that_has_changed_meanwhile_is_not_glued(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        exchange = Exchange(there, limits=[2_000_000])
        with pytest.raises(TransferFailed):
            await exchange.send(here / "blob", patience=1e-9)
        await exchange.over()
        changed = b"!" + BLOB[1:]
        (here / "blob").write_bytes(changed)
        done = await Exchange(there).send(here / "blob")
        assert done.resumed == 0
        assert tree_of(there) == {"blob": changed}

    async def test_a_file_that_has_become_shorter_or_a_directory(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        for content in (BLOB[:1_200_000], b"", None):
            (here / "blob").write_bytes(BLOB)
            exchange = Exchange(there, limits=[2_000_000])
            with pytest.raises(TransferFailed):
                await exchange.send(here / "blob", patience=1e-9)
            await exchange.over()
            (here / "blob").unlink()
            (here / "blob").mkdir() if content is None else (here / "blob").write_bytes(content)
            await Exchange(there).send(here / "blob")
            assert tree_of(there) == {"blob": content}
            (there / "blob").rmdir() if content is None else (there / "blob").unlink()

    async def test_what_is_gone_from_a_directory_meanwhile_does_not_arrive(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        grow_a_tree(here)
        exchange = Exchange(there, limits=[1_300_000])
        with pytest.raises(TransferFailed):
            await exchange.send(here / "tree", patience=1e-9)
        await exchange.over()
        (here / "tree" / "a" / "deep" / "blob").unlink()
        (here / "tree" / "a" / "deep").rmdir()
        (here / "tree" / "empty").rmdir()
        (here / "tree" / "empty").touch()
        await Exchange(there).send(here / "tree")
        assert tree_of(there) == tree_of(here)

    async def test_done_that_was_lost_is_said_again(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        (here / "small").write_bytes(b"x")
        exchange = Exchange(there)
        # As soon as the file is in its place, before the sender knows.
        exchange.at_report = lambda report: exchange.pipes[0].abort() if isinstance(report, Transferred) else None
        done = await exchange.send(here / "small")
        assert len(exchange.pipes) == 2
        assert (done.name, tree_of(there)) == ("small", {"small": b"x"})

    async def test_a_sender_that_comes_back_takes_the_place_of_its_earlier_connection(
        self, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The receiver has not noticed the break: its connection just falls silent."""
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        monkeypatch.setattr(channel, "SILENCE", 0.3)
        exchange = Exchange(there)

        def mute(pipe: PipeInMemory) -> None:
            put = pipe.out.put

            async def put_or_hang(data: bytes) -> None:
                await (put(data) if pipe.out.carried < 1_500_000 else asyncio.Event().wait())

            pipe.out.put = put_or_hang  # type: ignore[method-assign]

        exchange.at_pipe = lambda pipe: mute(pipe) if len(exchange.pipes) == 1 else None
        done = await exchange.send(here / "blob")
        assert done.resumed > 1_000_000
        assert tree_of(there) == {"blob": BLOB}

    async def test_another_run_of_the_sender_need_not_wait_until_the_end_of_the_first_is_known(
        self, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first was killed: it is silent, and the connection looks open for another half a minute."""
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        monkeypatch.setattr(admission, "STALE_AFTER", 0.05)
        exchange = Exchange(there)
        killed = asyncio.Event()

        def mute(pipe: PipeInMemory) -> None:
            put = pipe.out.put

            async def put_or_hang(data: bytes) -> None:
                if pipe.out.carried >= 1_500_000:
                    killed.set()
                    await asyncio.Event().wait()
                await put(data)

            pipe.out.put = put_or_hang  # type: ignore[method-assign]

        exchange.at_pipe = lambda pipe: mute(pipe) if len(exchange.pipes) == 1 else None
        first = asyncio.ensure_future(exchange.send(here / "blob"))
        await killed.wait()
        done = await exchange.send(here / "blob")
        assert done.resumed > 1_000_000
        assert tree_of(there) == {"blob": BLOB}
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    async def test_another_send_of_the_same_name_waits_for_the_first(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        exchange = Exchange(there, overwrite=True)
        both = await asyncio.gather(exchange.send(here / "blob"), exchange.send(here / "blob"))
        assert {done.size for done in both} == {len(BLOB)}
        assert tree_of(there) == {"blob": BLOB}

    async def test_a_peer_that_is_no_receiver(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        (here / "small").write_bytes(b"x")
        exchange = Exchange(there)
        near = await exchange.connect()
        near.abort()

        async def connect() -> object:
            return near

        with pytest.raises(ProtocolError, match="warpgate receive"):
            await sender.send(scan(here / "small"), connect, patience=30.0)  # type: ignore[arg-type]
        await exchange.over()


class TestLeftOut:
    @pytest.mark.parametrize("moment", ["before", "in the middle", "after a break"])
    @pytest.mark.parametrize("overwrite", [False, True])
    async def test_a_file_of_a_directory_that_is_cut_does_not_cost_the_others(
        self, folders: tuple[Path, Path], moment: str, overwrite: bool
    ) -> None:
        here, there = folders
        grow_a_tree(here)
        victim = here / "tree" / "a" / "deep" / "blob"
        if overwrite:
            (there / "tree" / "a" / "deep").mkdir(parents=True)
            (there / "tree" / "a" / "deep" / "blob").write_bytes(b"mine")
        exchange = Exchange(there, overwrite=overwrite, limits=[1_300_000] if moment == "after a break" else [])
        source = scan(here / "tree")
        expected = tree_of(here)

        def cut(report: Report) -> None:
            exchange.told.append(report)
            ripe = isinstance(report, Advanced) and report.current == "a/deep/blob" and report.done >= 1_000_000
            if ripe or isinstance(report, Interrupted):
                os.truncate(victim, 10)

        if moment == "before":
            victim.unlink()
        done = await sender.send(source, exchange.connect, patience=30.0, watcher=cut)
        await exchange.over()
        if overwrite:
            expected["tree/a/deep/blob"] = b"mine"
        else:
            del expected["tree/a/deep/blob"]
        assert tree_of(there) == expected
        assert (done.left_out, exchange.received[0].left_out) == (1, 1)
        assert exchange.received[0].files == 152
        assert [report.path for report in exchange.told if isinstance(report, LeftOut)] == ["a/deep/blob"]
        assert [report.path for report in exchange.heard if isinstance(report, LeftOut)] == ["a/deep/blob"]
        assert exchange.advances[-1].done == source.size


class TestIdentical:
    async def test_what_is_there_already(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        grow_a_tree(here)
        for name in ("blob", "tree"):
            first = await Exchange(there).send(here / name)
            before = tree_of(there)
            again = Exchange(there)
            done = await again.send(here / name)
            assert (first.identical, done.identical, again.received[0].identical) == (False, True, True)
            assert again.carried < 50_000
            assert tree_of(there) == before

    @pytest.mark.parametrize("change", ["blob", "small3", "a/nothing"])
    async def test_what_is_another_is_refused(self, folders: tuple[Path, Path], change: str) -> None:
        here, there = folders
        grow_a_tree(here)
        (here / "tree" / "blob").write_bytes(BLOB)
        await Exchange(there).send(here / "tree")
        place = there / "tree" / change
        place.write_bytes(b"!" * place.stat().st_size if place.stat().st_size else b"!")
        before = tree_of(there)
        with pytest.raises(TransferRefused) as refusal:
            await Exchange(there).send(here / "tree")
        assert refusal.value.reason == "exists"
        assert tree_of(there) == before

    async def test_a_stranger_learns_nothing_of_what_is_there(self, folders: tuple[Path, Path]) -> None:
        """Unless it brought that itself."""
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        (there / "blob").write_bytes(BLOB)
        exchange = Exchange(there, rules=Rules())
        with pytest.raises(TransferRefused, match="exists already"):
            await exchange.send(here / "blob")
        (there / "blob").unlink()
        await exchange.send(here / "blob")
        assert (await exchange.send(here / "blob")).identical

    async def test_a_link_is_not_compared(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        (tmp_path / "secret").write_bytes(BLOB)
        (there / "blob").symlink_to(tmp_path / "secret")
        with pytest.raises(TransferRefused, match="exists already"):
            await Exchange(there).send(here / "blob")


class TestSilence:
    async def test_signs_of_life_go_both_ways_while_nothing_else_does(
        self, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The sender needs longer for its hash than silence may last."""
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        with pytest.raises(TransferFailed):
            await (first := Exchange(there, limits=[2_000_000])).send(here / "blob", patience=1e-9)
        await first.over()
        monkeypatch.setattr(channel, "SIGN_OF_LIFE", 0.05)
        monkeypatch.setattr(channel, "SILENCE", 0.5)
        skip = Reader.skip

        def slow_skip(reader: Reader, index: int, count: int) -> int:
            time.sleep(1.0)  # a disk from long ago, in the sender's thread
            return skip(reader, index, count)

        monkeypatch.setattr(Reader, "skip", slow_skip)
        exchange = Exchange(there)
        done = await exchange.send(here / "blob")
        assert len(exchange.pipes) == 1
        assert done.resumed > 1_000_000

    async def test_a_peer_that_says_nothing_is_given_up(
        self, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(channel, "SILENCE", 0.1)
        near, far = PipeInMemory.pair()
        with pytest.raises(NetworkError, match=r"has said nothing for 0\.1 s"):
            await Receiver(folders[1]).take(far)  # type: ignore[arg-type]
        assert far.aborted
        with pytest.raises(PipeClosed):
            await near.recv()

    async def test_a_sender_of_little_patience_gives_it_up_sooner(
        self, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (blob := folders[0] / "blob").write_bytes(BLOB)
        monkeypatch.setattr(channel, "SHORTEST_SILENCE", 0.1)
        near, _ = PipeInMemory.pair()

        async def connect() -> Any:
            return near

        with pytest.raises(ProtocolError, match=r"has said nothing for 0\.1 s"):
            await send(scan(blob), connect, patience=0.05)

    async def test_a_peer_that_takes_nothing_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(channel, "SILENCE", 0.1)
        near, _ = PipeInMemory.pair()
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(pytest.raises(NetworkError, match="has taken nothing"))
            opened = await stack.enter_async_context(channel.Channel(near))  # type: ignore[arg-type]
            while True:
                await opened.send(Data(bytes(60_000)))
