"""Where each system keeps what programs have of a user, and what else a name in a directory must not do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from warpgate.platform import FILES
from warpgate.platform.posix_files import AppleFiles, PosixFiles

NO_WAY = (NotADirectoryError, FileNotFoundError, OSError)  # ENOTDIR or ELOOP for a link
HOME = {"HOME": "/home/ada"}


def test_xdg_and_apple() -> None:
    assert PosixFiles().data_folder(HOME) == Path("/home/ada/.local/share/warpgate")
    assert PosixFiles().config_folder(HOME) == Path("/home/ada/.config/warpgate")
    apple = Path("/home/ada/Library/Application Support/warpgate")
    assert AppleFiles().data_folder(HOME) == AppleFiles().config_folder(HOME) == apple


@pytest.mark.parametrize("files", [PosixFiles(), AppleFiles()], ids=["xdg", "apple"])
def test_variables_win_unless_they_are_relative_and_an_empty_home_is_none(files: PosixFiles) -> None:
    assert files.data_folder({**HOME, "XDG_DATA_HOME": "/elsewhere"}) == Path("/elsewhere/warpgate")
    assert files.config_folder({**HOME, "XDG_CONFIG_HOME": "here"}) == files.config_folder(HOME)
    assert files.data_folder({"HOME": ""}) is None
    assert files.config_folder({}) is None


def test_no_way_leads_out_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in" / "below").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "file").symlink_to(tmp_path / "out" / "file")
    with FILES.open_folder(tmp_path / "in") as folder:
        for way in (("link",), ("below", "..", "link"), ("missing",)):
            with pytest.raises(NO_WAY):
                folder.below(*way)
        with pytest.raises(NO_WAY):
            folder.open_file("file", os.O_RDWR | os.O_CREAT)
        folder.remove_file("link")
    assert not (tmp_path / "out" / "file").exists()
    assert (tmp_path / "out").is_dir()
