"""The worked examples and the numbers of docs/file-transfer.md, checked against the code."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from warpgate.proto import transfer_wire as wire
from warpgate.proto.transfer_wire import Deframer, Entries, Entry, Have, Offer, Part, Reason, encode
from warpgate.transfer import admission, channel, receiver, sender

PAGE = (Path(__file__).parents[3] / "docs" / "file-transfer.md").read_text()
HEX = {name: bytes.fromhex(body) for name, body in re.findall(r"^```hex (\S+)\n(.*?)^```$", PAGE, re.M | re.S)}
EXAMPLES = {
    "offer": Offer(1, bytes(range(16)), "photos", True, 2, 3),
    "entries": Entries((Entry(("a",), True, 0, 0, False), Entry(("a", "b.jpg"), False, 3, 1_000_000_000, False))),
    "have": Have((Part(1, 2, hashlib.sha256(b"ab").digest()),), last=True),
}


def test_examples() -> None:
    assert {name: list(Deframer().feed(data)) for name, data in HEX.items()} == {
        name: [message] for name, message in EXAMPLES.items()
    }
    assert {name: encode(message).hex() for name, message in EXAMPLES.items()} == {
        name: data.hex() for name, data in HEX.items()
    }


def test_every_reason_is_explained() -> None:
    rows = PAGE.partition("## Refusals")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (\w+) \|", rows, re.M)[1:] == [reason.value for reason in Reason]


def test_numbers() -> None:
    text = " ".join(PAGE.split())
    for number, words in (
        (wire.MAX_FRAME, "1 to {:,} bytes"),
        (wire.PIECE, "1 to {:,} bytes"),
        (wire.BATCH, "array of 1 to {} entries"),
        (wire.MAX_ENTRIES, "more than {:,} entries"),
        (wire.MAX_LIST, "the sum is {:,} at most"),
        (wire.MAX_SHOWN, "at most {:,} bytes to be shown"),
        (wire.MAX_NAME, "{} bytes in a name"),
        (wire.MAX_PATH, "{:,} bytes or 64 names"),
        (int(channel.SIGN_OF_LIFE), "sent nothing for {} s"),
        (int(channel.SILENCE), "Silence of {} s"),
        (int(channel.PARTING), "for up to {} s"),
        (int(sender.LONGEST_WAIT), "1, 2, 4, ... {} s later"),
        (admission.TRANSFERS_AT_ONCE, "At most {} transfers"),
        (admission.TRANSFERS_OF_ONE, "{} of one sender"),
        (admission.VISITORS, "and {} connections"),
        (admission.VISITORS_OF_ONE, "{} of one sender, are"),
        (int(admission.STALLED_AFTER), "of substance for {} s"),
        (channel.LEAST_PROGRESS, "({:,} bytes"),
        (int(receiver.FIRST_WORDS), "An offer must be there after {} s"),
    ):
        assert words.format(number) in text, words
