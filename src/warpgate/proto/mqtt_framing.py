"""What a broker may send us, told from the fixed headers of its packets (MQTT 5 section 2.1): little.

We subscribe once, at QoS 0, and publish at QoS 0. So nothing is left to acknowledge, and every packet that belongs to
an acknowledged delivery is out of place; a client library would keep state for each.
"""

from __future__ import annotations

from warpgate.errors import ProtocolError

# An envelope has at most 4 KiB; the topic and the packet's head come on top.
LARGEST_PACKET = 4096 + 512

CONNACK, PUBLISH, SUBACK, PINGRESP, DISCONNECT = 2, 3, 9, 13, 14
_QOS = 0x06  # of a PUBLISH's first byte
_LENGTH_BYTES = 4


class Framing:
    """Follows the stream of one connection; `feed` it everything in order, in pieces of any size."""

    def __init__(self) -> None:
        self._expected = {CONNACK, DISCONNECT}
        self._length: int | None = None  # None: the next byte begins a packet
        self._shift = 0
        self._body = 0

    def feed(self, data: bytes) -> None:
        """ProtocolError as soon as a packet's header shows that it is not for us, whatever of it has come."""
        index = 0
        while index < len(data):
            if self._body:
                step = min(self._body, len(data) - index)
                self._body -= step
                index += step
                continue
            byte = data[index]
            index += 1
            if self._length is None:
                self._begin(byte)
            else:
                self._extend(byte)

    def _begin(self, first: int) -> None:
        kind = first >> 4
        if kind not in self._expected:
            raise ProtocolError(f"the broker sent an MQTT packet of type {kind} out of place")
        if kind == PUBLISH and first & _QOS:
            raise ProtocolError("the broker publishes at a QoS that was not subscribed to")
        if kind == CONNACK:
            self._expected = {SUBACK, PUBLISH, PINGRESP, DISCONNECT}
        elif kind == SUBACK:
            self._expected.discard(SUBACK)
        self._length, self._shift = 0, 0

    def _extend(self, byte: int) -> None:
        assert self._length is not None
        self._length |= (byte & 0x7F) << (7 * self._shift)
        self._shift += 1
        if self._length > LARGEST_PACKET or (byte & 0x80 and self._shift == _LENGTH_BYTES):
            raise ProtocolError("the broker sent a packet that is too large")
        if not byte & 0x80:
            self._body, self._length = self._length, None
