"""One-time codes as people pass them on: `4821-piano-zebra`.

The number says where the two meet and is no secret; the words are the password, 20 bits, of which each code allows one
guess (`proto/code_talk.py`).
"""

from __future__ import annotations

import hashlib
import re
from base64 import b32encode
from collections.abc import Callable

from warpgate.errors import AddressError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.code_words import WORDS

CHANNELS = 9999
WORDS_IN_A_CODE = 2
ENTROPY_BITS = 20
_LIKE_A_CODE = re.compile(r"\s*\d{1,5}([\s-]+[A-Za-z]+){2}\s*")
_KNOWN = frozenset(WORDS)


@dataclass(frozen=True, slots=True)
class OneTimeCode:
    """`channel` is 1 to 9999; `words` are two of the list."""

    channel: int
    words: tuple[str, ...]

    @classmethod
    def generate(cls, below: Callable[[int], int]) -> OneTimeCode:
        """`below(n)`: a random number from 0 to n - 1, good enough for secrets."""
        words = tuple(WORDS[below(len(WORDS))] for _ in range(WORDS_IN_A_CODE))
        return cls(1 + below(CHANNELS), words)

    @classmethod
    def parse(cls, text: str) -> OneTimeCode:
        """AddressError that names the word which is none, and one that is like it."""
        if not looks_like_code(text):
            raise AddressError("a one-time code is a number and two words: 4821-piano-zebra")
        number, *words = re.split(r"[\s-]+", text.strip().lower())
        if not 1 <= int(number) <= CHANNELS:
            raise AddressError(f"a one-time code begins with a number from 1 to {CHANNELS}, not {int(number)}")
        for word in words:
            if word not in _KNOWN:
                import difflib  # noqa: PLC0415 - only for who has mistyped

                like = difflib.get_close_matches(word, WORDS, n=1)
                hint = f": is it {like[0]!r}?" if like else ""
                raise AddressError(f"no one-time code has {word!r} in it{hint}")
        return cls(int(number), tuple(words))

    def __str__(self) -> str:
        return "-".join((str(self.channel), *self.words))

    @property
    def password(self) -> bytes:
        return str(self).encode()

    def topic(self, side: str) -> str:
        """Where `side` ("offer" or "take") listens: the last level of a broker's topic, of the number alone."""
        digest = hashlib.sha256(f"warpgate/1 code {self.channel} {side}".encode()).digest()
        return b32encode(digest[:16]).decode("ascii").rstrip("=").lower()


def looks_like_code(text: str) -> bool:
    """Whether it was meant to be one: a number and two words."""
    return _LIKE_A_CODE.fullmatch(text) is not None and text.isascii()
