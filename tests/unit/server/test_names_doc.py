"""The worked examples and the tables of docs/names.md, checked against the code."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from warpgate.model.address import MAX_ADDRESS_SIZE, NodeAddress
from warpgate.model.identity import Identity
from warpgate.model.nickname import MAX_BYTES, MAX_LENGTH, MIN_LENGTH
from warpgate.proto.name_record import MAX_LIFETIME, MAX_RECORD, NameRecord, RecordKind, open_record
from warpgate.server import limits
from warpgate.server.front import _STATUS
from warpgate.server.name_server import DEFAULT_PORT
from warpgate.server.rules import CLOCK_SKEW, REMEMBERED, Code, Step

PAGE = (Path(__file__).parents[3] / "docs" / "names.md").read_text()
BLOCKS = dict(re.findall(r"^```hex ([\w-]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
ALICE = Identity(ec.derive_private_key(1, ec.SECP256R1()))


def example(name: str) -> bytes:
    return bytes.fromhex("".join(line.partition("#")[0] for line in BLOCKS[name].splitlines()))


def test_the_claim() -> None:
    address = NodeAddress(ALICE.public_key).encode()
    assert open_record(example("claim")) == NameRecord(
        RecordKind.CLAIM, "alice", ALICE.public_key, 1_700_000_000_000, 1_700_000_000, MAX_LIFETIME, address
    )


def test_the_release() -> None:
    assert open_record(example("release")) == NameRecord(
        RecordKind.RELEASE, "alice", ALICE.public_key, 1_700_000_000_001, 1_700_000_000, 3600
    )


def test_every_refusal_is_in_the_table_with_its_status() -> None:
    rows = {code: int(status) for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)` \|", PAGE, re.MULTILINE)}
    assert rows == {code.value: _STATUS[code] for code in Code}


def test_every_result_is_named() -> None:
    for step in Step:
        assert re.search(rf"[`\"]{step.name.lower()}[`\"]", PAGE), step


def test_numbers() -> None:
    for said in (
        f"{MIN_LENGTH} to {MAX_LENGTH} characters, at most {MAX_BYTES} bytes",
        f"integer, 1 to {MAX_LIFETIME:,}",
        f"up to {MAX_ADDRESS_SIZE} bytes",
        f"A record has at most {MAX_RECORD} bytes",
        f"more than {CLOCK_SKEW} s from the server's clock",
        f"remembered for {REMEMBERED} s",
        f"did not come within {limits.BODY_SECONDS:.0f} s",
        f"say nothing for {limits.HEAD_SECONDS:.0f} s",
        f"requests in progress get {limits.GRACE_SECONDS:.0f} s",
        f"an IPv6 /{limits.IPV6_PREFIX}",
        f"port {DEFAULT_PORT}",
    ):
        assert said in " ".join(PAGE.split()), said
