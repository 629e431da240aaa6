"""The page of `explain --html`: where both nodes are, the way that won, and what every strategy did."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from typing import Final

from warpgate.cli.nat_words import FILTERINGS, MAPPINGS, assignment_words
from warpgate.cli.pages.drawing import Box, Scene, Way, draw
from warpgate.cli.pages.history import PATH_EVENTS, Moment, history
from warpgate.cli.pages.markup import Markup, document, tag
from warpgate.cli.pages.places import is_translated, side, used
from warpgate.cli.pages.waterfall import clock, waterfall
from warpgate.cli.records import PipeOpen
from warpgate.events import BrokerConnected, Event, MappingLearnt, PeerPlaced, PluginReport, RelayAllocated
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import Attachment, NodeAddress
from warpgate.model.endpoint import Endpoint, Transport

_MOMENTS: Final = 1000  # of paths that come and go; a peer may have them do so all day
_NAMED: Final = 2  # servers of a kind; of more the number is told


@dataclass
class Witness:
    """What the events of a node tell beside the report: which servers it has, where the peer is, and the paths of a
    durable connection, in seconds by `clock`.
    """

    brokers: dict[str, float] = field(default_factory=dict)  # round trips, by URL
    stun: dict[str, float] = field(default_factory=dict)
    relays: dict[str, str] = field(default_factory=dict)  # how we talk to them, by server
    theirs: NodeAddress | None = None
    paths: list[Moment] = field(default_factory=list)
    clock: Callable[[], float] = lambda: 0.0

    def observe(self, event: Event) -> None:
        match event:
            case BrokerConnected(url=url, rtt=rtt):
                self.brokers[url] = rtt
            case MappingLearnt(server=server, seconds=seconds):
                self.stun[server] = min(seconds, self.stun.get(server, seconds))
            case RelayAllocated(server=server, transport=transport):
                self.relays[server] = transport
            case PeerPlaced(address=address):
                self.theirs = NodeAddress.from_text(address)
            case _ if isinstance(event, PATH_EVENTS) and len(self.paths) < _MOMENTS:
                self.paths.append((self.clock(), event))


@dataclass(frozen=True, slots=True)
class Explanation:
    """One attempt. `name`: what the peer was called, "" for an address; `pipe` None and `error` when it failed; `at` in
    Unix seconds; `watched`: for how many seconds, 0 where the pipe was no durable one.
    """

    at: float
    name: str
    ours: NodeAddress
    witness: Witness
    report: tuple[PluginReport, ...]
    pipe: PipeOpen | None = None
    error: str = ""
    watched: float = 0.0

    @property
    def peer(self) -> str:
        theirs = self.witness.theirs
        return self.pipe.peer if self.pipe is not None else "" if theirs is None else theirs.node_id

    @property
    def ends(self) -> tuple[Endpoint | None, Endpoint | None]:
        """Of the pipe, here and there."""
        if self.pipe is None:
            return None, None
        return Endpoint.parse(self.pipe.local), Endpoint.parse(self.pipe.remote)


def page(told: Explanation) -> str:
    """The HTML document."""
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(told.at))
    title = _title(told)
    body = [
        tag("h1", title, class_="good" if told.pipe is not None else "bad"),
        tag("p", _subtitle(told), class_="soft"),
        tag("div", draw(_scene(told)), class_="card"),
        *_paths(told),
        tag("h2", "What each strategy did"),
        tag("div", waterfall(told.report, 0.0 if told.pipe is None else told.pipe.seconds), class_="card"),
        tag("h2", "Where the two are"),
        tag("div", _place("here", told.ours), _place("there", told.witness.theirs), class_="two"),
        tag("h2", "Servers, and the round trip to each"),
        tag("div", _servers_table(told.witness), class_="card"),
    ]
    note = f"Made on {day}. Addresses of both sides are on this page: mind whom you give it to."
    return document(f"warpgate explain: {title}", *body, told=note)


def _paths(told: Explanation) -> tuple[Markup, ...]:
    if not told.watched:
        return ()
    return (
        tag("h2", "The paths it went by"),
        tag("div", history(told.witness.paths, told.watched), class_="card"),
    )


def _title(told: Explanation) -> str:
    pipe = told.pipe
    if pipe is None:
        return "Not connected"
    return f"Connected by {pipe.plugin} after {clock(pipe.seconds)}"


def _subtitle(told: Explanation) -> str:
    who = f"{told.name} ({told.peer})" if told.name else told.peer or "the peer"
    pipe = told.pipe
    if pipe is None:
        return f"To {who}: {told.error}"
    more = ", encrypted" * pipe.secure + ", relayed" * pipe.relayed
    what = f" for {pipe.service}" if pipe.service else ""
    return f"A {pipe.mode} pipe with {who}{what} over {pipe.transport.upper()}{more}: {pipe.local} - {pipe.remote}"


def _scene(told: Explanation) -> Scene:
    theirs, (local, remote) = told.witness.theirs, told.ends
    here = used(told.ours, local)
    there = None if theirs is None else used(theirs, remote)
    return Scene(
        side("here", told.ours.node_id, here),
        _servers(told.witness),
        f"{_title(told)}. {_subtitle(told)}",
        side(told.name or "there", told.peer, there),
        _way(told, there, remote),
    )


def _way(told: Explanation, there: Attachment | None, remote: Endpoint | None) -> Way:
    pipe = told.pipe
    if pipe is None:
        return Way("no way", broken=True)
    by = f"{pipe.plugin}, {pipe.transport.upper()}"
    if pipe.relayed:
        servers = tuple(told.witness.relays) or (pipe.remote,)
        return Way(by, relay=Box("server", "relay", ("carries the data",), servers[:1]))
    inside = there is not None and remote is not None and is_translated(there) and remote.ip == there.host
    return Way(f"{by}, within one network" if inside else by, inside=inside)


def _servers(witness: Witness) -> Box:
    lines, where = [], []
    for kind, found in (("broker", witness.brokers), ("STUN server", witness.stun)):
        lines.append(f"{len(found) or 'no'} {kind}{'' if len(found) == 1 else 's'}")
        where += list(found)[: _NAMED if kind == "broker" else 0]
    return Box("server", "servers", (", ".join(lines),), tuple(where))


def _servers_table(witness: Witness) -> Markup:
    rows = [("broker", url, clock(rtt)) for url, rtt in witness.brokers.items()]
    rows += [("STUN", server, clock(seconds)) for server, seconds in witness.stun.items()]
    rows += [("relay", server, f"over {how.upper()}") for server, how in witness.relays.items()]
    if not rows:
        return tag("p", "None answered.", class_="soft")
    short = ("short", None, "short")
    lines = ([tag("td", cell, class_=css) for cell, css in zip(row, short, strict=True)] for row in rows)
    return tag("table", *(tag("tr", *line) for line in lines))


def _place(name: str, address: NodeAddress | None) -> Markup:
    """Every attachment in words."""
    head = tag("p", tag("b", name), " ", tag("code", "" if address is None else address.node_id))
    if address is None or not address.attachments:
        return tag("div", head, tag("p", "Where it is, is not known.", class_="soft"), class_="card")
    lists = (tag("dl", *_attachment(attachment)) for attachment in address.attachments)
    return tag("div", head, *_ruled(list(lists)), class_="card")


def _ruled(parts: Sequence[Markup]) -> Iterator[Markup]:
    for part in parts:
        yield tag("div", part, class_="row")


def _attachment(attachment: Attachment) -> Iterator[Markup]:
    nat = attachment.nat
    rows = [("host", str(attachment.host))]
    for transport in Transport:
        seen = attachment.reflexive_endpoint(transport)
        if seen is not None:
            rows.append((f"{transport.value.upper()} from outside", str(seen)))
    rows.append(("mapping", MAPPINGS[nat.mapping][1]))
    rows.append(("filtering", FILTERINGS[nat.filtering][1]))
    if nat.mapping.endpoint_dependent:
        rows.append(("ports", assignment_words(nat.assignment)))
    if nat.udp_blocked:
        rows.append(("UDP", "does not get out"))
    for name, value in rows:
        yield tag("dt", name)
        yield tag("dd", value)
