"""The library's events as sentences, for -v."""

from __future__ import annotations

from warpgate import events
from warpgate.cli.records import milliseconds
from warpgate.errors import AddressError
from warpgate.model.address import NodeAddress


def describe(event: events.Event) -> str:
    """One line about one event."""
    match event:
        case events.PluginStarted() | events.PluginSkipped() | events.PluginNoted() | events.PluginEnded():
            return f"[{event.session[:6]}] {event.plugin} {_plugin_news(event)}"
        case events.SignalSent() | events.SignalReceived() | events.SignalRefused() | events.PeerSilent():
            return _signal_news(event)
        case events.ClocksDiffer() | events.TwinFound() | events.PeerTwinned():
            return _warning(event)
        case events.PeerPlaced() | events.LinkVerified() | events.PipeOpened() | events.PipeEnded():
            return f"[{event.session[:6]}] {_link_news(event)}"
        case (
            events.NameFound()
            | events.ContactPinned()
            | events.NameRegistered()
            | events.NameReleased()
            | events.NameNotRegistered()
        ):
            return _name_news(event)
        case _:
            return _path_news(event) or _node_news(event)


def _places(address: str) -> str:
    """The address text is what programs want of it; people, where it leads."""
    found: dict[str, None] = {}
    try:
        for attachment in NodeAddress.from_text(address).attachments:
            found |= dict.fromkeys(str(ip) for ip in (*attachment.outside, attachment.host))
    except AddressError:
        return address  # of a version that this one does not know
    return ", ".join(found) or "no place that is known"


def _warning(event: events.ClocksDiffer | events.TwinFound | events.PeerTwinned) -> str:
    match event:
        case events.ClocksDiffer(peer=peer, ahead=ahead):
            return clocks_differ(peer, ahead)
        case events.TwinFound(instance=instance, where=where):
            return (
                f"another node runs with this identity, {where} (instance {instance}): names may lead to either. "
                "Give one of them a key of its own (--identity NAME)"
            )
        case events.PeerTwinned(session=session, peer=peer, reason=reason):
            return f"[{session[:6]}] {peer_twinned(peer, reason)}"


def _link_news(
    event: events.PeerPlaced | events.LinkVerified | events.PipeOpened | events.PipeEnded,
) -> str:
    match event:
        case events.PeerPlaced(peer=peer, address=address):
            return f"{peer} is at {_places(address)}"
        case events.LinkVerified(plugin=plugin, transport=transport, local=local, remote=remote):
            return f"{plugin} has a proven {transport} link: {local} - {remote}"
        case events.PipeOpened(plugin=plugin, mode=mode, peer=peer, transport=transport, seconds=seconds):
            return f"{mode} pipe with {peer} by {plugin} over {transport} in {milliseconds(seconds)}"
        case events.PipeEnded(peer=peer, reason=reason):
            return f"pipe with {peer} ended: {reason}"


def _path_news(event: events.Event) -> str:
    """Of a durable connection; "" for other events."""
    match event:
        case events.PathOpened(plugin=plugin, transport=transport, local=local, remote=remote):
            news = f"a path by {plugin} over {transport}: {local} - {remote}"
        case events.PathChosen(plugin=plugin, remote=remote, reason=reason, gap=gap):
            news = f"goes on by {plugin} to {remote}, {milliseconds(gap)} after the last answer: {reason}"
        case events.PathLost(plugin=plugin, remote=remote, reason=reason):
            news = f"lost its path by {plugin} to {remote}: {reason}"
        case events.PathsMissing():
            news = "no path works, searching"
        case events.PathsWork(plugin=plugin, gap=gap):
            news = f"works again by {plugin}, {milliseconds(gap)} after the last answer"
        case _:
            return ""
    return f"connection [{event.connection[:6]}] with {event.peer}: {news}"


def _plugin_news(
    event: events.PluginStarted | events.PluginSkipped | events.PluginNoted | events.PluginEnded,
) -> str:
    match event:
        case events.PluginStarted():
            return "started"
        case events.PluginSkipped(reason=reason):
            return f"skipped: {reason}"
        case events.PluginNoted(text=text):
            return text
        case events.PluginEnded(outcome=outcome, reason=reason):
            return f"{outcome}: {reason}" if reason else outcome


