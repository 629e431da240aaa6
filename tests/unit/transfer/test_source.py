"""What a sender finds to send, and reading it."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from warpgate.errors import TransferFailed, TransferRefused
from warpgate.transfer import source
from warpgate.transfer.source import Reader, scan


def test_a_directory_stands_before_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "top" / "b" / "c").mkdir(parents=True)
    for name in ("z", "a", "b/c/file"):
        (tmp_path / "top" / name).write_bytes(name.encode())
    found = scan(tmp_path / "top")
    assert [entry.path for entry in found.entries] == [("a",), ("b",), ("b", "c"), ("b", "c", "file"), ("z",)]
    assert (found.name, found.directory, found.files, found.size) == ("top", True, 3, 10)
    assert [place.name for place in found.places] == ["a", "b", "c", "file", "z"]


@pytest.mark.parametrize("given", [".", "../top", "b/.."])
def test_the_name_is_that_of_the_directory_however_it_is_written(
    tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "top" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "top")
    assert scan(Path(given)).name == "top"


def test_only_what_is_named_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "to-file").symlink_to(tmp_path / "file")
    (tmp_path / "top" / "to-folder").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "top" / "fifo")
    found = scan(tmp_path / "link")
    assert (found.name, found.size) == ("link", 7)
    assert Reader(found).next(0, 7, last=True)[0] == b"content"
    left_out = scan(tmp_path / "top").not_sent
    assert [(one.path, one.lost) for one in left_out] == [
        ("fifo", False),
        ("to-file", False),
        ("to-folder", False),
    ]
    assert scan(tmp_path / "top").entries == ()


@pytest.mark.parametrize(
    ("name", "message"), [("no such file", "No such file"), ("fifo", "neither a file nor a directory")]
)
def test_what_cannot_be_sent(tmp_path: Path, name: str, message: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(TransferFailed, match=message):
        scan(tmp_path / name)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"\x1b[2J", b"Icon\r", "a\u202egpj.exe".encode()])
@pytest.mark.parametrize("directory", [False, True])
def test_names_that_others_may_not_have_are_left_out(tmp_path: Path, name: bytes, directory: bool) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "good").touch()
    bad = tmp_path / "top" / os.fsdecode(name)
    if directory:
        bad.mkdir()
        (bad / "below").touch()
    else:
        bad.touch()
    found = scan(tmp_path / "top")
    assert [entry.path for entry in found.entries] == [("good",)]
    (left_out,) = found.not_sent
    assert left_out.lost
    assert left_out.reason.isprintable()
    with pytest.raises(TransferRefused) as refusal:
        scan(bad)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("name", ["secret", "folder"])
def test_what_may_not_be_read_is_left_out(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything: the kernel's answer is played."""
    (tmp_path / "top" / "folder").mkdir(parents=True)
    for file in ("folder/below", "secret", "good"):
        (tmp_path / "top" / file).touch()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != name and access(path, mode))
    found = scan(tmp_path / "top")
    assert ("good",) in [entry.path for entry in found.entries]
    assert name not in {entry.path[0] for entry in found.entries}
    assert [(one.path, one.reason, one.lost) for one in found.not_sent] == [(name, "Permission denied", True)]


def test_a_directory_that_goes_while_it_is_listed_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "top" / "a").mkdir(parents=True)
    (tmp_path / "top" / "b").touch()
    scandir = os.scandir

    def gone(path: Path) -> object:
        if path.name == "a":
            raise FileNotFoundError(2, "No such file or directory")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", gone)
    found = scan(tmp_path / "top")
    assert ("b",) in [entry.path for entry in found.entries]
    assert [one.path for one in found.not_sent] == ["a"]


def test_what_grows_is_sent_as_long_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"0123456789")
    reader = Reader(scan(tmp_path / "log"))
    assert reader.next(0, 4, last=False)[0] == b"0123"
    with (tmp_path / "log").open("ab") as file:
        file.write(b"more")
    assert reader.next(0, 6, last=True) == (b"456789", hashlib.sha256(b"0123456789").digest())


