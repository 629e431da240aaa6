"""What every system is asked about its network: addresses, default routes, and when they change."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import IPAddress

RESOLVER_FILE = Path("/etc/resolv.conf")
LARGEST_RESOLVER_FILE = 64 * 1024


@dataclass(frozen=True, slots=True)
class AssignedAddress:
    """What the system says about one address of one interface."""

    name: str
    ip: IPAddress
    prefix: int
    running: bool = True
    temporary: bool = False  # RFC 8981: changes daily
    deprecated: bool = False  # RFC 4862 section 5.5.4: not for new connections
    tentative: bool = False  # not checked for duplicates yet, or found to be one
    index: int = 0


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """A link-local IPv6 router carries its scope."""

    interface: str
    router: IPAddress


class Interfaces:
    """The answers here are for a system nothing is known of."""

    may_set_proxy = False  # whether a web proxy can be set elsewhere than in variables, where urllib finds it

    signs_are_sure = True  # whether every change has a sign; else the state is compared now and then as well

    def assigned(self) -> tuple[AssignedAddress, ...]:
        """All addresses of all interfaces, in the system's order."""
        import ifaddr  # noqa: PLC0415 - 30 ms, and Linux is asked in another way

        return tuple(
            AssignedAddress(adapter.nice_name, address_of(each.ip), each.network_prefix, index=adapter.index or 0)
            for adapter in ifaddr.get_adapters()
            for each in adapter.ips
        )

    def default_routes(self) -> tuple[DefaultRoute, ...]:
        """Those with a router, IPv4 first, each family by metric. Empty also where they are not to be read."""
        return ()

    def resolvers(self) -> tuple[IPAddress, ...]:
        """Name servers of the system, the first choice first; () where that is not to be read."""
        try:
            with RESOLVER_FILE.open(encoding="utf-8", errors="replace") as file:
                lines = file.read(LARGEST_RESOLVER_FILE).splitlines()
        except OSError:
            return ()
        found: list[IPAddress] = []
        for words in map(str.split, lines):
            if words[:1] == ["nameserver"] and len(words) > 1:
                with contextlib.suppress(ValueError):
                    found.append(ip_address(words[1]))
        return tuple(ip for ip in found if not ip.is_link_local)  # its link would have to be named, too

    def watch(self, notify: Callable[[], None]) -> Callable[[], None] | None:
        """`notify()` on the running loop at each sign of a change, until what is returned is called.

        None where the system does not tell: the state has to be compared now and then.
        """
        return None

    def blind_spots(self) -> tuple[str, ...]:
        """What cannot be seen here, a clause each, with what comes of it."""
        return ("the default routes are not to be read here, so routers are not asked for port mappings",)


def address_of(told: str | tuple[str, int, int]) -> IPAddress:
    """As ifaddr gives it: IPv6 with flow and scope, which the system of its own may write into the text, too."""
    text = told if isinstance(told, str) else told[0]
    return ip_address(text.partition("%")[0])
