"""The rules of a file transfer: what may come when, and which names are written to."""

from __future__ import annotations

import pytest

from warpgate.errors import ProtocolError, TransferFailed, TransferRefused
from warpgate.proto import transfer_names
from warpgate.proto.transfer_names import SENDABLE, Listing, NameRules, check_name, partial_name
from warpgate.proto.transfer_talk import (
    FileBegun,
    FileData,
    FileEnded,
    Finished,
    Incoming,
    Outgoing,
    Receiving,
)
from warpgate.proto.transfer_wire import (
    Abort,
    AnyMessage,
    Begin,
    Busy,
    Data,
    Done,
    End,
    Entries,
    Entry,
    Finish,
    Have,
    Offer,
    Part,
    Refused,
)

HASH = bytes(32)
ID = bytes(16)


def offer(name: str = "top", *, directory: bool = True, entries: int = 1, size: int = 0) -> Offer:
    return Offer(1, ID, name, directory, entries, size)


def file(*path: str, size: int = 0) -> Entry:
    return Entry(path, False, size, 0, False)


def folder(*path: str) -> Entry:
    return Entry(path, True, 0, 0, False)


def between_files(parts: tuple[Part, ...] = ()) -> Incoming:
    """Two files, of 3 and 5 bytes, with a directory between them."""
    incoming = Incoming(NameRules())
    incoming.receive(offer(entries=3, size=8))
    incoming.receive(Entries((file("a", size=3), folder("b"), file("b", "c", size=5))))
    assert incoming.state is Receiving.LISTED
    there = [0, 0, 0]
    for part in parts:
        there[part.index] = part.size
    incoming.know(there)
    return incoming


def test_from_the_offer_to_the_end() -> None:
    incoming = between_files((Part(2, 4, HASH),))
    heard = [
        incoming.receive(message)
        for message in (
            Begin(0, 0),
            Data(b"ab"),
            Busy(),
            Data(b"c"),
            End(HASH),
            Begin(2, 4),
            Data(b"e"),
            End(HASH),
            Finish(),
        )
    ]
    assert heard == [
        FileBegun(0, 0),
        FileData(b"ab"),
        None,
        FileData(b"c"),
        FileEnded(HASH),
        FileBegun(2, 4),
        FileData(b"e"),
        FileEnded(HASH),
        Finished(),
    ]
    assert incoming.state is Receiving.OVER


@pytest.mark.parametrize(
    "messages",
    [
        (Finish(),),
        (Data(b"a"),),
        (End(HASH),),
        (offer(),),
        (Entries((file("z"),)),),
        (Begin(1, 0),),  # a directory
        (Begin(2, 0),),  # not the next
        (Begin(3, 0),),
        (Begin(0, 1),),  # nobody has that
        (Begin(0, 0), Begin(2, 0)),
        (Begin(0, 0), Data(b"abcd")),
        (Begin(0, 0), Data(b"ab"), End(HASH)),
        (Begin(0, 0), Data(b"abc"), End(HASH), Begin(0, 0)),
        (Begin(0, 0), Data(b"abc"), End(HASH), Finish()),
        (Begin(0, 0), Data(b"abc"), End(HASH), Begin(2, 5)),
        (Done(),),
        (Have((), last=True),),
        (Refused("exists", ""),),
    ],
)
def test_what_may_not_come(messages: tuple[AnyMessage, ...]) -> None:
    incoming = between_files((Part(2, 4, HASH),))
    *before, last = messages
    for message in before:
        incoming.receive(message)
    with pytest.raises(TransferRefused) as refusal:
        incoming.receive(last)
    assert refusal.value.reason == "protocol"


def test_nothing_before_the_offer_and_no_file_before_the_receiver_has_spoken() -> None:
    with pytest.raises(TransferRefused):
        Incoming(NameRules()).receive(Entries((file("a"),)))
    incoming = Incoming(NameRules())
    incoming.receive(offer(entries=0))
    assert incoming.state is Receiving.LISTED
    with pytest.raises(TransferRefused):
        incoming.receive(Finish())


def test_a_version_of_later_and_a_sender_that_gives_up() -> None:
    with pytest.raises(TransferRefused, match="version 2"):
        Incoming(NameRules()).receive(Offer(2, ID, "a", False, 1, 0))
    with pytest.raises(TransferFailed, match="gave up: a file has changed"):
        between_files().receive(Abort("a file has changed"))


class TestListing:
    @pytest.mark.parametrize(
        ("entries", "reason"),
        [
            ([file("a"), file("a")], "unsafe"),
            ([folder("a"), file("a")], "unsafe"),
            ([file("a"), file("a", "b")], "unsafe"),
            ([file("a", "b"), folder("a")], "unsafe"),
            ([file(), file("a")], "unsafe"),
            ([file(".."), file("a")], "unsafe"),
            ([file("a/b"), file("a")], "unsafe"),
            ([folder("a"), file("a", "..")], "unsafe"),
            ([file("a"), file("b"), file("c")], "limit"),
            ([file("a", size=11)], "limit"),
            ([Entry(("a",), True, 1, 0, False)], "protocol"),
            ([file("a", size=3), file("b", size=3)], "protocol"),
        ],
    )
    def test_what_is_refused(self, entries: list[Entry], reason: str) -> None:
        with pytest.raises(TransferRefused) as refusal:
            Listing(offer(entries=2, size=10), NameRules()).add(entries)
        assert refusal.value.reason == reason

    @pytest.mark.parametrize("entry", [file("a"), folder(), folder("a")])
    def test_a_single_file_is_itself_and_nothing_else(self, entry: Entry) -> None:
        with pytest.raises(TransferRefused):
            Listing(offer(directory=False), NameRules()).add([entry])
        Listing(offer(directory=False), NameRules()).add([file()])

    def test_paths_have_an_end(self) -> None:
        deep = [folder(*("x" * 250,) * depth) for depth in range(1, 14)]
        with pytest.raises(TransferRefused, match="3072 bytes"):
            Listing(offer(entries=13), NameRules()).add(deep)

    def test_the_list_has_an_end_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transfer_names, "MAX_LIST", 1000)
        listing = Listing(offer(entries=20), NameRules())
        listing.add(file(str(number)) for number in range(10, 20))
        with pytest.raises(TransferRefused, match="too long"):
            listing.add(file(str(number)) for number in range(20, 30))


