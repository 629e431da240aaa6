"""The client's side of a WebSocket (RFC 6455) that carries a stream of bytes in binary messages: MQTT through the web.

Pure: nonce and masking keys are arguments. A frame's payload is handed on as it comes, so frames may have any size, and
nothing is kept of them; the bounds are those of what is carried.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct

from warpgate.errors import ProtocolError

NONCE_SIZE = 16  # section 4.1
MASK_SIZE = 4
# Servers and the proxies before them answer an upgrade with 200 to 1,000 bytes.
LARGEST_HEAD = 8 * 1024
# In one `receive`, each 6 us however short: what brokers send has 100 bytes and more, and an arrival at most 256 KiB.
MOST_FRAMES = 2560
_LARGEST_CONTROL = 125  # section 5.5
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2})(?: [^\r\n]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*?)[ \t]*")


def upgrade(authority: str, path: str, nonce: bytes, protocol: str) -> bytes:
    """The request that opens a WebSocket (section 4.1); `authority` as in a Host field."""
    fields = (
        f"GET {path} HTTP/1.1",
        f"Host: {authority}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(nonce).decode()}",
        f"Sec-WebSocket-Protocol: {protocol}",
        "Sec-WebSocket-Version: 13",
    )
    return "\r\n".join((*fields, "", "")).encode("ascii")


def frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """One whole message of the client's, masked (section 5.3)."""
    size = len(payload)
    if size <= _LARGEST_CONTROL:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    stream = (mask * (size // MASK_SIZE + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")
    return head + mask + masked.to_bytes(size, "big")


class WebSocketReader:
    """What the server sends, from its answer to `upgrade` on.

    `open` once the upgrade is accepted; `frames` counts those that have begun, for whoever rations them; `ping` is the
    payload of the last Ping that nobody has taken, to be answered (section 5.5.3: the most recent one is enough).
    `closed` says how the server ended it, "" before; what comes after that is dropped.
    """

    def __init__(self, nonce: bytes, protocol: str) -> None:
        self.open = False
        self.frames = 0
        self.ping: bytes | None = None
        self.closed = ""
        self._accept = base64.b64encode(hashlib.sha1(base64.b64encode(nonce) + _GUID).digest())
        self._protocol = protocol.encode("ascii")
        self._held = bytearray()  # of the answer, a frame's head, or a control frame; never more than one of these
        self._left = 0  # of the present data frame's payload
        self._fragmented = False  # between the first frame of a message and its last

    def receive(self, data: bytes) -> bytes:
        """The payload in it. ProtocolError for anything but a WebSocket with binary messages."""
        if not self.open:
            data = self._answer(data)
        out = bytearray()
        view = memoryview(data)
        most = self.frames + MOST_FRAMES
        while view and not self.closed:
            if self.frames > most:
                raise ProtocolError("too many small WebSocket frames")
            if self._left:
                out += view[: self._left]
                taken = min(self._left, len(view))
                self._left -= taken
                view = view[taken:]
                continue
            view = self._head(view)
        return bytes(out)

    # -- the answer to the upgrade -------------------------------------------------------------------------------

    def _answer(self, data: bytes) -> bytes:
        """What follows the answer; b"" while that is not complete."""
        self._held += data
        head, end, rest = self._held.partition(b"\r\n\r\n")
        if len(head) > LARGEST_HEAD:
            raise ProtocolError(f"the answer to the upgrade has more than {LARGEST_HEAD} bytes")
        if not end:
            return b""
        self._judge(bytes(head))
        self.open = True
        self._held.clear()
        return bytes(rest)

    def _judge(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        status = _STATUS.fullmatch(first)
        if status is None:
            raise ProtocolError("the answer to the upgrade is not HTTP/1.1")
        if status[1] != b"101":
            raise ProtocolError(f"no WebSocket: the server answers {status[1].decode()}")
        fields: dict[bytes, bytes] = {}
        for line in lines:
            match = _FIELD.fullmatch(line)
            if match is None:
                raise ProtocolError("the answer to the upgrade has a malformed field")
            name = match[1].lower()
            fields[name] = fields[name] + b"," + match[2] if name in fields else match[2]
        tokens = [token.strip().lower() for token in fields.get(b"connection", b"").split(b",")]
        if fields.get(b"upgrade", b"").lower() != b"websocket" or b"upgrade" not in tokens:
            raise ProtocolError("no WebSocket: the server has not upgraded the connection")
        if fields.get(b"sec-websocket-accept") != self._accept:
            raise ProtocolError("no WebSocket: the server has not read the request")
        if b"sec-websocket-extensions" in fields:
            raise ProtocolError("the server uses an extension that was not offered")
        # MQTT 5 section 6.0: the server must select it; some leave the field out.
        if fields.get(b"sec-websocket-protocol", self._protocol) != self._protocol:
            raise ProtocolError("the server speaks another protocol over this WebSocket")

    # -- frames --------------------------------------------------------------------------------------------------

    def _head(self, view: memoryview) -> memoryview:
        """Take what a frame's head (and a control frame's payload) lacks, and begin the frame when it is complete."""
        lacking = self._wanted() - len(self._held)
        self._held += view[:lacking]
        if len(self._held) == self._wanted():
            self._begin()
        return view[lacking:]

    def _wanted(self) -> int:
        """How many bytes the head has, as far as it is known; with a control frame its payload counts as head."""
        if len(self._held) < 2:
            return 2
        size = self._held[1] & 0x7F
        if self._held[0] & 0x08:
            return 2 + min(size, _LARGEST_CONTROL)
        return 2 + {126: 2, 127: 8}.get(size, 0)

    def _begin(self) -> None:
        first, second = self._held[0], self._held[1]
        final, opcode, size = bool(first & 0x80), first & 0x0F, second & 0x7F
        if first & 0x70 or second & 0x80:
            raise ProtocolError("a WebSocket frame with reserved bits, or masked by the server")
        rest = bytes(self._held[2:])
        self._held.clear()
        self.frames += 1
        if opcode & 0x08:
            self._control(opcode, final and size <= _LARGEST_CONTROL, rest)
            return
        if opcode != (CONTINUATION if self._fragmented else BINARY):
            raise ProtocolError(f"a WebSocket frame with opcode {opcode} out of place")
        self._fragmented = not final
        self._left = int.from_bytes(rest, "big") if rest else size
        if self._left >> 63:
            raise ProtocolError("a WebSocket frame of an impossible size")

    def _control(self, opcode: int, valid: bool, payload: bytes) -> None:
        if not valid or opcode not in (CLOSE, PING, PONG):
            raise ProtocolError("an invalid WebSocket control frame")
        if opcode == CLOSE:
            code = f" ({int.from_bytes(payload[:2], 'big')})" if len(payload) >= 2 else ""
            self.closed = f"the broker closed the WebSocket{code}"
        if opcode == PING:
            self.ping = payload
