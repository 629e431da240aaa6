"""`--html FILE`: where pages are written, and where they are not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cli_fakes import REPORT, FakeWorld, target_text

from warpgate.cli.main import main
from warpgate.cli.options import UsageError
from warpgate.cli.page_file import PageFile
from warpgate.errors import ConnectFailed


def explain(*words: str, world: FakeWorld | None = None) -> int:
    world = world or FakeWorld()
    status = main(["explain", target_text(), "--stun", "", *words], world.node_maker)
    assert world.running == 0
    return status


def test_explain_writes_what_it_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain("--html", str(tmp_path / "page.html")) == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Connected by direct after 12.5 ms" in page
    assert "only TCP was asked for" in page
    told = capsys.readouterr().out
    assert "only TCP was asked for" in told
    assert f"{tmp_path / 'page.html'} is written" in told
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600


def test_what_does_not_connect_is_drawn_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = FakeWorld(refusal=ConnectFailed("no <strategy> worked", REPORT))
    assert explain("--html", str(tmp_path / "page.html"), "--json", world=world) == 1
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Not connected" in page
    assert "no &lt;strategy&gt; worked" in page
    assert "dialling 192.0.2.1:7" in page
    assert capsys.readouterr().out.count('"event": "page"') == 1


def test_a_page_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("precious")
    (tmp_path / "page.html").symlink_to(tmp_path / "real")
    assert explain("--html", str(tmp_path / "page.html")) == 0
    assert explain("--html", str(tmp_path / "page.html")) == 0
    assert (tmp_path / "real").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "real"]


@pytest.mark.parametrize("name", [".", "no/such/folder/page.html", "fifo", "/dev/null"])
def test_where_no_page_can_be_is_said_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    world = FakeWorld()
    assert explain("--html", name, world=world) == 2
    assert world.asked == []
    assert "--html" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PageFile(str(tmp_path / "page.html"))
    file.write("first")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("warpgate.core.disk.whole_file.FILES.replace", full)
    with pytest.raises(OSError, match="No space"):
        file.write("second")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["first"]


def test_a_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere: the kernel's answer is played."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="nothing can be written"):
        PageFile(str(tmp_path / "page.html"))


def test_full_is_for_pages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--full"]) == 2
    assert "--full is for the page of --html" in capsys.readouterr().err
