"""A malicious peer of a QUIC connection: it has the keys, and writes its packets by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from qh3.quic.crypto import derive_key_iv_hp

from warpgate.core.connection.quic_engine import QuicEngine


class Forger:
    """Seals 1-RTT packets for `target` under the traffic secret of its peer."""

    def __init__(self, target: QuicEngine, secret: bytes) -> None:
        suite = target._quic.get_cipher()
        assert suite is not None
        key, iv, hp = derive_key_iv_hp(cipher_suite=suite, secret=secret, version=1)
        self._target, self._iv = target, int.from_bytes(iv, "big")
        self._aead, self._ecb = AESGCM(key), Cipher(AES(hp), ECB()).encryptor()
        self.number = 1000  # beyond what the honest handshake has used

    def seal(self, payload: bytes) -> bytes:
        number = self.number.to_bytes(4, "big")
        header = b"\x43" + self._target._quic.host_cid + number
        nonce = (self._iv ^ self.number).to_bytes(12, "big")
        sealed = self._aead.encrypt(nonce, payload.ljust(4, b"\0"), header)
        self.number += 1
        mask = self._ecb.update(sealed[:16])
        number = bytes(a ^ b for a, b in zip(number, mask[1:5], strict=True))
        return bytes((header[0] ^ (mask[0] & 0x1F),)) + header[1:-4] + number + sealed


def integer(value: int) -> bytes:
    """Four octets of RFC 9000 section 16."""
    return (0x80000000 | value).to_bytes(4, "big")


def stream_frame(stream: int, offset: int, data: bytes) -> bytes:
    return b"\x0e" + bytes((stream,)) + integer(offset) + integer(len(data)) + data


def holes(stream: int, start: int, count: int) -> bytes:
    """One-byte frames with every second byte missing."""
    return b"".join(b"\x0e" + bytes((stream,)) + integer(start + 2 * index) + b"\x01x" for index in range(count))


def batches(packets: Iterable[bytes], size: int = 50) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for packet in packets:
        batch.append(packet)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