def _signal_news(
    event: events.SignalSent | events.SignalReceived | events.SignalRefused | events.PeerSilent,
) -> str:
    match event:
        case events.PeerSilent(session=session, reason=reason):
            return f"[{session[:6]}] {reason}"
        case events.SignalSent(session=session, kind=kind, sequence=sequence, peer=peer, brokers=brokers):
            return f"[{session[:6]}] sent {kind} {sequence} to {peer} over {brokers} broker(s)"
        case events.SignalReceived(session=session, kind=kind, sequence=sequence, peer=peer):
            return f"[{session[:6]}] got {kind} {sequence} from {peer}"
        case events.SignalRefused(peer=peer, reason=reason):
            if event.told:
                return turned_away(peer, reason)
            return f"refused a signal from {peer or 'an unknown sender'}: {reason}"


def _node_news(event: events.Event) -> str:
    match event:
        case events.NodeStarted(node_id=node_id, port=port, seconds=seconds):
            return f"node {node_id} is up on port {port} after {milliseconds(seconds)}"
        case events.AddressChanged(attachments=attachments, brokers=brokers):
            return f"the address changed: {attachments} attachment(s), {brokers} broker(s)"
        case events.PluginBroken(entry=entry, package=package, reason=reason):
            return f"the strategy {entry} of {package} cannot be used: {reason}"
        case events.StrangerRefused(remote=remote, reason=reason):
            return f"refused {remote}: {reason}"
        case events.TargetsRefused(session=session, peer=peer, reasons=reasons):
            return f"[{session[:6]}] nothing is sent to some endpoints that {peer} named: {'; '.join(reasons)}"
        case _:
            return _server_news(event)


def turned_away(peer: str, reason: str) -> str:
    return f"refused {peer}: {reason}"


def peer_twinned(peer: str, reason: str) -> str:
    return f"{peer} says: {reason}"


def clocks_differ(peer: str, ahead: float) -> str:
    """One of the two clocks is wrong, and nobody here can tell which."""
    side = "ahead of" if ahead > 0 else "behind"
    return f"the clock of {peer} is {abs(ahead):.0f} s {side} ours: one of the two is wrong"


def _server_news(event: events.Event) -> str:
    match event:
        case events.RelayAllocated(server=server, transport=transport, relayed=relayed):
            return f"{server} relays for this node at {', '.join(relayed)} (asked over {transport.upper()})"
        case events.MappingLearnt(transport=transport, local=local, mapped=mapped, server=server):
            return f"{server} sees {transport} {local} as {mapped} ({milliseconds(event.seconds)})"
        case events.ServerFailed(service=service, server=server, reason=reason):
            return f"{service} server {server} failed: {reason}"
        case events.PortMapped() | events.PortUnmapped() | events.DoubleNatFound() | events.Nat64Found():
            return _router_news(event)
        case events.BrokerConnected() | events.ServerListFetched() | events.ServerListTaken():
            return _public_news(event)
        case _:
            return str(event)  # an event of a later version or of somebody's plugin


def _public_news(event: events.BrokerConnected | events.ServerListFetched | events.ServerListTaken) -> str:
    if isinstance(event, events.BrokerConnected):
        return f"connected to broker {event.url}, round trip {milliseconds(event.rtt)}"
    if isinstance(event, events.ServerListFetched):
        return f"list {event.sequence} of public servers is at {event.place}"
    return f"list {event.sequence} of public servers is used now: {event.brokers} brokers, {event.stun} STUN servers"


def _name_news(
    event: events.NameFound
    | events.ContactPinned
    | events.NameRegistered
    | events.NameReleased
    | events.NameNotRegistered,
) -> str:
    match event:
        case events.NameFound(name=name, node_id=node_id, server=server, seconds=seconds):
            return f"{name} is {node_id}, says {server} ({milliseconds(seconds)})"
        case events.ContactPinned(name=name, node_id=node_id):
            return f"{name} is pinned to {node_id}"
        case events.NameRegistered(name=name, server=server, seconds=seconds):
            return f"{server} has registered {name} ({milliseconds(seconds)})"
        case events.NameReleased(name=name, server=server):
            return f"{server} has released {name}"
        case events.NameNotRegistered(name=name, server=server, reason=reason, retry=retry):
            return f"{server} does not register {name}: {reason} (again in {retry:.0f} s)"


def _router_news(
    event: events.PortMapped | events.PortUnmapped | events.DoubleNatFound | events.Nat64Found,
) -> str:
    match event:
        case events.PortMapped(gateway=gateway, transport=transport, local=local, external=external):
            return f"{gateway} maps {transport} {external} to {local} ({event.protocol})"
        case events.PortUnmapped(transport=transport, local=local, external=external):
            return f"{transport} {external} is not mapped to {local} any more"
        case events.Nat64Found(prefix=prefix):
            return f"this network translates to IPv4 (NAT64, prefix {prefix})"
        case events.DoubleNatFound(external=external, reflexive=reflexive):
            return f"double NAT: the router is {external}, the world sees {reflexive or 'something else'}"
