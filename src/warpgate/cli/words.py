"""The library's events as sentences, for -v."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from warpgate import events
from warpgate.cli.records import milliseconds
from warpgate.errors import AddressError
from warpgate.model.address import NodeAddress


def describe(event: events.Event) -> str:
    """One line about one event; what has a session or a connection begins with it."""
    sentence = _SENTENCES.get(type(event))
    if sentence is None:
        return str(event)  # an event of a later version or of somebody's plugin
    told: Any = event
    if hasattr(event, "session"):
        return f"[{told.session[:6]}] {sentence(told)}"
    if hasattr(event, "connection"):
        return f"connection [{told.connection[:6]}] with {told.peer}: {sentence(told)}"
    return sentence(told)


def turned_away(peer: str, reason: str) -> str:
    return f"refused {peer}: {reason}"


def peer_twinned(peer: str, reason: str) -> str:
    return f"{peer} says: {reason}"


def clocks_differ(peer: str, ahead: float) -> str:
    """One of the two clocks is wrong, and nobody here can tell which."""
    side = "ahead of" if ahead > 0 else "behind"
    return f"the clock of {peer} is {abs(ahead):.0f} s {side} ours: one of the two is wrong"


def _places(address: str) -> str:
    """The address text is what programs want of it; people, where it leads."""
    found: dict[str, None] = {}
    try:
        for attachment in NodeAddress.from_text(address).attachments:
            found |= dict.fromkeys(str(ip) for ip in (*attachment.outside, attachment.host))
    except AddressError:
        return address  # of a version that this one does not know
    return ", ".join(found) or "no place that is known"


def _signal_refused(of: events.SignalRefused) -> str:
    if of.told:
        return turned_away(of.peer, of.reason)
    return f"refused a signal from {of.peer or 'an unknown sender'}: {of.reason}"


_SENTENCES: dict[type[events.Event], Callable[[Any], str]] = {
    # the node
    events.NodeStarted: lambda of: f"node {of.node_id} is up on port {of.port} after {milliseconds(of.seconds)}",
    events.AddressChanged: lambda of: f"the address changed: {of.attachments} attachment(s), {of.brokers} broker(s)",
    events.PluginBroken: lambda of: f"the strategy {of.entry} of {of.package} cannot be used: {of.reason}",
    events.StrangerRefused: lambda of: turned_away(of.remote, of.reason),
    events.ClocksDiffer: lambda of: clocks_differ(of.peer, of.ahead),
    events.TwinFound: lambda of: (
        f"another node runs with this identity, {of.where} (instance {of.instance}): names may lead to either. "
        "Give one of them a key of its own (--identity NAME)"
    ),
    # its servers
    events.BrokerConnected: lambda of: f"connected to broker {of.url}, round trip {milliseconds(of.rtt)}",
    events.ServerFailed: lambda of: f"{of.service} server {of.server} failed: {of.reason}",
    events.ServerListFetched: lambda of: f"list {of.sequence} of public servers is at {of.place}",
    events.ServerListTaken: lambda of: (
        f"list {of.sequence} of public servers is used now: {of.brokers} brokers, {of.stun} STUN servers"
    ),
    events.MappingLearnt: lambda of: (
        f"{of.server} sees {of.transport} {of.local} as {of.mapped} ({milliseconds(of.seconds)})"
    ),
    events.RelayAllocated: lambda of: (
        f"{of.server} relays for this node at {', '.join(of.relayed)} (asked over {of.transport.upper()})"
    ),
    # its router
    events.PortMapped: lambda of: f"{of.gateway} maps {of.transport} {of.external} to {of.local} ({of.protocol})",
    events.PortUnmapped: lambda of: f"{of.transport} {of.external} is not mapped to {of.local} any more",
    events.Nat64Found: lambda of: f"this network translates to IPv4 (NAT64, prefix {of.prefix})",
    events.DoubleNatFound: lambda of: (
        f"double NAT: the router is {of.external}, the world sees {of.reflexive or 'something else'}"
    ),
    # names
    events.NameFound: lambda of: f"{of.name} is {of.node_id}, says {of.server} ({milliseconds(of.seconds)})",
    events.ContactPinned: lambda of: f"{of.name} is pinned to {of.node_id}",
    events.NameRegistered: lambda of: f"{of.server} has registered {of.name} ({milliseconds(of.seconds)})",
    events.NameReleased: lambda of: f"{of.server} has released {of.name}",
    events.NameNotRegistered: lambda of: (
        f"{of.server} does not register {of.name}: {of.reason} (again in {of.retry:.0f} s)"
    ),
    # signals
    events.SignalSent: lambda of: (
        f"{of.kind} {of.sequence} to {of.peer} "
        + (f"sent over {of.brokers} broker(s)" if of.brokers else "waits for a broker")
    ),
    events.SignalReceived: lambda of: f"got {of.kind} {of.sequence} from {of.peer}",
    events.SignalRefused: _signal_refused,
    events.PeerSilent: lambda of: of.reason,
    events.PeerTwinned: lambda of: peer_twinned(of.peer, of.reason),
    events.PeerPlaced: lambda of: f"{of.peer} is at {_places(of.address)}",
    events.TargetsRefused: lambda of: (
        f"nothing is sent to some endpoints that {of.peer} named: {'; '.join(of.reasons)}"
    ),
    # strategies
    events.PluginStarted: lambda of: f"{of.plugin} started",
    events.PluginSkipped: lambda of: f"{of.plugin} skipped: {of.reason}",
    events.PluginNoted: lambda of: f"{of.plugin} {of.text}",
    events.PluginEnded: lambda of: (
        f"{of.plugin} {of.outcome}: {of.reason}" if of.reason else f"{of.plugin} {of.outcome}"
    ),
    # links, pipes, and the paths of durable connections
    events.LinkVerified: lambda of: f"{of.plugin} has a proven {of.transport} link: {of.local} - {of.remote}",
    events.PipeOpened: lambda of: (
        f"{of.mode} pipe with {of.peer} by {of.plugin} over {of.transport} in {milliseconds(of.seconds)}"
    ),
    events.PipeEnded: lambda of: f"pipe with {of.peer} ended: {of.reason}",
    events.PathOpened: lambda of: f"a path by {of.plugin} over {of.transport}: {of.local} - {of.remote}",
    events.PathChosen: lambda of: (
        f"goes on by {of.plugin} to {of.remote}, {milliseconds(of.gap)} after the last answer: {of.reason}"
    ),
    events.PathLost: lambda of: f"lost its path by {of.plugin} to {of.remote}: {of.reason}",
    events.PathsMissing: lambda _: "no path works, searching",
    events.PathsWork: lambda of: f"works again by {of.plugin}, {milliseconds(of.gap)} after the last answer",
}
