"""Which addresses this machine has, who its gateways are, and when that changes.

Everything is read afresh on each call: addresses are few, calls are rare, and a cache would have to be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import groupby

from warpgate.model.scope import UNIQUE_LOCAL
from warpgate.net.network import Gateway, Interface
from warpgate.platform import INTERFACES
from warpgate.platform.interfaces import AssignedAddress

# One stable and one more: addresses travel in the node's address, and a host with privacy extensions easily
# has eight, all behind the same link.
GLOBAL_V6_PER_INTERFACE = 2

# Changes come in bursts (DHCP, IPv6 autoconfiguration): one is over when nothing more has come for so long. A move to
# another network is one, and pipes wait for its end; who goes on changing is looked at all the same.
QUIET = 0.05
DEBOUNCE = 0.25
POLL = 5.0


def enumerate_interfaces() -> tuple[Interface, ...]:
    """See `Network.interfaces`."""
    return usable(INTERFACES.assigned())


def usable(addresses: Iterable[AssignedAddress]) -> tuple[Interface, ...]:
    """The addresses others can be given: IPv4 as it is, of IPv6 the best `GLOBAL_V6_PER_INTERFACE`, per
    interface; and after these the spare ones, which may be in use.
    """
    fit = [
        address
        for address in addresses
        if address.running
        and not address.tentative
        and not (address.ip.is_link_local or address.ip.is_multicast or address.ip.is_unspecified)
    ]
    chosen: list[AssignedAddress] = []
    for _, group in groupby(fit, key=lambda address: address.name):
        own = list(group)
        chosen += [address for address in own if address.ip.version == 4]
        chosen += _best_v6([address for address in own if address.ip.version == 6])
    spare = [address for address in fit if address not in chosen]
    return tuple(
        Interface(address.name, address.ip, address.prefix, address.index, address in spare)
        for address in (*chosen, *spare)
    )


def _best_v6(addresses: list[AssignedAddress]) -> list[AssignedAddress]:
    """Stable before temporary, because the address is published; one global and one local (ULA) where both
    are. A deprecated one only where it is the last of its kind: it will be gone (RFC 4862 section 5.5.4).
    """
    lasting = {address.ip in UNIQUE_LOCAL for address in addresses if not address.deprecated}
    addresses = [
        address for address in addresses if not address.deprecated or (address.ip in UNIQUE_LOCAL) not in lasting
    ]
    ranked = sorted(addresses, key=lambda address: (address.deprecated, address.temporary))
    first_of_kind = {address.ip in UNIQUE_LOCAL: address for address in reversed(ranked)}
    kinds = [first_of_kind[kind] for kind in (False, True) if kind in first_of_kind]
    best = sorted(kinds, key=lambda address: address.deprecated)
    best += [address for address in ranked if address not in best]
    return best[:GLOBAL_V6_PER_INTERFACE]


def default_gateways() -> tuple[Gateway, ...]:
    """Default routes with a gateway, IPv4 first, each family by metric; empty where they are not to be read."""
    return tuple(Gateway(route.interface, route.router) for route in INTERFACES.default_routes())


def _current() -> object:
    found = enumerate_interfaces()
    return found, [interface.index for interface in found], default_gateways()


class InterfaceWatcher:
    """Calls `on_change()` when addresses or gateways have changed: `quiet` seconds after the last sign of it,
    `debounce` after the first one at the latest.

    Where the system does not tell, the state is compared every `poll` seconds. Signs that change nothing (a lifetime
    was renewed, a wireless event) are not passed on. Watches from construction to `close`.
    """

    def __init__(
        self,
        on_change: Callable[[], object],
        quiet: float = QUIET,
        debounce: float = DEBOUNCE,
        poll: float = POLL,
        current: Callable[[], object] = _current,
    ) -> None:
        """`current` is what is compared."""
        self._loop = asyncio.get_running_loop()
        self._on_change = on_change
        self._quiet = quiet
        self._debounce = debounce
        self._latest = 0.0  # when the present burst is looked at, whatever more comes
        self._poll = poll
        self._current = current
        self._known = current()
        self._timer: asyncio.TimerHandle | None = None
        self._stop_watching = INTERFACES.watch(self._notified)
        self._polls = self._stop_watching is None or not INTERFACES.signs_are_sure
        if self._polls:
            self._timer = self._loop.call_later(poll, self._compare)

    def _notified(self) -> None:
        now = self._loop.time()
        if now > self._latest:
            self._latest = now + self._debounce
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(min(now + self._quiet, self._latest), self._compare)

    def _compare(self) -> None:
        self._timer, self._latest = None, 0.0
        if self._polls:
            self._timer = self._loop.call_later(self._poll, self._compare)
        current = self._current()
        if current != self._known:
            self._known = current
            self._on_change()

    def close(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None
