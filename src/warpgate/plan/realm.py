"""Which answers of STUN servers are about the same outside, and which endpoint is ours there. Pure.

A server sees us as its own realm does: one inside our NAT sees the host, one between two NATs what the inner NAT made
of it, one on the internet what everybody there sees. Compared with each other they would make any NAT look as if it
mapped each destination differently. So the furthest realm counts, and in it what several servers confirm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence

from warpgate.model.endpoint import Endpoint, IPAddress
from warpgate.model.scope import is_private, site_of
from warpgate.plan.classify import Observation

_INTERNET, _BETWEEN, _INSIDE = 2, 1, 0
# Two servers see one socket at the same port by chance too, where a NAT that maps each destination differently has few
# ports: of 16, at three sockets in a row once in 4,000.
MISTAKEN_SOCKETS = 3


def prevailing(observations: Sequence[Observation]) -> tuple[Observation, ...]:
    """Those of the furthest realm, without servers that several others there contradict; in the same order."""
    latest = {(seen.local, seen.server): seen for seen in observations}
    voices: defaultdict[tuple[int, Hashable], set[IPAddress]] = defaultdict(set)
    for seen in latest.values():
        voices[_realm(seen)].add(seen.server.ip)
    if not voices:
        return ()
    furthest = max(voices, key=lambda realm: (realm[0], len(voices[realm])))
    here = [seen for seen in observations if _realm(seen) == furthest]
    last = [seen for seen in latest.values() if _realm(seen) == furthest]
    alone = _contradicted(last) | mistaken(last)
    return tuple(seen for seen in here if seen.server.ip not in alone)


def outside(observations: Sequence[Observation], confirmed: Collection[IPAddress] = ()) -> Endpoint | None:
    """The endpoint that the outside sees of one socket, by what each server said last: at the IP address that most
    servers see, with as many at one that is `confirmed` (by another transport, by the gateway), at one that is no
    server's own, at one where the port is kept, at the first. Of an address's ports the one that most see.
    """
    seen = prevailing(tuple({(one.local, one.server): one for one in observations}.values()))
    if not seen:
        return None
    voices: defaultdict[IPAddress, set[IPAddress]] = defaultdict(set)
    ports: defaultdict[Endpoint, set[Endpoint]] = defaultdict(set)
    for one in seen:
        voices[one.mapped.ip].add(one.server.ip)
        ports[one.mapped].add(one.server)
    kept = {one.mapped.ip for one in seen if one.mapped.port == one.local.port}
    servers = {one.server.ip for one in observations}
    ip = max(voices, key=lambda ip: (len(voices[ip]), ip in confirmed, ip not in servers, ip in kept))
    return max((mapped for mapped in ports if mapped.ip == ip), key=lambda mapped: len(ports[mapped]))


def _realm(seen: Observation) -> tuple[int, Hashable]:
    """How far outside the server is, and in which private network where numbers tell."""
    if not is_private(seen.mapped.ip):
        return _INTERNET, None
    if seen.mapped.ip == seen.local.ip:
        return _INSIDE, None
    return _BETWEEN, site_of(seen.mapped.ip)


def _contradicted(latest: Iterable[Observation]) -> set[IPAddress]:
    """Servers that alone see an IP address, of a socket that at least two others see at one and the same endpoint.

    Where no two agree on the endpoint the NAT maps each destination differently, and may have several addresses.
    """
    sockets: defaultdict[Endpoint, list[Observation]] = defaultdict(list)
    for seen in latest:
        sockets[seen.local].append(seen)
    alone: set[IPAddress] = set()
    for answers in sockets.values():
        agreed = {seen.mapped.ip for seen in answers if len(_who(answers, seen.mapped)) > 1}
        for seen in answers:
            others = {one.server.ip for one in answers if one.mapped.ip == seen.mapped.ip}
            if agreed and seen.mapped.ip not in agreed and others == {seen.server.ip}:
                alone.add(seen.server.ip)
    return alone


def mistaken(latest: Iterable[Observation]) -> set[IPAddress]:
    """The one server, if there is such, but for which all agree on every socket, which it always sees elsewhere: a port
    that it makes up would make any NAT look as if it mapped each destination differently.
    """
    sockets: defaultdict[Endpoint, dict[IPAddress, Endpoint]] = defaultdict(dict)
    for seen in latest:
        sockets[seen.local][seen.server.ip] = seen.mapped
    if all(len(set(told.values())) == 1 for told in sockets.values()):
        return set()
    for suspect in {ip for told in sockets.values() for ip in told}:
        agreed = 0
        for told in sockets.values():
            others = [mapped for ip, mapped in told.items() if ip != suspect]
            if len(set(others)) > 1 or told.get(suspect) in others:
                break
            agreed += len(others) > 1
        else:
            if agreed >= MISTAKEN_SOCKETS:
                return {suspect}
    return set()


def _who(answers: Sequence[Observation], mapped: Endpoint) -> set[IPAddress]:
    return {seen.server.ip for seen in answers if seen.mapped == mapped}
