"""The contact book: pinned keys that outlive everything but the user's word."""

from __future__ import annotations

import multiprocessing
import os
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from warpgate.core.names import known_peers
from warpgate.core.names.known_peers import (
    ContactBook,
    FileKnownPeers,
    KnownPeers,
    MemoryKnownPeers,
    known_peers_at,
)
from warpgate.errors import ConfigError, PeerKeyChanged
from warpgate.model.contact import Contact
from warpgate.model.identity import Identity

# The same in every process.
ALICE, MALLORY = (Identity(ec.derive_private_key(secret, ec.SECP256R1())) for secret in (1, 2))
SEEN = 1_795_392_000


def contact(name: str = "alice", sequence: int = 5, identity: Identity = ALICE, seen: int = SEEN) -> Contact:
    return Contact(name, identity.public_key, sequence, seen)


@pytest.fixture
def book(tmp_path: Path) -> ContactBook:
    return ContactBook(tmp_path / "data" / "known_peers")


@given(
    st.text("abcdefä-_.0", min_size=1, max_size=20),
    st.integers(0, 2**64 - 1),
    st.integers(0, 253_402_300_799),
)
def test_a_contact_is_a_line(name: str, sequence: int, seen: int) -> None:
    made = Contact(name, ALICE.public_key, sequence, seen)
    assert Contact.from_line(made.to_line()) == made


def test_the_line_in_the_page_is_one() -> None:
    page = Path(__file__).parents[3] / "docs" / "names.md"
    (line,) = [line for line in page.read_text().splitlines() if line.startswith("    alice ")]
    assert Contact.from_line(line).to_line() == line.strip()


@given(st.text())
def test_any_other_line_has_a_reason(line: str) -> None:
    with pytest.raises(ConfigError):
        Contact.from_line(line)


def test_the_first_key_stays_and_the_sequence_grows(book: ContactBook) -> None:
    assert book.find("alice") is None
    assert book.remember(contact())
    assert not book.remember(contact(sequence=9, seen=SEEN + 60))
    assert not book.remember(contact(sequence=3))
    assert book.find("alice") == contact(sequence=9)
    with pytest.raises(PeerKeyChanged, match="warpgate name forget alice") as caught:
        book.remember(contact(identity=MALLORY, sequence=99))
    assert ALICE.node_id in str(caught.value)
    assert MALLORY.node_id in str(caught.value)
    assert book.find("alice") == contact(sequence=9)


