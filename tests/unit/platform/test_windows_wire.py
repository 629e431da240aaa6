"""What Windows says, read from bytes and strings made after its documentation."""

from __future__ import annotations

import struct

import pytest

from warpgate.platform.windows_wire import TCP_INFO, flight_of, others_in


def tcp_info(*, in_flight: int, sent: int, repeated: int) -> bytes:
    """TCP_INFO_v0 by the offsets of its members, aligned as a C compiler does."""
    info = bytearray(88)
    struct.pack_into("=iI", info, 0, 4, 1460)  # TCPSTATE_ESTABLISHED, Mss
    struct.pack_into("=I", info, 28, in_flight)
    struct.pack_into("=Q", info, 48, sent)
    struct.pack_into("=I", info, 68, repeated)
    return bytes(info)


def test_a_connection_that_only_repeats_itself_does_not_get_on() -> None:
    assert TCP_INFO.size == 88
    first = flight_of(tcp_info(in_flight=1000, sent=5000, repeated=0))
    repeating = flight_of(tcp_info(in_flight=1000, sent=6000, repeated=1000))
    further = flight_of(tcp_info(in_flight=1000, sent=7000, repeated=1000))
    assert (first.unacked, first.mark) == (1000, 4000.0)
    assert repeating.mark == first.mark
    assert further.mark == first.mark + 1000
    with pytest.raises(ValueError, match="TCP_INFO"):
        flight_of(bytes(87))


@pytest.mark.parametrize(
    ("sddl", "others"),
    [
        ("D:P(A;;FA;;;S-1-5-21-1-2-3-1001)(A;;FA;;;SY)(A;;FA;;;BA)", False),  # as we make it
        (
            "D:AI(A;ID;FA;;;SY)(A;ID;FA;;;BA)(A;ID;FA;;;S-1-5-21-1-2-3-1001)",
            False,
        ),  # as inherited in a profile
        ("D:AI(A;ID;FA;;;SY)(A;ID;0x1200a9;;;BU)", True),  # as below C:\\, "read and execute"
        ("D:(A;;FR;;;WD)", True),
        ("D:(A;;GR;;;AU)", True),
        ("D:(A;;0x100000;;;WD)", False),  # SYNCHRONIZE alone
        ("D:(D;;FA;;;WD)(A;;FA;;;BA)", False),  # denied
        ("D:(A;OICIIO;FA;;;WD)", False),  # for what is below, not for this
        ("D:", False),
        ("D:NO_ACCESS_CONTROL", True),
        ("O:BAG:BA", True),
    ],
)
def test_who_may_read(sddl: str, others: bool) -> None:
    assert others_in(sddl) is others
