"""What a sender that nobody has named may do to the receiver's files: each test is an attack."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from transfer_kit import ALICE, Exchange, tree_of

from warpgate.errors import TransferRefused
from warpgate.proto.transfer_wire import Abort, encode
from warpgate.transfer import channel
from warpgate.transfer.receiver import Rules
from warpgate.transfer.reports import Advanced, Announced

STRANGER = Rules()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "PARTING", 0.5)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    return here, there


def plant(place: Path, *, executable: bool = False) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"#!/bin/sh\n")
    place.chmod(0o755 if executable else 0o644)


@pytest.mark.parametrize("name", [".ssh/authorized_keys", ".bash_profile", "-rf", ".git/hooks/pre-commit"])
@pytest.mark.parametrize("rules", [STRANGER, Rules(known={ALICE})])
async def test_dotfiles_are_not_planted(folders: tuple[Path, Path], name: str, rules: Rules) -> None:
    here, there = folders
    plant(here / name, executable=True)
    with pytest.raises(TransferRefused, match="not taken here") as refusal:
        await Exchange(there, rules=rules).send(here / name.split("/", maxsplit=1)[0])
    assert refusal.value.reason == "unsafe"
    assert tree_of(there) == {}


async def test_unless_the_user_says_so(folders: tuple[Path, Path]) -> None:
    here, there = folders
    plant(here / ".profile")
    await Exchange(there, rules=Rules(dotfiles=True)).send(here / ".profile")
    assert list(tree_of(there)) == [".profile"]


@pytest.mark.parametrize(
    ("rules", "mode"),
    [(STRANGER, 0), (Rules(known={ALICE}), stat.S_IXUSR), (Rules(executable=True), stat.S_IXUSR)],
)
async def test_who_may_send_what_runs(folders: tuple[Path, Path], rules: Rules, mode: int) -> None:
    here, there = folders
    plant(here / "program", executable=True)
    plant(here / "project" / "run", executable=True)
    (here / "program").chmod(0o6755)
    for name in ("program", "project"):
        await Exchange(there, rules=rules).send(here / name)
    for place in (there / "program", there / "project" / "run"):
        assert stat.S_IMODE(place.stat().st_mode) & (stat.S_IXUSR | stat.S_ISUID | stat.S_ISGID) == mode


@pytest.mark.parametrize("below", [".git/hooks/pre-commit", "src/.envrc", "-rf"])
async def test_no_hook_comes_into_a_directory_that_is_there(folders: tuple[Path, Path], below: str) -> None:
    """A directory of its own may have any names in it; one that the user works in gets none that act by themselves."""
    here, there = folders
    plant(here / "project" / below)
    await Exchange(there, rules=STRANGER).send(here / "project")
    assert f"project/{below}" in tree_of(there)
    (there / "other").mkdir()
    (here / "project").rename(here / "other")
    with pytest.raises(TransferRefused, match="exists already"):
        await Exchange(there, rules=STRANGER).send(here / "other")
    with pytest.raises(TransferRefused, match="not taken here"):
        await Exchange(there, rules=STRANGER, overwrite=True).send(here / "other")
    assert list((there / "other").iterdir()) == []
    await Exchange(there, rules=Rules(dotfiles=True), overwrite=True).send(here / "other")
    assert f"other/{below}" in tree_of(there)


@pytest.mark.parametrize("moment", [Announced, Advanced])
async def test_nor_into_one_that_appears_at_the_last_moment(
    folders: tuple[Path, Path], moment: type[Announced | Advanced]
) -> None:
    """Before it is looked at what is there, and between that and the end."""
    here, there = folders
    plant(here / "project" / ".git" / "config")
    exchange = Exchange(there, rules=STRANGER, overwrite=True)
    exchange.at_report = lambda report: isinstance(report, moment) and (there / "project").mkdir(exist_ok=True)
    with pytest.raises(TransferRefused, match="not taken here"):
        await exchange.send(here / "project")
    assert list((there / "project").iterdir()) == []


class TestConsent:
    """Somebody at the terminal."""

    @staticmethod
    def answering(answer: bool, asked: list[Announced]):
        async def consent(told: Announced) -> bool:
            asked.append(told)
            await asyncio.sleep(0)
            return answer

        return consent

    async def test_yes(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        plant(here / "blob")
        asked: list[Announced] = []
        await Exchange(there, rules=STRANGER, consent=self.answering(True, asked)).send(here / "blob")
        assert asked == [Announced(ALICE, "blob", False, 1, 10)]
        assert list(tree_of(there)) == ["blob"]

    async def test_no(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        plant(here / "project" / "blob")
        exchange = Exchange(there, rules=STRANGER, consent=self.answering(False, []))
        with pytest.raises(TransferRefused) as refusal:
            await exchange.send(here / "project")
        assert refusal.value.reason == "declined"
        assert tree_of(there) == {}
        assert exchange.heard[:1] != [Announced]

    async def test_who_is_known_is_not_asked_about(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        plant(here / "blob")
        asked: list[Announced] = []
        await Exchange(there, consent=self.answering(False, asked)).send(here / "blob")
        assert asked == []

    async def test_the_question_ends_with_its_sender_and_holds_up_nobody(self, folders: tuple[Path, Path]) -> None:
        here, there = folders
        plant(here / "first")
        plant(here / "second")
        begun, over = asyncio.Event(), asyncio.Event()

        async def consent(told: Announced) -> bool:
            if told.name == "second":
                return True
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                over.set()
            return True

        exchange = Exchange(there, rules=STRANGER, consent=consent)
        first = asyncio.ensure_future(exchange.send(here / "first"))
        await begun.wait()
        other = Exchange(there, rules=STRANGER)
        other.receiver = exchange.receiver
        await other.send(here / "second")
        assert list(tree_of(there)) == ["second"]
        await exchange.pipes[0].send(encode(Abort("no more")))
        await over.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
