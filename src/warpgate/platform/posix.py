"""What Linux, macOS and the BSDs have in common: POSIX.1-2024, and sockets as 4.4BSD made them."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import socket
import struct
from fcntl import ioctl

from warpgate.model.endpoint import SockAddr
from warpgate.platform.sockets import Sockets

# net/if.h, linux/if.h. Without a carrier an interface keeps its addresses, and nobody can be reached there.
_IFF_UP, _IFF_RUNNING = 0x1, 0x40


def is_running(name: str, request: int) -> bool | None:
    """Whether the interface is up and has a carrier; None where it does not tell: it is gone, perhaps. `request` is
    SIOCGIFFLAGS: of a struct ifreq the first 16 bytes are the name and the next two the flags.
    """
    asked = struct.pack("16sh14x", name.encode()[:15], 0)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            flags: int = struct.unpack("16xH14x", ioctl(sock, request, asked))[0]
    except OSError:
        return None
    return flags & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING


class PosixSockets(Sockets):
    def listen_alone(self, sock: socket.socket, local: SockAddr, backlog: int) -> None:
        """SO_REUSEADDR for what a closed connection leaves behind (TIME-WAIT). SO_REUSEPORT once it listens: dials
        that set it too may then bind the same port, while a second listener, which binds without it, may not.
        """
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        super().listen_alone(sock, local, backlog)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    def share_port(self, sock: socket.socket) -> None:
        super().share_port(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    in_file_system = True

    def unix_socket(self) -> socket.socket:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def _bind_with(self, original: socket.socket, twin: socket.socket, local: SockAddr, *options: int) -> None:
        """For `bind_twin`."""
        try:
            for option in options:
                original.setsockopt(socket.SOL_SOCKET, option, 1)
                twin.setsockopt(socket.SOL_SOCKET, option, 1)
            twin.bind(local)
        finally:
            for option in options:
                original.setsockopt(socket.SOL_SOCKET, option, 0)
