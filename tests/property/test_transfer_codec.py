"""File transfers against strangers: frames, names, and a receiver that is sent whatever there is."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import fixed, mutated, only

from warpgate.errors import DecodeError, TransferRefused, WarpgateError
from warpgate.model.endpoint import Mode
from warpgate.model.text import printable
from warpgate.proto.transfer_names import NameRules, check_name, partial_name
from warpgate.proto.transfer_wire import (
    MAX_NAME,
    Abort,
    AnyMessage,
    Begin,
    Busy,
    Data,
    Deframer,
    Done,
    End,
    Entries,
    Entry,
    Finish,
    Have,
    Offer,
    Omit,
    Part,
    Refused,
    decode,
    encode,
)
from warpgate.transfer.receiver import Receiver

sizes = st.integers(0, 2**62)
digests = st.binary(min_size=32, max_size=32)
nasty = st.sampled_from(
    [
        "..",
        ".",
        "",
        "/",
        "/etc",
        "a/../b",
        "a\0b",
        "~",
        "link",
        "outside",
        "C:\\x",
        "aux",
        ".a.aaaaaaaaaaaa.wgpart",
        "a",
        "b",
    ]
)
names = nasty.filter(bool) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
entries = st.builds(
    Entry,
    st.lists(names, max_size=4).map(tuple),
    st.booleans(),
    sizes,
    st.integers(-(2**63), 2**64 - 1),
    st.booleans(),
)
messages: st.SearchStrategy[AnyMessage] = st.one_of(
    st.builds(
        Offer,
        st.integers(0, 3),
        st.binary(min_size=16, max_size=16),
        names,
        st.booleans(),
        st.integers(0, 9),
        sizes,
    ),
    st.builds(Entries, st.lists(entries, min_size=1, max_size=5).map(tuple)),
    st.builds(Begin, st.integers(0, 9), sizes),
    st.builds(Data, st.binary(min_size=1, max_size=50)),
    st.builds(End, digests),
    st.just(Finish()),
    st.builds(Abort, st.text(max_size=20)),
    st.just(Busy()),
    st.builds(Omit, st.integers(0, 99)),
    st.builds(Done, st.booleans()),
    st.builds(
        Have,
        st.lists(st.builds(Part, st.integers(0, 9), st.integers(1, 99), digests), max_size=4).map(tuple),
        st.booleans(),
    ),
    st.builds(Refused, st.text(max_size=9), st.text(max_size=20)),
)


@fixed
@given(messages)
def test_messages_come_back(message: AnyMessage) -> None:
    assert decode(encode(message)[4:]) == message


@fixed
@given(st.lists(messages, max_size=5), st.data())
def test_frames_come_out_whole_however_the_stream_is_cut(sent: list[AnyMessage], data: st.DataObject) -> None:
    stream = b"".join(map(encode, sent))
    deframer, received = Deframer(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        received += deframer.feed(stream[:cut])
        stream = stream[cut:]
    assert received == sent
    assert not deframer.pending


@fixed
@given(st.binary(max_size=200) | mutated(messages.map(encode)))
def test_garbage_is_a_decode_error(data: bytes) -> None:
    only(lambda garbage: list(Deframer().feed(garbage)), data, DecodeError)
    only(decode, data, DecodeError)


@fixed
@given(messages, st.binary(max_size=20))
def test_garbage_behind_a_message_is_a_decode_error(message: AnyMessage, body: bytes) -> None:
    stream = encode(message) + (len(body) + 1).to_bytes(4, "big") + b"\xc1" + body
    frames = Deframer().feed(stream)
    assert next(frames) == message
    with pytest.raises(DecodeError):
        next(frames)


@fixed
@given(st.text(max_size=300) | nasty)
def test_a_name_that_passes_is_one_file_in_the_directory(name: str) -> None:
    try:
        check_name(name, NameRules())
    except TransferRefused as refusal:
        said = str(refusal)
    else:
        said = printable(name)
        assert os.path.split(os.path.normpath(os.path.join("/x", name))) == ("/x", name)
    assert said.isprintable()
    assert len(partial_name(name, "p" * 26).encode()) <= MAX_NAME


class Script:
    """A pipe from a sender who says just this, and hangs up."""

    mode = Mode.STREAM
    peer = "a" * 26

    def __init__(self, stream: bytes) -> None:
        self._stream = [stream] if stream else []
        self.said = b""

    async def recv(self, timeout: float | None = None) -> bytes:
        return self._stream.pop() if self._stream else b""

    async def send(self, data: bytes) -> None:
        self.said += data

    def write_eof(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


def plausible(sizes: list[int]) -> st.SearchStrategy[list[AnyMessage]]:
    """A transfer that is right but for its names."""
    paths = st.lists(st.lists(names, min_size=1, max_size=3).map(tuple), min_size=len(sizes), max_size=len(sizes))

    def build(name: str, paths: list[tuple[str, ...]]) -> list[AnyMessage]:
        rows = [Entry(path, False, size, 0, True) for path, size in zip(paths, sizes, strict=True)]
        files: list[AnyMessage] = []
        for index, size in enumerate(sizes):
            content = b"x" * size
            files += [
                Begin(index, 0),
                *([Data(content)] if size else []),
                End(hashlib.sha256(content).digest()),
            ]
        return [
            Offer(1, bytes(16), name, True, len(rows), sum(sizes)),
            Entries(tuple(rows)),
            *files,
            Finish(),
        ]

    return st.builds(build, names, paths)


@settings(fixed, max_examples=150)
@given(
    st.lists(messages, max_size=8) | plausible([3]) | plausible([0, 5]) | plausible([1, 1, 1]),
    st.booleans(),
)
def test_nothing_is_written_outside_of_the_directory(talk: list[AnyMessage], overwrite: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        outside, inside = Path(folder) / "outside", Path(folder) / "inside"
        outside.mkdir()
        inside.mkdir()
        (outside / "a").write_bytes(b"kept")
        (inside / "link").symlink_to(outside)
        (inside / "b").mkdir()
        (inside / "b" / "link").symlink_to(outside)
        (inside / "a").write_bytes(b"mine")
        asyncio.run(take(Script(b"".join(map(encode, talk))), inside, overwrite))
        assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"a": b"kept"}
        assert sorted(os.listdir(folder)) == ["inside", "outside"]
        assert (inside / "link").is_symlink()
        assert overwrite or (inside / "a").read_bytes() == b"mine"


async def take(pipe: Any, folder: Path, overwrite: bool) -> None:
    with contextlib.suppress(WarpgateError):
        await Receiver(folder, overwrite=overwrite).take(pipe)


@fixed
@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_at_all(data: bytes) -> None:
    """Length prefixes that promise more, nested arrays, and what comes by chance."""
    deframer = Deframer()
    try:
        for message in deframer.feed(data):
            assert decode(msgspec.msgpack.encode(message)) == message
    except DecodeError:
        pass