class TestNames:
    @pytest.mark.parametrize("name", ["a", "...", "ü☃", "-rf", "~", "a b", "con", "a\\b", "x" * 255, ".hidden", "a:b"])
    def test_good_ones(self, name: str) -> None:
        check_name(name, NameRules())

    @pytest.mark.parametrize(
        "name",
        [
            *("", ".", "..", "a/b", "/", "a\0", "a\nb", "\x1b[0m", "\x85", "ü" * 128, "\udcff"),
            *(
                "a\u202egpj.exe",
                "a\u200bb",
                "\ufeffa",
                "a\xadb",
                "\u2066a",
                "a\u2028b",
                "a\u3164",
                "a\U000e0041",
            ),
        ],
    )
    @pytest.mark.parametrize("known", [False, True])
    def test_bad_ones(self, name: str, known: bool) -> None:
        with pytest.raises(TransferRefused) as refusal:
            check_name(name, NameRules(known=known, dotfiles=True))
        assert str(refusal.value).isprintable()

    @pytest.mark.parametrize("name", ["क्\u200dष", "👨\u200d👩.png"])
    def test_joiners_are_for_those_whom_the_user_has_named(self, name: str) -> None:
        check_name(name, NameRules(known=True))
        with pytest.raises(TransferRefused):
            check_name(name, NameRules())

    @pytest.mark.parametrize("name", [".ssh", ".bash_profile", "-rf", ".git"])
    def test_names_that_programs_act_on_are_not_offered(self, name: str) -> None:
        for known in (False, True):
            with pytest.raises(TransferRefused, match="not taken here"):
                Incoming(NameRules(known=known)).receive(offer(name, entries=0))
        Incoming(NameRules(dotfiles=True)).receive(offer(name, entries=0))

    def test_below_a_directory_of_their_own_they_are_like_others(self) -> None:
        Listing(offer(entries=2), NameRules()).add((folder(".git"), folder(".git", "-x")))

    @pytest.mark.parametrize(
        "name", ["con", "NUL.txt", "com1", "LPT9 .x", "a\\b", "a:b", "a.", "a ", "what?", "conout$"]
    )
    def test_bad_ones_on_windows(self, name: str) -> None:
        with pytest.raises(TransferRefused):
            check_name(name, NameRules(windows=True))

    @pytest.mark.parametrize("name", ["console", "com", "com10", "nullify.txt"])
    def test_good_ones_on_windows(self, name: str) -> None:
        check_name(name, NameRules(windows=True))

    def test_a_part_is_no_name_to_ask_for(self) -> None:
        with pytest.raises(TransferRefused, match="not complete"):
            Incoming(SENDABLE).receive(offer(partial_name("blob", "a" * 26), entries=0))

    def test_parts_of_long_names_are_apart_and_fit(self) -> None:
        names = {partial_name(name, "peer" * 6) for name in ("x" * 255, "x" * 254, "é" * 127, "é" * 127 + "x")}
        assert len(names) == 4
        assert all(len(name.encode()) <= 255 for name in names)
        assert partial_name("a", "b" * 26) != partial_name("a", "c" * 26)


class TestTheSendersSide:
    ENTRIES = (file("a", size=3), folder("b"))

    def test_what_the_receiver_has(self) -> None:
        outgoing = Outgoing(self.ENTRIES)
        outgoing.receive(Busy())
        outgoing.receive(Have((Part(0, 2, HASH),), last=False))
        assert outgoing.known is None
        outgoing.receive(Have((), last=True))
        assert outgoing.known == {0: Part(0, 2, HASH)}
        outgoing.receive(Done())
        assert outgoing.done

    @pytest.mark.parametrize(
        "message",
        [
            Have((Part(1, 1, HASH),), last=True),
            Have((Part(2, 1, HASH),), last=True),
            Have((Part(0, 4, HASH),), last=True),
            Have((Part(0, 1, HASH), Part(0, 1, HASH)), last=True),
            offer(),
            Data(b"a"),
            Finish(),
        ],
    )
    def test_what_cannot_be(self, message: AnyMessage) -> None:
        with pytest.raises(ProtocolError):
            Outgoing(self.ENTRIES).receive(message)

    def test_a_refusal_is_told_in_its_words_without_steering_the_terminal(self) -> None:
        with pytest.raises(TransferRefused, match=r"the receiver: no\\x1b room") as refusal:
            Outgoing(self.ENTRIES).receive(Refused("space\n", "no\x1b room"))
        assert refusal.value.reason == "space\\n"