def test_it_is_the_users_alone(book: ContactBook) -> None:
    book.remember(contact())
    assert stat.S_IMODE(book.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(book.path.parent.stat().st_mode) == 0o700


def test_what_is_forgotten_can_be_pinned_anew(book: ContactBook) -> None:
    book.remember(contact())
    book.remember(contact("bob"))
    assert book.forget("alice") == contact()
    assert book.forget("alice") is None
    assert book.remember(contact(identity=MALLORY))
    assert book.find("bob") == contact("bob")


def test_forgetting_where_there_is_no_book_makes_none(book: ContactBook) -> None:
    assert book.forget("alice") is None
    assert not book.path.parent.exists()


def test_comments_order_and_other_lines_survive(book: ContactBook) -> None:
    lines = ["# mine", contact("bob").to_line(), "", contact("alice").to_line(), "  # the end"]
    book.path.parent.mkdir()
    book.path.write_text("\n".join(lines))
    book.remember(contact(sequence=6))
    book.remember(contact("carol"))
    lines[3] = contact(sequence=6).to_line()
    assert book.path.read_text().splitlines() == [*lines, contact("carol").to_line()]


def test_a_book_kept_elsewhere_stays_there(book: ContactBook, tmp_path: Path) -> None:
    book.path.parent.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    book.path.symlink_to(elsewhere)
    book.remember(contact())
    assert book.path.is_symlink()
    assert elsewhere.read_text() == contact().to_line() + "\n"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("alice", "line 2: it has 1 words"),
        (
            contact().to_line().replace(ALICE.node_id, MALLORY.node_id),
            "line 2: .* is not the node id of the key",
        ),
        (contact().to_line().replace(" 5 ", " five "), "line 2: 'five' is no sequence"),
        (contact().to_line().replace(" 5 ", f" {2**64} "), "line 2: .* is no sequence number of 64 bits"),
        (contact().to_line().replace("T", " "), "line 2: it has 6 words"),
        (contact().to_line()[:-1], "line 2: .* is no time"),
        (contact().to_line().replace(ALICE.public_key.hex(), "00" * 33), "line 2: .* no public key"),
        (contact("bob").to_line(), "line 2: 'bob' was there before"),
        ("\udcff", "line 2: this is not UTF-8"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_lost(book: ContactBook, damage: str, reason: str) -> None:
    book.path.parent.mkdir()
    text = f"{contact('bob').to_line()}\n{damage}\n".encode(errors="surrogateescape")
    book.path.write_bytes(text)
    for action in (
        lambda: book.find("bob"),
        lambda: book.remember(contact("bob", 9)),
        lambda: book.forget("bob"),
    ):
        with pytest.raises(ConfigError, match=reason):
            action()
    assert book.path.read_bytes() == text


def test_some_other_file_is_not_read_as_a_book(book: ContactBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_peers, "LARGEST_FILE", 100)
    book.path.parent.mkdir()
    book.path.write_text("#" * 101)
    with pytest.raises(ConfigError, match="far too large"):
        book.find("alice")


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="contact book"):
        ContactBook(tmp_path / "file" / "known_peers").remember(contact())


def test_a_lock_that_is_never_given_up_is_told(book: ContactBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_peers, "LOCK_PATIENCE", 0.05)
    book.remember(contact())
    with book._locked(), pytest.raises(ConfigError, match=r"held its lock for 0.05 s"):
        ContactBook(book.path).remember(contact("bob"))
    assert book.remember(contact("bob"))


def _remember_many(path: Path, who: int) -> None:
    book = ContactBook(path)
    for number in range(20):
        book.remember(contact(f"peer-{who}-{number}"))
        book.remember(contact("shared", who * 100 + number))


def test_processes_that_write_at_once_lose_nothing(book: ContactBook) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_remember_many, args=(book.path, who)) for who in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert all(book.find(f"peer-{who}-{number}") for who in range(3) for number in range(20))
    assert book.find("shared") == contact("shared", 219)
    assert sorted(os.listdir(book.path.parent)) == ["known_peers", "known_peers.lock"]


def test_of_two_that_pin_different_keys_at_once_one_is_refused(book: ContactBook) -> None:
    outcomes: list[object] = []
    start = threading.Barrier(2)

    def pin(identity: Identity) -> None:
        start.wait()
        try:
            outcomes.append(book.remember(contact(identity=identity)))
        except PeerKeyChanged as error:
            outcomes.append(error)

    threads = [threading.Thread(target=pin, args=(identity,)) for identity in (ALICE, MALLORY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(str(type(outcome).__name__) for outcome in outcomes) == ["PeerKeyChanged", "bool"]


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_both_kinds_keep_the_same_rules(kind: str, tmp_path: Path) -> None:
    peers: KnownPeers = MemoryKnownPeers() if kind == "memory" else FileKnownPeers(tmp_path / "known_peers")
    assert await peers.find("alice") is None
    assert await peers.remember(contact())
    assert not await peers.remember(contact(sequence=7))
    with pytest.raises(PeerKeyChanged):
        await peers.remember(contact(identity=MALLORY))
    assert await peers.find("alice") == contact(sequence=7)


async def test_where_contacts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that brings its own identity leaves the user's book alone, unless it names it."""
    monkeypatch.setenv("WARPGATE_DATA", str(tmp_path))
    await known_peers_at(None, own_identity=True).remember(contact())
    assert os.listdir(tmp_path) == []
    await known_peers_at(str(tmp_path / "mine"), own_identity=True).remember(contact())
    assert ContactBook(tmp_path / "mine").find("alice") == contact()
    await known_peers_at(None, own_identity=False).remember(contact())
    assert ContactBook(tmp_path / "known_peers").find("alice") == contact()
