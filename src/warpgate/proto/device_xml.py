"""XML of devices that nobody vouches for, read as a stream: no tree is built, so a document costs its own size.

Bounded in size, depth and number of elements; a document type declaration ends the reading, so there are no entities
but the five of XML itself. Lenient where routers of the field are wrong: namespaces are ignored, bare ampersands and
blanks before the declaration or NULs behind the document forgiven.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.parsers import expat

from warpgate.errors import DecodeError

# Descriptions of gateways in the field have 2 to 20 KiB, 100 to 500 elements, and 9 levels.
LARGEST_DOCUMENT = 256 * 1024
MOST_ELEMENTS = 4096
DEEPEST = 32
# Of one element; URLs and addresses are shorter. What is longer is read as empty.
LONGEST_TEXT = 1024
# Each costs a piece of memory of its own.
MOST_REPAIRS = 1024

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# A query string in a URL is often not escaped.
_BARE_AMPERSAND = re.compile(rb"&(?!(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9A-Fa-f]{1,6});)")

Path = tuple[str, ...]
Visitor = Callable[[Path, str], None]


def read_elements(document: bytes, visit: Visitor) -> None:
    """Call `visit` at the end of each element with the local names from the root to it, and its own text, stripped.

    DecodeError when it is not well-formed or exceeds a bound; by then some elements may have been visited.
    """
    if len(document) > LARGEST_DOCUMENT:
        raise DecodeError(f"XML of more than {LARGEST_DOCUMENT} bytes")
    parser = expat.ParserCreate()
    parser.buffer_text = True  # else one call for each line and each reference
    reader = _Reader(visit)
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(_repaired(document), True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        # The latter two: an encoding that Python does not know, or cannot use here.
        raise DecodeError(f"not XML: {error}") from None


def _repaired(document: bytes) -> bytes:
    if document.startswith(_UTF_16):
        return document
    return _BARE_AMPERSAND.sub(b"&amp;", document.strip(b" \t\r\n\0"), count=MOST_REPAIRS)


class _Reader:
    def __init__(self, visit: Visitor) -> None:
        self._visit = visit
        self._path: Path = ()
        self._texts: list[list[str]] = []
        self._lengths: list[int] = []
        self._count = 0

    def doctype(self, *_: object) -> None:
        raise DecodeError("XML with a document type declaration")

    def start(self, name: str, _: object) -> None:
        self._count += 1
        if self._count > MOST_ELEMENTS or len(self._path) == DEEPEST:
            raise DecodeError(f"XML of more than {MOST_ELEMENTS} elements or {DEEPEST} levels")
        self._path = (*self._path, name.rpartition(":")[2][:LONGEST_TEXT])
        self._texts.append([])
        self._lengths.append(0)

    def text(self, data: str) -> None:
        self._lengths[-1] += len(data)
        if self._lengths[-1] <= LONGEST_TEXT:
            self._texts[-1].append(data)

    def end(self, _: str) -> None:
        texts, length = self._texts.pop(), self._lengths.pop()
        self._visit(self._path, "".join(texts).strip() if length <= LONGEST_TEXT else "")
        self._path = self._path[:-1]
