"""Peers with which there has been a pipe in this process's life, whoever opened it: they come before strangers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from warpgate.model.endpoint import IPAddress
from warpgate.proto.marks import Marks
from warpgate.proto.relay_limits import user_of

PEERS_REMEMBERED = 1024
# With many keys a stranger opens many pipes, and would be a peer that we know as many times.
PEERS_OF_A_PLACE = 16


class Acquaintances:
    """By node id."""

    def __init__(self) -> None:
        self._met: OrderedDict[str, Hashable] = OrderedDict()  # with its place, least recently met first
        self.marks = Marks()

    def __len__(self) -> int:
        return len(self._met)

    def __contains__(self, peer: str) -> bool:
        return peer in self._met

    def place_of(self, peer: str) -> Hashable:
        """None for who is none of them."""
        return self._met.get(peer)

    def meet(self, peer: str, ip: IPAddress) -> None:
        """There is a pipe with it, at this address."""
        place = self._met[peer] = user_of(ip)
        self._met.move_to_end(peer)
        there = [other for other, where in self._met.items() if where == place]
        self.marks.met(peer)
        if len(there) > PEERS_OF_A_PLACE:
            self._forget(there[0])
        elif len(self._met) > PEERS_REMEMBERED:
            self._forget(next(iter(self._met)))

    def _forget(self, peer: str) -> None:
        del self._met[peer]
        self.marks.forget(peer)
