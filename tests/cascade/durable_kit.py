"""A stream of counters on a durable pipe, and what befalls the networks beneath it: in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from ipaddress import ip_address

from cascade_world import World

from warpgate.core.pipes.base import Pipe
from warpgate.errors import PipeClosed
from warpgate.lab import counters as lab
from warpgate.lab.kinds import kind_of
from warpgate_testing.internet import firewall

Fault = Callable[[World], object]


class Counters(lab.Counters):
    """From one end, echoed by the other."""

    def __init__(self, one: Pipe, other: Pipe) -> None:
        super().__init__(one)
        self._other = other
        self._echoing = asyncio.ensure_future(self._echo())

    async def _echo(self) -> None:
        with contextlib.suppress(PipeClosed):
            while data := await self._other.recv():
                await self._other.send(data)

    async def stop(self, patience: float = 10.0) -> None:
        """Nothing was lost, doubled or reordered, and everything sent has come back."""
        await super().stop(patience)
        self._echoing.cancel()
        await asyncio.wait([self._echoing])
        assert self.fault == ""
        assert self.received == self.sent


# -- faults ------------------------------------------------------------------------------------------------------


def moved(name: str, number: int, kind: str = "eim-apdf") -> Fault:
    """The node is in another network behind another router: new addresses everywhere."""

    def move(world: World) -> None:
        nat = kind_of(kind).layers[0].nat
        router = world.internet.router(f"{name}{number}", f"198.51.100.{number}", nat)
        world.internet.move(world.hosts[name], f"192.168.{number}.2", behind=router)
        world.routers[name] = router

    return move


def readdressed(name: str, *addresses: str, spare: str = "") -> Fault:
    """The node has these addresses behind its router; `spare` is deprecated, or a temporary one too many."""

    def change(world: World) -> None:
        host = world.hosts[name]
        host.spare = frozenset({ip_address(spare)} if spare else ())
        world.internet.move(host, *addresses, behind=world.routers[name])

    return change


def moved_with_ipv6(name: str, number: int, *families: int, kind: str = "edm") -> Fault:
    """As `moved`, to a network with these IP versions: a firewall for IPv6, and for IPv4 a NAT."""

    def move(world: World) -> None:
        nat = kind_of(kind).layers[0].nat
        router = world.internet.router(f"{name}{number}", f"198.51.100.{number}", nat, v6=firewall())
        own = {4: f"192.168.{number}.2", 6: f"2001:db8:{number}::2"}
        world.internet.move(world.hosts[name], *(own[family] for family in families), behind=router)
        world.routers[name] = router

    return move


def both(one: Fault, other: Fault) -> Fault:
    return lambda world: (one(world), other(world))


def renumbered(name: str, number: int = 99) -> Fault:
    """The router has another public address and no mappings, and nobody is told."""
    return lambda world: world.routers[name].renumber(f"198.51.100.{number}")


def forgotten(world: World) -> None:
    for router in world.routers.values():
        router.forget()


def darkness(seconds: float) -> Fault:
    """Nothing passes between the two sites for so long; servers are in reach."""

    def fall(world: World) -> None:
        one, other = world.routers["a"], world.routers["b"]
        world.internet.partition(one, other)
        asyncio.get_running_loop().call_later(seconds, world.internet.heal, one, other)

    return fall
