"""A look into QUIC packets of the 1-RTT kind (RFC 9000 section 17.3.1): opened again beside the library, and taken
apart into frames, to see what they make the library hold.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import ECB

from warpgate.errors import ProtocolError
from warpgate.lazy_dataclass import dataclass
from warpgate.proto.quic_wire import CONNECTION_ID_SIZE, integer_at

STREAM_FIRST, STREAM_LAST = 0x08, 0x0F
_PADDING, _CLOSE, _APPLICATION_CLOSE = 0x00, 0x1C, 0x1D
_ACK, _ACK_ECN = 0x02, 0x03
_CRYPTO, _NEW_TOKEN, _NEW_CONNECTION_ID = 0x06, 0x07, 0x18
_DATAGRAM, _DATAGRAM_LENGTH = 0x30, 0x31
# Frames that are nothing but so many variable-length integers (RFC 9000 section 19).
_INTEGERS = {
    0x01: 0, 0x04: 3, 0x05: 2, 0x10: 1, 0x11: 2, 0x12: 1, 0x13: 1, 0x14: 1, 0x15: 2, 0x16: 1, 0x17: 1, 0x19: 1, 0x1E: 0,
}  # fmt: skip
_CHALLENGES = (0x1A, 0x1B)
_TAG = 16


@dataclass(frozen=True, slots=True)
class QuicFrame:
    """`stream` and `end` (the offset behind its last byte) of a STREAM frame with data, else -1."""

    kind: int
    stream: int = -1
    end: int = -1


class PacketOpener:
    """Opens packets of one direction of one connection, of its first key generation."""

    def __init__(self, key: bytes, iv: bytes, hp: bytes, *, chacha: bool, id_size: int = CONNECTION_ID_SIZE) -> None:
        """Keys of RFC 9001 section 5.1; `chacha`: ChaCha20-Poly1305, else AES-GCM; `id_size`: of connection ids."""
        self._pn_at = 1 + id_size
        self._aead = ChaCha20Poly1305(key) if chacha else AESGCM(key)
        self._iv = int.from_bytes(iv, "big")
        self._hp = hp
        self._ecb = None if chacha else Cipher(AES(hp), ECB()).encryptor()
        self._expected = 0

    def open(self, datagram: bytes) -> bytes | None:
        """The frames of the packet; None when it does not open (damaged, forged, or of renewed keys)."""
        sample = datagram[self._pn_at + 4 : self._pn_at + 20]
        if len(sample) < 16:
            return None
        mask = self._mask(sample)
        first = datagram[0] ^ (mask[0] & 0x1F)
        size = (first & 0x03) + 1
        short = bytes(byte ^ mask[i + 1] for i, byte in enumerate(datagram[self._pn_at : self._pn_at + size]))
        number = self._number(int.from_bytes(short, "big"), 8 * size)
        header = bytes((first,)) + datagram[1 : self._pn_at] + short
        nonce = (self._iv ^ number).to_bytes(12, "big")
        try:
            payload = self._aead.decrypt(nonce, datagram[self._pn_at + size :], header)
        except InvalidTag:
            return None
        self._expected = max(self._expected, number + 1)
        return payload

    def _mask(self, sample: bytes) -> bytes:
        """RFC 9001 section 5.4."""
        if self._ecb is not None:
            return self._ecb.update(sample)
        return Cipher(ChaCha20(self._hp, sample), None).encryptor().update(bytes(5))

    def _number(self, short: int, bits: int) -> int:
        """RFC 9000 appendix A.3."""
        window, half = 1 << bits, 1 << (bits - 1)
        candidate = (self._expected & ~(window - 1)) | short
        if candidate <= self._expected - half:
            return candidate + window
        if candidate > self._expected + half and candidate >= window:
            return candidate - window
        return candidate


def frames(payload: bytes) -> Iterator[QuicFrame]:
    """All but padding. ProtocolError for what is no sequence of frames."""
    reader = _Reader(payload)
    while reader.at < len(payload):
        kind = reader.integer()
        if kind != _PADDING:
            yield _frame(reader, kind)


def _frame(reader: _Reader, kind: int) -> QuicFrame:
    if STREAM_FIRST <= kind <= STREAM_LAST:
        stream = reader.integer()
        offset = reader.integer() if kind & 0x04 else 0
        size = reader.integer() if kind & 0x02 else reader.left
        reader.skip(size)
        return QuicFrame(kind, stream, offset + size) if size else QuicFrame(kind, stream)
    if kind in _INTEGERS:
        reader.integers(_INTEGERS[kind])
    elif kind in (_ACK, _ACK_ECN):
        reader.integers(2)
        reader.integers(2 * reader.integer() + 1 + (3 if kind == _ACK_ECN else 0))
    elif kind in (_CRYPTO, _CLOSE):
        reader.integers(1 if kind == _CRYPTO else 2)
        reader.skip(reader.integer())
    elif kind == _APPLICATION_CLOSE:
        reader.integers(1)
        reader.skip(reader.integer())
    elif kind in (_NEW_TOKEN, _DATAGRAM_LENGTH):
        reader.skip(reader.integer())
    elif kind == _DATAGRAM:
        reader.skip(reader.left)
    elif kind == _NEW_CONNECTION_ID:
        reader.integers(2)
        reader.skip(reader.byte() + _TAG)
    elif kind in _CHALLENGES:
        reader.skip(8)
    else:
        raise ProtocolError(f"a QUIC frame of type {kind:#x}")
    return QuicFrame(kind)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self.at

    def byte(self) -> int:
        self.skip(1)
        return self._data[self.at - 1]

    def integer(self) -> int:
        """RFC 9000 section 16."""
        value, self.at = integer_at(self._data, self.at)
        return value

    def integers(self, count: int) -> None:
        if count > self.left:
            raise ProtocolError("a QUIC frame that is cut short")
        for _ in range(count):
            self.integer()

    def skip(self, size: int) -> None:
        if size > self.left:
            raise ProtocolError("a QUIC frame that is cut short")
        self.at += size
