"""What a node's address tells of its place, as boxes of the drawing: the host, and the router before it."""

from __future__ import annotations

from typing import Final

from warpgate.cli.pages.drawing import Box, Side
from warpgate.model.address import Attachment, LearntBy, NodeAddress
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment

# As RFC 3489 called them, and people do; RFC 4787's terms stand below.
NAMES: Final = {
    (Mapping.EIM, Filtering.EIF): "full-cone NAT",
    (Mapping.EIM, Filtering.ADF): "restricted-cone NAT",
    (Mapping.EIM, Filtering.APDF): "port-restricted NAT",
}
_DEPENDS: Final = {
    Mapping.UNKNOWN: "not known",
    Mapping.NONE: "none",
    Mapping.EIM: "endpoint-independent",
    Mapping.ADM: "by address",
    Mapping.APDM: "by address and port",
    Filtering.UNKNOWN: "not known",
    Filtering.EIF: "lets anybody in",
    Filtering.ADF: "by address",
    Filtering.APDF: "by address and port",
}


def used(address: NodeAddress, endpoint: Endpoint | None) -> Attachment | None:
    """The attachment that this endpoint is of; without one, or where it is of none, the one that is known best."""
    if endpoint is not None:
        for attachment in address.attachments:
            if endpoint.ip in (attachment.host, *attachment.outside):
                return attachment
    outside = [attachment for attachment in address.attachments if not attachment.host.is_loopback]
    known = [attachment for attachment in outside if attachment.reflexive is not None]
    return next(iter((*known, *outside, *address.attachments)), None)


def side(name: str, who: str, attachment: Attachment | None) -> Side:
    """`name`: whose side; `who`: the node."""
    if attachment is None:
        return Side(Box("host", name, tuple(filter(None, (who,))), ("where it is, is not known",)), None)
    return Side(Box("host", name, (who,), (str(attachment.host),)), _router(attachment))


def is_translated(attachment: Attachment) -> bool:
    """Whether the outside sees another address than the host's own."""
    return attachment.nat.mapping not in (Mapping.NONE, Mapping.UNKNOWN) or (
        attachment.reflexive is not None and attachment.reflexive != attachment.host
    )


def _router(attachment: Attachment) -> Box | None:
    nat = attachment.nat
    blocked = ("UDP does not get out",) if nat.udp_blocked else ()
    if not is_translated(attachment):
        if nat.filtering in (Filtering.ADF, Filtering.APDF) or blocked:
            return Box("nat", "firewall, no NAT", (f"filtering: {_DEPENDS[nat.filtering]}", *blocked))
        return None
    lines = [f"mapping: {_DEPENDS[nat.mapping]}", f"filtering: {_DEPENDS[nat.filtering]}"]
    if nat.mapping.endpoint_dependent:
        lines.append(f"ports: {_ports(nat.assignment)}")
    if any(attachment.listening(each).learnt is LearntBy.PORT_MAP for each in Transport):
        lines.append("maps a port for the node")
    return Box("nat", nat_name(nat), (*lines, *blocked), tuple(map(str, attachment.outside[:2])))


def nat_name(nat: NatProfile) -> str:
    if nat.mapping.endpoint_dependent:
        return "symmetric NAT"
    return NAMES.get((nat.mapping, nat.filtering), "NAT")


def _ports(assignment: PortAssignment) -> str:
    match assignment.kind:
        case Assignment.BLOCK:
            return f"{assignment.low} to {assignment.high}"
        case Assignment.SEQUENTIAL:
            return f"in steps of {assignment.step}"
        case Assignment.PER_ADDRESS:
            return "sequential, by address"
        case Assignment.UNKNOWN:
            return "not known how"
        case _:
            return str(assignment.kind.value)
