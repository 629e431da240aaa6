"""CONNECT (RFC 9110 section 9.3.6): asking a web proxy for a connection to somebody else."""

from __future__ import annotations

import base64
import re

from warpgate.errors import ProtocolError, ServiceError

# Proxies that refuse add a page of their own, which is not read; the fields of those that agree have 40 to 500 bytes.
LARGEST_HEAD = 8 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")


def connect_request(authority: str, login: tuple[str, str] | None = None) -> bytes:
    """`authority` is host:port; `login` (user, password) goes by Basic (RFC 7617)."""
    fields = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if login is not None:
        token = base64.b64encode(":".join(login).encode()).decode("ascii")
        fields.append(f"Proxy-Authorization: Basic {token}")
    return "\r\n".join((*fields, "", "")).encode("ascii")


class ConnectReader:
    """What the proxy says before the tunnel begins. `done` when it does."""

    def __init__(self) -> None:
        self.done = False
        self._held = bytearray()

    def receive(self, data: bytes) -> None:
        """ProtocolError for what is no answer, ServiceError with the status for a refusal."""
        self._held += data
        head, end, rest = self._held.partition(b"\r\n\r\n")
        if len(head) > LARGEST_HEAD:
            raise ProtocolError(f"the proxy's answer has more than {LARGEST_HEAD} bytes")
        if not end:
            return
        status = _STATUS.match(bytes(head) + b"\r\n")
        if status is None:
            raise ProtocolError("the proxy's answer is not HTTP")
        code = int(status[1])
        if not 200 <= code < 300:
            raise ServiceError(f"the proxy answers {code} to CONNECT")
        if rest:  # whoever is behind it waits for our first word
            raise ProtocolError("the proxy goes on talking after its answer")
        self.done = True
