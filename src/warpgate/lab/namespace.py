"""Network namespaces with TUN devices, without helper binaries, as root or in a user namespace of our own.

A namespace lives as long as its file descriptor is open here or a process runs in it. Moving between
namespaces is per thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from warpgate.errors import ConfigError
from warpgate.lab import linux
from warpgate.lab.netlink import Netlink
from warpgate.model.endpoint import IPAddress

TUN_DEVICE: Final = Path("/dev/net/tun")
OWN_NAMESPACE: Final = Path("/proc/thread-self/ns/net")
TUNSETIFF: Final = 0x400454CA
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000
LOOPBACK: Final = 1  # lo is the first interface of every namespace
SECOND_TABLES: Final = 100  # routing tables 100, 101, ... belong to the uplinks
METRIC: Final = 100  # of the first device's routes
MTU: Final = 1500


class Namespace:
    """One network namespace: loopback up, nothing else until `add_tun`."""

    def __init__(self) -> None:
        with _returning():
            linux.unshare(linux.CLONE_NEWNET)
            self.fd = os.open(OWN_NAMESPACE, os.O_RDONLY | linux.O_CLOEXEC)
            with Netlink() as netlink:
                netlink.set_up(LOOPBACK)
        self.tuns = 0  # how many devices it has been given

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Run the block with this thread inside; sockets opened there stay there. Never `await` within."""
        with _returning():
            linux.setns(self.fd, linux.CLONE_NEWNET)
            yield

    def add_tun(
        self,
        addresses: tuple[tuple[IPAddress, int], ...],
        gateway: IPAddress | None,
        source_routed: bool = True,
        preferred: bool = False,
    ) -> int:
        """A TUN device `net0`, `net1`, ... with these (address, prefix length) and default routes through it.

        Returns the descriptor, non-blocking, one IP packet a read or write. The first device is preferred,
        unless a further one is; each further one is used for what is sent from its own addresses, if it is
        `source_routed`.
        """
        number, self.tuns = self.tuns, self.tuns + 1
        with self.entered():
            fd = os.open(TUN_DEVICE, os.O_RDWR | linux.O_NONBLOCK | linux.O_CLOEXEC)
            try:
                metric = METRIC - number if preferred else METRIC + number
                _configure(fd, number, addresses, gateway, metric, source_routed and number > 0)
            except BaseException:
                os.close(fd)
                raise
        return fd

    def close(self) -> None:
        os.close(self.fd)


def _configure(
    fd: int,
    number: int,
    addresses: tuple[tuple[IPAddress, int], ...],
    gateway: IPAddress | None,
    metric: int,
    source_routed: bool,
) -> None:
    name = f"net{number}"
    linux.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    index = socket.if_nametoindex(name)
    with Netlink() as netlink:
        netlink.prepare(index, MTU)
        netlink.set_up(index)
        for ip, prefix in addresses:
            netlink.add_address(index, ip, prefix)
        for version in {ip.version for ip, _ in addresses}:
            via = gateway if gateway is not None and gateway.version == version else None
            netlink.add_default_route(index, version, via, metric)
            if source_routed:
                netlink.add_default_route(index, version, via, METRIC, SECOND_TABLES + number)
        for ip, _ in addresses if source_routed else ():
            netlink.add_source_rule(ip, SECOND_TABLES + number, priority=1000 + number)


def acquire_privileges() -> None:
    """Make sure that this process may create namespaces: it may already, or it enters a user namespace.

    Call before the process has a second thread. Raises ConfigError that says what is missing.
    """
    if not TUN_DEVICE.exists():
        raise ConfigError(f"the lab needs {TUN_DEVICE} (kernel module tun; in a container pass --device {TUN_DEVICE})")
    if not os.access(TUN_DEVICE, os.R_OK | os.W_OK):
        raise ConfigError(f"the lab needs {TUN_DEVICE}, which this user may not open (chmod 666, or run as root)")
    try:
        Namespace().close()
    except PermissionError:
        _enter_user_namespace()


def _enter_user_namespace() -> None:
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise ConfigError(
            f"without root the lab must be started in a process with one thread, and this one has {threads}"
        )
    uid, gid = linux.user_and_group()
    try:
        # The network namespace too: the outer one belongs to another user namespace, and we could not
        # return to it.
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise ConfigError(
            f"the lab needs root, or user namespaces, which this system refuses ({error}; see the sysctls "
            "user.max_user_namespaces, kernel.unprivileged_userns_clone, "
            "kernel.apparmor_restrict_unprivileged_userns)"
        ) from error
    with Netlink() as netlink:
        netlink.set_up(LOOPBACK)
    Namespace().close()


@contextlib.contextmanager
def _returning() -> Iterator[None]:
    """Come back to the thread's present network namespace after the block."""
    home = os.open(OWN_NAMESPACE, os.O_RDONLY | linux.O_CLOEXEC)
    try:
        yield
    finally:
        linux.setns(home, linux.CLONE_NEWNET)
        os.close(home)


def is_gone(error: OSError) -> bool:
    """True when a TUN descriptor says that its device is down or removed."""
    return error.errno in (errno.EIO, linux.EBADFD, errno.ENODEV)
