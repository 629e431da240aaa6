"""What the words after `send` and `receive` mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from warpgate.cli import receive, send
from warpgate.cli.options import UsageError
from warpgate.errors import AddressError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()


@pytest.mark.parametrize(
    ("words", "to", "files", "target"),
    [
        (["a"], None, ["a"], None),
        (["a", "b", "folder"], None, ["a", "b", "folder"], None),
        (["missing"], None, ["missing"], None),
        (["a", "wg1abc"], None, ["a"], "wg1abc"),
        (["a", "b", "@home.addr"], None, ["a", "b"], "@home.addr"),
        (["a", "alice"], None, ["a"], "alice"),
        (["a", "b"], "b", ["a", "b"], "b"),
    ],
)
def test_files_and_target(words: list[str], to: str | None, files: list[str], target: str | None) -> None:
    assert send.split(words, to) == ([Path(name) for name in files], target)


def test_a_target_alone() -> None:
    with pytest.raises(UsageError, match="what to send"):
        send.split(["wg1abc"], None)


@pytest.mark.parametrize(
    ("words", "code", "where"),
    [
        ([], None, None),
        (["folder"], None, "folder"),
        (["7-piano-zebra"], "7-piano-zebra", None),
        (["7-piano-zebra", "folder"], "7-piano-zebra", "folder"),
    ],
)
def test_code_and_directory(words: list[str], code: str | None, where: str | None) -> None:
    assert receive.split(words) == (code, where)


def test_a_directory_of_that_name_is_one(tmp_path: Path) -> None:
    (tmp_path / "7-piano-zebra").mkdir()
    assert receive.split(["7-piano-zebra"]) == (None, "7-piano-zebra")


def test_mistakes() -> None:
    with pytest.raises(UsageError, match="one directory"):
        receive.split(["folder", "a"])
    with pytest.raises(AddressError, match="is it 'piano'"):
        receive.split(["7-pianno-zebra"])
