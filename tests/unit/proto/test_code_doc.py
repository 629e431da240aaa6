"""The worked examples and the numbers of docs/one-time-codes.md, checked against the code."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from warpgate.model import code
from warpgate.model.address import NodeAddress
from warpgate.model.code_words import WORDS
from warpgate.model.identity import Identity
from warpgate.proto import code_talk
from warpgate.proto.code_talk import Agreed, CodeOfferer, CodeTaker
from warpgate.services import signaling

PAGE = (Path(__file__).parents[3] / "docs" / "one-time-codes.md").read_text()
HEX = {name: bytes.fromhex(body) for name, body in re.findall(r"^```hex (\S+)\n(.*?)^```$", PAGE, re.M | re.S)}
ALICE, BOB = (NodeAddress(Identity(ec.derive_private_key(n, ec.SECP256R1())).public_key) for n in (1, 2))
CODE = code.OneTimeCode.parse("7-piano-zebra")


def test_topics() -> None:
    for side in ("offer", "take"):
        assert f"\n{side} = {CODE.topic(side)}\n" in PAGE


def test_messages() -> None:
    alice = CodeOfferer(CODE, ALICE.encode(), lambda size: b"\x01" * size, 0.0)
    bob = CodeTaker(CODE, BOB.encode(), lambda size: b"\x02" * size, bytes(range(16)), 0.0)
    assert bob.poll_transmit() == HEX["open"]
    alice.receive(HEX["open"], 0.0)
    assert alice.poll_transmit() == HEX["answer"]
    bob.receive(HEX["answer"], 0.0)
    assert bob.poll_transmit() == HEX["confirm"]
    alice.receive(HEX["confirm"], 0.0)
    assert (alice.poll_event(), bob.poll_event()) == (Agreed(BOB), Agreed(ALICE))


def test_numbers() -> None:
    text = " ".join(PAGE.split())
    for number, words in (
        (code.CHANNELS, "from 1 to {}"),
        (len(WORDS), "two of {:,}"),
        (code.ENTROPY_BITS, "{} bits"),
        (signaling.CONTACTED, "the first {} brokers"),
        (code_talk.TAKEN_SAID, "hear Taken, {} times"),
        (code_talk.TAKER_PATIENCE, "for {:g} s at most. 2."),
        (code_talk.CONFIRM_PATIENCE, "until it is confirmed, for {:g} s"),
    ):
        assert words.format(number) in text
    assert code_talk.CODE_LIFETIME == 3600
    assert f"{code_talk.FIRST_REPEAT:g}, 1, {code_talk.LAST_REPEAT:g}, 2, ... s later" in text
