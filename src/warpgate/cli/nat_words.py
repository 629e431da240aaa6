"""A NAT's fingerprint in words, and what it means for connecting, in RFC 4787's terms."""

from __future__ import annotations

from collections.abc import Iterator

from warpgate.cli.records import Finding
from warpgate.model.address import Attachment, LearntBy
from warpgate.model.endpoint import Transport
from warpgate.model.nat import Assignment, Filtering, Mapping, NatProfile, PortAssignment

SECTION = "NAT"

SYMMETRIC = (
    '("symmetric"): every peer sees another port, so only peers that are public, or whose NAT lets anybody in '
    "or filters by address alone, can be reached without guessing"
)
MAPPINGS = {
    Mapping.UNKNOWN: ("info", "how it maps ports is not known (it takes answers from two STUN endpoints)"),
    Mapping.NONE: ("ok", "no translation: others see the host's own address"),
    Mapping.EIM: (
        "ok",
        "endpoint-independent mapping: every peer sees the same port, so hole punching works with most others",
    ),
    Mapping.ADM: ("warning", f"address-dependent mapping {SYMMETRIC}"),
    Mapping.APDM: ("warning", f"address-and-port-dependent mapping {SYMMETRIC}"),
}
FILTERINGS = {
    Filtering.UNKNOWN: ("info", "whom it lets in is not known (it takes a STUN server of RFC 5780)"),
    Filtering.EIF: ("ok", "endpoint-independent filtering: it lets anybody in, peers connect at once"),
    Filtering.ADF: (
        "ok",
        "address-dependent filtering: it lets in whom we have sent something, from any port",
    ),
    Filtering.APDF: (
        "ok",
        "address-and-port-dependent filtering: it lets in only the very endpoint we have sent something",
    ),
}
LEARNT = {
    LearntBy.NOTHING: "assumed",
    LearntBy.STUN: "seen by STUN",
    LearntBy.PORT_MAP: "mapped by the router on request",
}


def attachment_findings(attachment: Attachment) -> Iterator[Finding]:
    """What is known about one interface's way to the internet."""
    seen = list(_endpoints(attachment))
    if not seen:
        yield Finding(SECTION, "warning", f"{attachment.host}: no STUN server answered, so nothing is known")
    yield from seen
    nat = attachment.nat
    if nat.udp_blocked:
        yield _about(attachment, "warning", "UDP does not get out: only TCP strategies can work")
    if not seen and nat == NatProfile():
        return
    yield _about(attachment, *MAPPINGS[nat.mapping])
    yield _about(attachment, *FILTERINGS[nat.filtering])
    if nat.mapping.endpoint_dependent:
        yield _about(attachment, "info", assignment_words(nat.assignment))


def assignment_words(assignment: PortAssignment) -> str:
    """How new external ports come about, which decides whether the next one can be guessed."""
    match assignment.kind:
        case Assignment.PRESERVING:
            return "external ports equal internal ones where they are free, so they can be foretold"
        case Assignment.SEQUENTIAL:
            return f"external ports go up in steps of {assignment.step}, so the next one can be foretold"
        case Assignment.BLOCK:
            return _block_words(assignment)
        case Assignment.PER_ADDRESS:
            return (
                f"external ports go up in steps of {assignment.step}, for each destination address from another one: "
                "guessing takes some 250 probes"
            )
        case Assignment.RANDOM:
            half = ", but even or odd as the internal ones, so half of them" if assignment.parity else ""
            return f"external ports are random{half}: guessing takes hundreds of probes"
        case _:
            return "how external ports are chosen is not known"


def _block_words(assignment: PortAssignment) -> str:
    within = f"from {assignment.low} to {assignment.high}"
    if not assignment.fixed:
        return f"external ports come {within}: few enough to guess"
    places = [place for place in range(16) if assignment.fixed >> place & 1]
    bits = "".join(str(assignment.low >> place & 1) if place in places else "x" for place in reversed(range(16)))
    return (
        f"external ports are a set (as with MAP-E and MAP-T, RFC 7597): {within}, in binary all {bits}, "
        f"{2 ** (16 - len(places))} at most: few enough to guess"
    )


def _endpoints(attachment: Attachment) -> Iterator[Finding]:
    for transport in (Transport.UDP, Transport.TCP):
        seen = attachment.reflexive_endpoint(transport)
        if seen is not None:
            how = LEARNT[attachment.listening(transport).learnt]
            local = attachment.host_endpoint(transport)
            yield Finding(SECTION, "ok", f"{transport.value.upper()} {local} is {seen} from outside ({how})")


def _about(attachment: Attachment, state: str, text: str) -> Finding:
    return Finding(SECTION, state, f"{attachment.host}: {text}")
