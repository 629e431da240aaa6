"""What sender and receiver refuse, and what they say then; over pipes in memory."""

from __future__ import annotations

import hashlib
import os
import resource
from pathlib import Path

import pytest
from transfer_kit import ALICE, BLOB, Exchange, grow_a_tree, tree_of

from warpgate.errors import TransferFailed, TransferRefused
from warpgate.proto.transfer_names import partial_name
from warpgate.proto.transfer_wire import (
    AnyMessage,
    Begin,
    Data,
    Deframer,
    End,
    Entries,
    Entry,
    Have,
    Offer,
    Refused,
    encode,
)
from warpgate.transfer import sender
from warpgate.transfer.reports import Advanced, Interrupted, Report
from warpgate.transfer.source import scan

HEAD = 200_000  # more than the offer and the list take
pytestmark = pytest.mark.usefixtures("quick")


class TestRefusals:
    async def test_nothing_is_overwritten(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        (there / "blob").write_bytes(b"mine")
        exchange = Exchange(there)
        with pytest.raises(TransferRefused, match="'blob' exists already") as refusal:
            await exchange.send(here / "blob")
        assert refusal.value.reason == "exists"
        await exchange.over()
        assert exchange.carried < 1000  # before any data
        assert tree_of(there) == {"blob": b"mine"}

    async def test_unless_told_so(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        (there / "blob").write_bytes(b"mine")
        await Exchange(there, overwrite=True).send(here / "blob")
        assert tree_of(there) == {"blob": BLOB}
        grow_a_tree(here)
        (there / "tree" / "a").mkdir(parents=True)
        (there / "tree" / "a" / "nothing").write_bytes(b"old")
        (there / "tree" / "mine").write_bytes(b"stays")
        await Exchange(there, overwrite=True).send(here / "tree")
        assert tree_of(there) == {**tree_of(here), "tree/mine": b"stays"}

    @pytest.mark.parametrize("overwrite", [False, True])
    async def test_a_link_is_not_followed_out_of_the_directory(
        self, folders: tuple[Path, Path], tmp_path: Path, overwrite: bool
    ) -> None:
        here, there = folders
        grow_a_tree(here)
        (outside := tmp_path / "outside").mkdir()
        (there / "tree").symlink_to(outside)
        with pytest.raises(TransferRefused):
            await Exchange(there, overwrite=overwrite).send(here / "tree")
        (there / "tree").unlink()
        (there / "tree").mkdir()
        (there / "tree" / "a").symlink_to(outside)
        with pytest.raises(TransferRefused):
            await Exchange(there, overwrite=overwrite).send(here / "tree")
        assert list(outside.iterdir()) == []

    async def test_nor_out_of_the_hidden_part(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        here, there = folders
        grow_a_tree(here)
        (outside := tmp_path / "outside").mkdir()
        (outside / "nothing").write_bytes(b"kept")
        hidden = there / partial_name("tree", ALICE)
        hidden.mkdir()
        (hidden / "a").symlink_to(outside)
        (hidden / "small3").symlink_to(outside / "nothing")
        await Exchange(there).send(here / "tree")
        assert tree_of(there) == tree_of(here)
        assert tree_of(outside) == {"nothing": b"kept"}

    async def test_what_does_not_fit(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        with (here / "huge").open("wb") as file:
            file.truncate(2**43)
        with pytest.raises(TransferRefused, match="do not fit") as refusal:
            await Exchange(there).send(here / "huge")
        assert refusal.value.reason == "space"
        assert tree_of(there) == {}

    async def test_a_disk_that_is_full_in_the_middle(self, folders: tuple[Path, Path]) -> None:
        """The kernel's limit for the size of a file stands for it."""
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, before[1]))
        try:
            with pytest.raises(TransferRefused, match="'blob': File too large") as refusal:
                await Exchange(there).send(here / "blob")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert refusal.value.reason == "space"
        done = await Exchange(there).send(here / "blob")
        assert done.resumed == 1_500_000
        assert tree_of(there) == {"blob": BLOB}

    async def test_what_arrives_with_another_hash_is_deleted(self, folders: tuple[Path, Path]) -> None:
        _, there = folders
        exchange = Exchange(there)
        pipe = await exchange.connect()
        entry = Entry((), False, 3, 0, False)
        for message in (Offer(1, bytes(16), "x", False, 1, 3), Entries((entry,)), Begin(0, 0), Data(b"abc")):
            await pipe.send(encode(message))
        await pipe.send(encode(End(hashlib.sha256(b"abd").digest())))
        answers = Deframer()
        said: list[AnyMessage] = []
        while not said or isinstance(said[-1], Have):
            said += answers.feed(await pipe.recv())
        assert isinstance(said[-1], Refused)
        assert said[-1].reason == "mismatch"
        await pipe.close()
        await exchange.over()
        assert tree_of(there) == {}
        assert [getattr(failure, "reason", "") for failure in exchange.failures] == ["mismatch"]

    async def test_a_directory_that_has_gone(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        (here / "small").write_bytes(b"x")
        exchange = Exchange(there)
        there.rmdir()
        with pytest.raises(TransferRefused, match="No such file") as refusal:
            await exchange.send(here / "small")
        assert refusal.value.reason == "files"

    async def test_a_file_that_changes_while_it_is_sent(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        exchange = Exchange(there)
        source = scan(here / "blob")
        os.truncate(here / "blob", 1000)
        with pytest.raises(TransferFailed, match="was changed while"):
            await sender.send(source, exchange.connect, patience=30.0)
        await exchange.over()
        (failure,) = exchange.failures
        assert str(failure).startswith("the sender gave up")

    @pytest.mark.parametrize(
        "change", ["grows", "shrinks", "is replaced", "is written anew", "is written anew, longer"]
    )
    @pytest.mark.parametrize("moment", ["in the middle", "after a break"])
    async def test_a_file_that_changes_in_the_middle(
        self, folders: tuple[Path, Path], change: str, moment: str
    ) -> None:
        """One state of the file arrives, or it is told; `reversed` is another content of the same length."""
        here, there = folders
        (here / "blob").write_bytes(BLOB)
        broken = moment == "after a break"
        exchange = Exchange(there, limits=[1_300_000] if broken else [])
        left = [moment]

        def alter(report: Report) -> None:
            ripe = isinstance(report, Interrupted) or (not broken and isinstance(report, Advanced) and report.done)
            if left and ripe:
                left.clear()
                _change(here / "blob", change)

        sending = sender.send(scan(here / "blob"), exchange.connect, patience=30.0, watcher=alter)
        if change == "grows" or (change == "is replaced" and not broken):
            await sending  # what is replaced stays the file that was opened
            await exchange.over()
            assert tree_of(there) == {"blob": BLOB}
            return
        with pytest.raises(TransferFailed, match=r"was (changed|cut) while it was being sent"):
            await sending
        await exchange.over()
        assert "blob" not in tree_of(there)
        assert str(exchange.failures[-1]).startswith("the sender gave up")


def _change(file: Path, change: str) -> None:
    match change:
        case "grows":
            with file.open("ab") as log:
                log.write(b"more")
        case "shrinks":
            os.truncate(file, 1_000_000)
        case "is replaced":
            (file.parent / "new").write_bytes(BLOB[::-1] + b"longer")
            (file.parent / "new").replace(file)
        case "is written anew":
            file.write_bytes(BLOB[::-1])
        case _:
            file.write_bytes(BLOB[::-1] + b"longer")
