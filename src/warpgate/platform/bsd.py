"""macOS and the BSDs.

The facts: their manual pages setsockopt(2), ip(4), ip6(4), tcp(4), and the headers named at the constants. Read, not
run: docs/platforms.md.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import socket

from warpgate.model.endpoint import SockAddr
from warpgate.platform.interfaces import Interfaces
from warpgate.platform.posix import PosixSockets


class BsdSockets(PosixSockets):
    def bind_twin(self, original: socket.socket, twin: socket.socket, local: SockAddr) -> None:
        """The BSDs ask for SO_REUSEPORT, with which a connected socket is still preferred for its peer."""
        self._bind_with(original, twin, local, socket.SO_REUSEADDR, socket.SO_REUSEPORT)


class BsdInterfaces(Interfaces):
    pass
