"""The internet: one asyncio process that carries IP packets between the hosts, through routers and lines.

    host's Uplink -> Router (-> Router) -> Line -> Core -> Line -> (Router ->) Router -> Uplink

Everything is a function that takes a packet. Only lines cost time, and only the scheduler waits.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from warpgate.errors import DecodeError
from warpgate.lab.answers import Complaint, complain
from warpgate.lab.flow import Protocol
from warpgate.lab.line import Deliver, Line, Quality, Scheduler
from warpgate.lab.namespace import MTU, is_gone
from warpgate.lab.packet import Packet, parse
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import IPAddress

# Packets taken from one TUN device per wake-up, so that a busy host cannot keep the others waiting.
DRAIN: Final = 64
CLOSERS: Final = 64
CORE_ADDRESSES: Final[tuple[IPAddress, ...]] = (IPv4Address("192.0.2.1"), IPv6Address("2001:db8:ffff::1"))
# Routers along the lines, the source of their "time exceeded" errors.
LINE_ADDRESSES: Final[tuple[IPAddress, ...]] = (IPv4Address("192.0.2.2"), IPv6Address("2001:db8:ffff::2"))


@dataclass(slots=True)
class HostCounters:
    """Packets of one uplink. `in` is what reached the host, `overflowed` what its device queue did not take."""

    packets_out: int = 0
    packets_in: int = 0
    octets_out: int = 0
    octets_in: int = 0
    overflowed: int = 0


class Uplink:
    """A host's TUN device, seen from the internet. Owns the descriptor."""

    def __init__(self, fd: int) -> None:
        self.up: Deliver = _unplugged
        self.counters = HostCounters()
        self._fd = fd
        self._released = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._readable)

    def deliver(self, packet: Packet) -> None:
        if self._released:
            return
        try:
            os.write(self._fd, packet.data)
        except BlockingIOError:
            self.counters.overflowed += 1
        except OSError as error:
            if not is_gone(error):
                raise
        else:
            self.counters.packets_in += 1
            self.counters.octets_in += len(packet.data)

    def _readable(self) -> None:
        for _ in range(DRAIN):
            try:
                data = os.read(self._fd, MTU)
            except BlockingIOError:
                return
            except OSError as error:
                if is_gone(error):
                    self._loop.remove_reader(self._fd)
                    return
                raise
            try:
                packet = parse(bytearray(data))
            except DecodeError:
                continue  # a host may send anything through a raw socket
            if not _is_local_noise(packet):
                self.counters.packets_out += 1
                self.counters.octets_out += len(data)
                self.up(packet)

    def release(self) -> int:
        """Stop reading and writing; the descriptor is the caller's to close."""
        self._released = True
        self._loop.remove_reader(self._fd)
        return self._fd


@dataclass(frozen=True, slots=True)
class Access:
    """The two directions of the line between a site and the core."""

    up: Line
    down: Line

    def plug(self, site: Deliver) -> None:
        """Connect the site's end: `site` takes what comes down."""
        self.down.deliver = site
        self.up.bounce = site


class Internet:
    """The core: it knows which line leads to a public address. Enter the event loop before making one.

    `unreachable`: packets for nobody are answered with ICMP host unreachable instead of silence.
    """

    def __init__(self, rng: random.Random, *, unreachable: bool = False) -> None:
        self.scheduler = Scheduler()
        self.undeliverable = 0
        self._rng = rng
        self._unreachable = unreachable
        self._routes: dict[bytes, Line] = {}
        self._uplinks: list[Uplink] = []
        self._cut: set[tuple[frozenset[bytes], Protocol]] = set()

    def connect(self, quality: Quality) -> Access:
        """Lay a line to a site: plug its outermost element in, and let it send through `access.up.send`."""
        up, down = (
            Line(self.scheduler, quality, self._rng, deliver=out, bounce=back, routers=LINE_ADDRESSES)
            for out, back in ((self._receive, _unplugged), (_unplugged, self._receive))
        )
        return Access(up, down)

    def route(self, addresses: Sequence[IPAddress], access: Access) -> None:
        """Announce public addresses as reachable over this line."""
        for ip in addresses:
            self._routes[ip.packed] = access.down

    def withdraw(self, *addresses: IPAddress) -> None:
        """Announce no more: what is sent there is lost, as where a provider routes a family badly."""
        for ip in addresses:
            self._routes.pop(ip.packed, None)

    def partition(
        self, one: Iterable[IPAddress], other: Iterable[IPAddress], protocols: Iterable[Protocol] = Protocol
    ) -> None:
        """Drop what these public addresses send to each other, silently; everybody else is in reach of both."""
        self._cut |= {
            (frozenset((a.packed, b.packed)), protocol)
            for a in one
            for b in other
            for protocol in protocols
            if a.version == b.version
        }

    def heal(self) -> None:
        """Undo every `partition`."""
        self._cut.clear()

    def attach(self, fd: int) -> Uplink:
        """Take charge of a TUN descriptor; its packets go to the uplink's `up`, which is to be set."""
        uplink = Uplink(fd)
        self._uplinks.append(uplink)
        return uplink

    def detach(self, uplink: Uplink) -> None:
        """Pull the plug: the host's device is gone, with its addresses and routes."""
        self._uplinks.remove(uplink)
        os.close(uplink.release())

    def close(self) -> None:
        """Give up all devices. Closing one takes the kernel 30 ms, closing many at once takes hardly longer."""
        self.scheduler.close()
        if self._uplinks:
            with ThreadPoolExecutor(min(len(self._uplinks), CLOSERS)) as closers:
                list(closers.map(os.close, [uplink.release() for uplink in self._uplinks]))
        self._uplinks.clear()

    def _receive(self, packet: Packet) -> None:
        if self._cut and self._is_cut(packet):
            return
        line = self._routes.get(packet.destination)
        if line is not None:
            line.send(packet)
            return
        self.undeliverable += 1
        if self._unreachable:
            error = complain(packet, Complaint.HOST_UNREACHABLE, CORE_ADDRESSES[packet.version == 6])
            if error is not None and error.destination in self._routes:
                self._receive(error)

    def _is_cut(self, packet: Packet) -> bool:
        flow = packet.flow
        if flow is None:
            return False
        return (frozenset((flow.source.ip.packed, flow.destination.ip.packed)), flow.protocol) in self._cut


def _unplugged(_: Packet) -> None:
    """Where packets go while a cable end hangs loose."""


def _is_local_noise(packet: Packet) -> bool:
    """Multicast and link-local destinations: they never leave a link, and nobody else is on ours."""
    destination = packet.destination
    if packet.version == 4:
        return destination[0] >= 224 or destination[:2] == b"\xa9\xfe"
    return destination[0] == 0xFF or (destination[0] == 0xFE and destination[1] & 0xC0 == 0x80)
