"""Name records: round trips; garbage and tampering raise the errors they may, and nothing forged opens."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from strategies import ALICE, addresses, fixed, mutated, only

from warpgate.errors import ProtocolError
from warpgate.proto.name_record import MAX_LIFETIME, MAX_RECORD, NameRecord, RecordKind, open_record, seal

_common = {
    "name": st.sampled_from(("alice", "bob-2.home", "佐々木", "søren")),
    "public_key": st.just(ALICE.public_key),
    "sequence": st.integers(0, 2**64 - 1),
    "issued": st.integers(0, 2**40),
    "lifetime": st.integers(1, MAX_LIFETIME),
}
_own = addresses.filter(lambda address: address.public_key == ALICE.public_key).map(lambda address: address.encode())
records = st.builds(NameRecord, kind=st.just(RecordKind.CLAIM), address=_own, **_common) | st.builds(
    NameRecord, kind=st.just(RecordKind.RELEASE), address=st.just(b""), **_common
)
fields = st.none() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20) | st.binary(max_size=40)


@fixed
@given(records)
def test_records_come_back(record: NameRecord) -> None:
    data = seal(record, ALICE)
    assert len(data) <= MAX_RECORD
    assert open_record(data) == record


@fixed
@given(st.binary(max_size=300) | mutated(records.map(lambda record: seal(record, ALICE))))
def test_no_tampered_record_opens(data: bytes) -> None:
    """A mutation may undo itself: then it is still word for word what Alice signed."""
    opened = only(open_record, data, ProtocolError)
    assert opened is None or open_record(seal(opened, ALICE)) == opened


@fixed
@given(
    mutated(records.map(lambda record: seal(record, ALICE)[1:-64]))
    | st.lists(fields, max_size=9).map(msgspec.msgpack.encode)
    | st.binary(max_size=200)
)
def test_what_key_holders_sign_is_refused_or_a_whole_record(body: bytes) -> None:
    signed = b"\x01" + body
    opened = only(open_record, signed + ALICE.sign(b"warpgate/1 name\0" + signed), ProtocolError)
    assert opened is None or open_record(seal(opened, ALICE)) == opened
