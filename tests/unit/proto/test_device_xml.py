"""XML of routers: what is forgiven, and what a hostile document may cost."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest

from warpgate.errors import DecodeError
from warpgate.proto.device_xml import DEEPEST, LARGEST_DOCUMENT, MOST_ELEMENTS, read_elements


def read(document: bytes) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    read_elements(document, lambda path, text: found.append(("/".join(path), text)))
    return found


def test_elements_come_at_their_end_with_their_own_text() -> None:
    document = b'<?xml version="1.0"?><a xmlns="urn:x"><b> one <!-- no --><![CDATA[<two>]]></b><s:c x="1"/></a>'
    assert read(document) == [("a/b", "one <two>"), ("a/c", ""), ("a", "")]


@pytest.mark.parametrize(
    "document",
    [
        b"\r\n\r\n<a>1</a>",
        b"<a>1</a>\0\0\r\n",
        b'\n<?xml version="1.0" encoding="ISO-8859-1"?><a>1</a>',
        b"<u:a>1</u:a>",
        "<a>1</a>".encode("utf-16"),
        b'\xef\xbb\xbf<?xml version="1.0"?><a>1</a>',
    ],
)
def test_what_routers_get_wrong_is_forgiven(document: bytes) -> None:
    assert read(document) == [("a", "1")]


def test_a_query_that_is_not_escaped_is_read_as_meant() -> None:
    assert read(b"<a>/x?b=1&c=2&amp;d=3&#65;&nbsp;</a>") == [("a", "/x?b=1&c=2&d=3A&nbsp;")]


LAUGHS = b"<!DOCTYPE a [" + b"".join(
    b'<!ENTITY l%d "%s">' % (number, b"&l%d;" % (number - 1) * 10 if number else b"ha" * 10) for number in range(9)
)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<a>",
        b"<a></b>",
        b"plain text",
        b"\x1f\x8b\x08\x00" + bytes(20),
        b"<!DOCTYPE a><a/>",
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        LAUGHS + b"]><a>&l8;</a>",
        b'<?xml version="1.0" encoding="klingon"?><a/>',
        b'<?xml version="1.0" encoding="punycode"?><a/>',
        b"<a>" * (DEEPEST + 1) + b"</a>" * (DEEPEST + 1),
        b"<a>" + b"<b/>" * MOST_ELEMENTS + b"</a>",
        b" " * (LARGEST_DOCUMENT + 1),
    ],
)
def test_everything_else_is_one_error(document: bytes) -> None:
    with pytest.raises(DecodeError):
        read(document)


def test_long_texts_are_read_as_empty() -> None:
    assert read(b"<a>" + b"x" * 1024 + b"</a>") == [("a", "x" * 1024)]
    assert read(b"<a>" + b"x" * 1025 + b"</a>") == [("a", "")]


@pytest.mark.parametrize(
    "document",
    [
        b"<a>" + b"<b/>" * 2_000_000,
        b"<a>" + b"<b/>" * ((LARGEST_DOCUMENT - 10) // 4),
        b"<a>" * (LARGEST_DOCUMENT // 3),
        b"<a " + b" ".join(b'a%d="x"' % number for number in range(20_000)) + b"/>",
        b"<a>" + b"&amp;" * (LARGEST_DOCUMENT // 5 - 10) + b"</a>",
        b"<a>" + b"&" * (LARGEST_DOCUMENT - 10) + b"</a>",
        LAUGHS + b"]><a>&l8;</a>",
    ],
    ids=["two-million-tags", "tags", "depth", "attributes", "entities", "ampersands", "laughs"],
)
def test_a_document_costs_its_own_size_and_a_few_megabytes(document: bytes) -> None:
    tracemalloc.start()
    try:
        with contextlib.suppress(DecodeError):
            read_elements(document, lambda path, text: None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20
