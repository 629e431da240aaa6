"""ChannelData: round trips, and garbage raises DecodeError alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.errors import DecodeError
from warpgate.proto.stun import StreamDecoder
from warpgate.proto.turn_wire import FIRST_CHANNEL, LAST_CHANNEL, pack_channel_data, unpack_channel_data

channels = st.integers(FIRST_CHANNEL, LAST_CHANNEL)


@given(channels, st.binary(max_size=300), st.booleans())
def test_round_trip(channel: int, data: bytes, padded: bool) -> None:
    frame = pack_channel_data(channel, data, padded=padded)
    assert unpack_channel_data(frame) == (channel, data)
    assert not padded or len(frame) % 4 == 0


@given(st.lists(st.tuples(channels, st.binary(max_size=50)), max_size=8), st.integers(1, 40))
def test_in_a_stream_frames_are_found_again_however_it_is_cut(frames: list[tuple[int, bytes]], size: int) -> None:
    stream = b"".join(pack_channel_data(channel, data, padded=True) for channel, data in frames)
    decoder, found = StreamDecoder(channel_data=True), []
    for start in range(0, len(stream), size):
        decoder.feed(stream[start : start + size])
        while (frame := decoder.next_frame()) is not None:
            found.append(unpack_channel_data(frame))
    assert found == frames


@given(st.binary(max_size=40))
def test_garbage(data: bytes) -> None:
    try:
        channel, payload = unpack_channel_data(data)
    except DecodeError:
        return
    assert FIRST_CHANNEL <= channel <= LAST_CHANNEL
    assert len(payload) <= len(data) - 4


def test_what_does_not_fit_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        pack_channel_data(FIRST_CHANNEL, bytes(65536), padded=False)