def test_the_root_has_no_name() -> None:
    with pytest.raises(TransferRefused):
        scan(Path("/"))


def test_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpgate.proto.transfer_names.MAX_ENTRIES", 3)
    for number in range(4):
        (tmp_path / str(number)).touch()
    with pytest.raises(TransferRefused, match="more than 3 files"):
        scan(tmp_path)


class TestReading:
    def test_in_parts_with_the_hash_at_the_end(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"0123456789")
        reader = Reader(scan(tmp_path / "file"))
        assert reader.next(0, 4, last=False) == (b"0123", None)
        assert reader.next(0, 6, last=True) == (b"456789", hashlib.sha256(b"0123456789").digest())

    def test_what_the_receiver_has_is_compared(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"0123456789")
        reader = Reader(scan(tmp_path / "file"))
        assert reader.skip(0, 4) == 4
        assert reader.is_behind(hashlib.sha256(b"0123").digest())
        assert reader.next(0, 6, last=True)[0] == b"456789"
        assert reader.skip(0, 4) == 4
        assert not reader.is_behind(hashlib.sha256(b"9999").digest())
        assert reader.next(0, 10, last=True)[0] == b"0123456789"

    @pytest.mark.parametrize("moment", ["before", "in the middle"])
    @pytest.mark.parametrize("change", ["shorter", "other", "gone", "a link"])
    def test_a_file_that_changes(self, tmp_path: Path, moment: str, change: str) -> None:
        (tmp_path / "top").mkdir()
        file = tmp_path / "top" / "file"
        file.write_bytes(b"0123456789")
        reader = Reader(scan(tmp_path / "top"))
        if moment == "in the middle":
            reader.next(0, 4, last=False)
        match change:
            case "shorter":
                os.truncate(file, 8)
            case "other":
                file.write_bytes(b"9876543210")
                os.utime(file, (1, 1))
            case "gone":
                file.unlink()
            case _:
                file.unlink()
                file.symlink_to("/etc/hostname")
        if moment == "in the middle" and change in ("gone", "a link"):
            assert reader.next(0, 6, last=True)[0] == b"456789"  # it is the file that we have open
            return
        with pytest.raises(TransferFailed):
            reader.next(0, 10 if moment == "before" else 6, last=True)
        reader.close()

    @pytest.mark.parametrize("grown", [False, True])
    def test_what_is_sent_is_one_state_of_the_file(self, tmp_path: Path, grown: bool) -> None:
        """It is written anew in its place, longer, or with its old modification time: no mixture of both is sent."""
        file = tmp_path / "file"
        file.write_bytes(b"0123456789")
        found = file.stat()
        reader = Reader(scan(file))
        reader.next(0, 4, last=False)
        file.write_bytes(b"9876543210" + b"and more" * grown)
        if not grown:
            os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
        with pytest.raises(TransferFailed, match="was changed while"):
            reader.next(0, 6, last=True)
        reader.close()

    def test_another_longer_file_of_the_same_name_has_not_grown(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"0123456789")
        reader = Reader(scan(tmp_path / "file"))
        (tmp_path / "new").write_bytes(b"another file, and longer")
        (tmp_path / "new").replace(tmp_path / "file")
        with pytest.raises(TransferFailed, match="was changed while"):
            reader.next(0, 10, last=True)

    def test_what_was_only_touched_is_sent(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"0123456789")
        reader = Reader(scan(tmp_path / "file"))
        reader.next(0, 4, last=False)
        os.utime(tmp_path / "file", (1, 1))
        (tmp_path / "file").rename(tmp_path / "rotated")
        assert reader.next(0, 6, last=True) == (b"456789", hashlib.sha256(b"0123456789").digest())

    def test_blocks_are_of_a_size_that_is_worth_a_trip(self) -> None:
        assert source.BLOCK >= 1 << 20
