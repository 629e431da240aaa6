"""The page of `doctor --html`: the same findings, and this machine's place drawn."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Final

from warpgate import __version__
from warpgate.cli.pages.drawing import Box, Scene, Side, draw
from warpgate.cli.pages.markup import Markup, document, tag
from warpgate.cli.pages.masks import host_of
from warpgate.cli.pages.places import side, used
from warpgate.cli.records import Finding
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import NodeAddress
from warpgate.model.turn_server import TurnServer

if TYPE_CHECKING:
    from warpgate.config import Config

Mask = Callable[[str], str]
# Sign, word and colour of each state.
_MARKS: Final = {
    "ok": ("\u2713", "good"),
    "warning": ("!", "warn"),
    "missing": ("\u2212", "bad"),
    "info": ("\u00b7", "soft"),
}
# Of the sections, whose servers stand in the picture.
_SERVERS: Final = ("brokers", "STUN", "relays", "names")
_MASKED: Final = (
    "Addresses, keys and private names are masked; what is equal has the same mask. doctor --html FILE --full masks "
    "nothing."
)
_FULL: Final = "Nothing on this page is masked: mind whom you give it to."


@dataclass(frozen=True, slots=True)
class Examination:
    """`address`: this node's, None where no node was started; `at` in Unix seconds."""

    at: float
    findings: Sequence[Finding]
    address: NodeAddress | None


def private_names(config: Config) -> list[str]:
    """Servers and peers that the settings name, but for those that everybody uses."""
    from warpgate.services.defaults import public_servers  # noqa: PLC0415 - a file is read

    public = public_servers()
    known = {*(broker.host for broker in public.brokers), *(server.host for server in public.stun)}
    named = (*(config.brokers or ()), *(config.stun or ()), *config.turn, *config.ice_servers)
    named += (*config.names, *config.relay_peers, *(config.server_lists or ()))
    named += tuple(str(server.desk) for server in map(TurnServer.parse, config.turn) if server.desk is not None)
    return [text for text in named if host_of(text) not in known]


def page(told: Examination, mask: Mask | None) -> str:
    """The HTML document; `mask` None: nothing is masked."""
    shown = (lambda text: text) if mask is None else mask
    body = []
    verdict = next((finding for finding in told.findings if finding.section == "in short"), None)
    if verdict is not None:
        said = shown(verdict.message)
        body.append(tag("h1", said[:1].upper() + said[1:], class_=_MARKS[verdict.state][1]))
    else:
        body.append(tag("h1", "Servers"))
    body.append(tag("p", _made(told.at), class_="soft"))
    if told.address is not None:
        body.append(tag("div", draw(_scene(told, told.address, shown)), class_="card"))
    rows = []
    for section, members in groupby(told.findings, key=lambda finding: finding.section):
        if section != "in short":
            items = (_item(finding, shown) for finding in members)
            rows.append(tag("section", tag("h2", section), tag("ul", *items), class_="row findings"))
    body.append(tag("div", *rows, class_="card"))
    return document("warpgate doctor", *body, told=_FULL if mask is None else _MASKED)


def _made(at: float) -> str:
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"warpgate {__version__} with {python} on {platform.platform()}, {day}"


def _item(finding: Finding, shown: Mask) -> Markup:
    sign, css = _MARKS[finding.state]
    mark = tag("span", sign, class_=f"mark {css}", title=finding.state, role="img", aria_label=finding.state)
    return tag("li", mark, shown(finding.message))


def _scene(told: Examination, address: NodeAddress, shown: Mask) -> Scene:
    near = side("this machine", address.node_id, used(address, None))
    lines = []
    for section in _SERVERS:
        states = [finding.state for finding in told.findings if finding.section == section]
        good, bad = states.count("ok"), states.count("missing")
        lines.append(f"{section}: {f'{good} ok' if good else 'none'}{f', {bad} missing' if good and bad else ''}")
    servers = Box("server", "servers", tuple(lines))
    chain = Side(_masked(near.host, shown), None if near.nat is None else _masked(near.nat, shown))
    return Scene(chain, servers, "This machine, the router before it, and the servers it uses.")


def _masked(box: Box, shown: Mask) -> Box:
    return replace(box, lines=tuple(map(shown, box.lines)), where=tuple(map(shown, box.where)))
