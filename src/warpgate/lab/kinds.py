"""The kinds of site a host can be behind, by name.

    NAME             a row of KINDS, or MAPPING-FILTERING[-ASSIGNMENT]
    NAME+SUFFIX...   changed by rows of SUFFIXES, left to right

MAPPING is eim, adm, apdm or edm (= apdm); FILTERING is eif, adf or apdf; ASSIGNMENT is preserving, random,
block, seq or seq-STEP (`seq--2` counts down). `eim-apdf+rst`, `apdm-adf-seq-4+hairpin`, `edm-block+cgn`
are names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from warpgate.errors import ConfigError
from warpgate.lab.spec import Lifetimes, NatSpec, Pooling, Unsolicited
from warpgate.lazy_dataclass import dataclass
from warpgate.model.nat import Assignment, Filtering, Mapping, PortAssignment


@dataclass(frozen=True, slots=True)
class Layer:
    """One router: its IPv4 model, and its IPv6 one (None passes everything, as carriers do).

    With `nat64` there is no IPv4 inside: the IPv4 model is that of the translator.
    """

    nat: NatSpec
    firewall: NatSpec | None
    nat64: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """What stands between a host and the internet: routers from the inside out; none for a public host."""

    name: str
    layers: tuple[Layer, ...]


PRESERVING: Final = PortAssignment(Assignment.PRESERVING)
RANDOM: Final = PortAssignment(Assignment.RANDOM)
BLOCK: Final = PortAssignment(Assignment.BLOCK)
# RFC 7597 section 5.1: bits 4 to 11 of a port are the subscriber's number, which leaves 15 runs of 16 ports, 4,096
# apart; bits 4 to 9: 63 runs, 1,024 apart.
PORT_SET: Final = PortAssignment(Assignment.BLOCK, fixed=0x0FF0)
PORT_SET_1024: Final = PortAssignment(Assignment.BLOCK, fixed=0x03F0)
# RFC 6092 REC-11 and -12 recommend endpoint-independent filtering; what routers ship is connection
# tracking.
FIREWALL: Final = NatSpec(mapping=Mapping.NONE, filtering=Filtering.APDF)
# A carrier's NAT: port blocks per subscriber (RFC 7422, RFC 6888 REQ-4), several addresses, paired (RFC
# 6888 REQ-2), and the median UDP lifetime of fixed lines' carriers (Richter et al., IMC 2016).
CARRIER: Final = NatSpec(
    mapping=Mapping.EIM,
    filtering=Filtering.ADF,
    assignment=BLOCK,
    lifetimes=Lifetimes(udp_unreplied=35.0, udp_replied=35.0),
    host_limit=1024,
    pooling=Pooling.PAIRED,
    pool_size=4,
    hairpin=True,
)


def _home(nat: NatSpec) -> tuple[Layer, ...]:
    # What the IPv6 side answers unsolicited packets is what the IPv4 side answers; it has nothing to
    # accept them on.
    silent = nat.unsolicited is Unsolicited.ACCEPT
    policy = Unsolicited.DROP if silent else nat.unsolicited
    firewall = replace(FIREWALL, unsolicited=policy) if nat.translates else nat
    return (Layer(nat, firewall),)


def _nat(mapping: Mapping, filtering: Filtering, assignment: PortAssignment) -> NatSpec:
    # Endpoint-dependent NATs that preserve ports share them between destinations, or they could not
    # preserve them.
    shared = mapping.endpoint_dependent and assignment.kind is Assignment.PRESERVING
    return NatSpec(mapping=mapping, filtering=filtering, assignment=assignment, overloading=shared)


EDM: Final = _nat(Mapping.APDM, Filtering.APDF, RANDOM)
SEQUENTIAL: Final = PortAssignment(Assignment.SEQUENTIAL, step=1)
POOLED: Final = replace(EDM, pooling=Pooling.ARBITRARY, pool_size=4)
# Linux: nf_nat keeps the port unless the tuple is taken; conntrack is address- and port-dependent both
# ways.
MASQUERADE: Final = _nat(Mapping.APDM, Filtering.APDF, PRESERVING)

KINDS: Final[dict[str, tuple[Layer, ...]]] = {
    "public": (),
    "firewalled": _home(FIREWALL),
    "firewalled-adf": _home(replace(FIREWALL, filtering=Filtering.ADF)),
    "firewalled-eif": _home(replace(FIREWALL, filtering=Filtering.EIF)),
    "eim": _home(NatSpec()),
    "edm": _home(EDM),
    "adm": _home(replace(EDM, mapping=Mapping.ADM)),
    "edm-seq": _home(replace(EDM, assignment=SEQUENTIAL)),
    "edm-busy": _home(replace(EDM, assignment=SEQUENTIAL, others=4)),
    "edm-peraddr": _home(replace(EDM, assignment=PortAssignment(Assignment.PER_ADDRESS, step=1))),
    "edm-parity": _home(replace(EDM, assignment=PortAssignment(Assignment.RANDOM, parity=True))),
    "edm-block": _home(replace(EDM, assignment=BLOCK)),
    "edm-pool": _home(POOLED),
    "eim-pool": _home(NatSpec(pooling=Pooling.ARBITRARY, pool_size=4)),
    # With so few ports a router that did not share them between destinations would not serve one browser.
    "mape": _home(replace(EDM, assignment=PORT_SET, overloading=True)),
    "mape-1024": _home(replace(EDM, assignment=PORT_SET_1024, overloading=True)),
    "edm-preserving": _home(MASQUERADE),
    "masquerade": _home(MASQUERADE),
    "udp-blocked": _home(replace(MASQUERADE, udp_blocked=True)),
    "only-443": _home(replace(MASQUERADE, udp_blocked=True, tcp_ports=frozenset({443}))),
    "cgn": (*_home(NatSpec()), Layer(CARRIER, None)),
    "short-lived": _home(NatSpec(lifetimes=Lifetimes(udp_unreplied=20.0, udp_replied=20.0))),
    "aged": _home(NatSpec(lifetimes=Lifetimes(absolute=60.0))),
    "nat64": tuple(replace(layer, nat64=True) for layer in _home(NatSpec())),
}

MAPPINGS: Final = {"eim": Mapping.EIM, "adm": Mapping.ADM, "apdm": Mapping.APDM, "edm": Mapping.APDM}
FILTERINGS: Final = {"eif": Filtering.EIF, "adf": Filtering.ADF, "apdf": Filtering.APDF}
ASSIGNMENTS: Final = {"preserving": PRESERVING, "random": RANDOM, "block": BLOCK}
SYSTEMATIC: Final = re.compile(
    r"(eim|adm|apdm|edm)-(?:(eif|adf|apdf)(?:-|$))?(preserving|random|block|seq(?:-(-?\d+))?)?$"
)


# What `+no-tcp` leaves open (MQTT): without a broker nothing can be signalled.
BROKER_PORTS: Final = frozenset({1883})


def _outermost(change: Callable[[NatSpec], NatSpec]) -> Callable[[tuple[Layer, ...]], tuple[Layer, ...]]:
    """Applied to the router that faces the internet; one without translation is the same in both families."""

    def changed(layer: Layer) -> Layer:
        firewall = layer.firewall
        if firewall is not None and not layer.nat.translates:
            firewall = change(firewall)
        return Layer(change(layer.nat), firewall)

    return lambda layers: (*layers[:-1], changed(layers[-1]))


def _rejecting(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    layer = layers[-1]
    firewall = None if layer.firewall is None else replace(layer.firewall, unsolicited=Unsolicited.REJECT)
    return (
        *layers[:-1],
        replace(layer, nat=replace(layer.nat, unsolicited=Unsolicited.REJECT), firewall=firewall),
    )


def _translating(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    if len(layers) > 1 or not layers[0].nat.translates:
        raise ConfigError("+nat64 is for a single router that translates")
    return (replace(layers[0], nat64=True),)


SUFFIXES: Final[dict[str, Callable[[tuple[Layer, ...]], tuple[Layer, ...]]]] = {
    "rst": _rejecting,
    "accept": _outermost(lambda nat: replace(nat, unsolicited=Unsolicited.ACCEPT)),
    "hairpin": _outermost(lambda nat: replace(nat, hairpin=True)),
    "short": _outermost(lambda nat: replace(nat, lifetimes=Lifetimes(udp_unreplied=20.0, udp_replied=20.0))),
    "deaf": _outermost(lambda nat: replace(nat, refresh_inbound=False)),
    "uplinks": _outermost(lambda nat: replace(nat, pooling=Pooling.BY_DESTINATION, pool_size=2)),
    "exclusive": _outermost(lambda nat: replace(nat, overloading=False)),
    "aged": _outermost(lambda nat: replace(nat, lifetimes=Lifetimes(absolute=60.0))),
    "small": _outermost(lambda nat: replace(nat, table_limit=512)),
    "paced": _outermost(lambda nat: replace(nat, new_flows_per_second=110.0)),
    "noudp": _outermost(lambda nat: replace(nat, udp_blocked=True)),
    "no-tcp": _outermost(lambda nat: replace(nat, tcp_ports=BROKER_PORTS)),
    "cgn": lambda layers: (*layers, Layer(CARRIER, None)),
    "nat64": _translating,
    "open6": lambda layers: tuple(replace(layer, firewall=None) for layer in layers),
}


def kind_of(text: str) -> Kind:
    """The kind with this name. Raises ConfigError that lists the names there are."""
    base, *suffixes = text.split("+")
    layers = _base(base)
    for suffix in suffixes:
        if suffix not in SUFFIXES:
            raise ConfigError(f"unknown suffix +{suffix} in {text!r}; there are {_listed(SUFFIXES, '+')}")
        if not layers:
            raise ConfigError(f"{text!r}: a public host has no router that +{suffix} could change")
        layers = SUFFIXES[suffix](layers)
    return Kind(text, layers)


def _base(name: str) -> tuple[Layer, ...]:
    if name in KINDS:
        return KINDS[name]
    parts = SYSTEMATIC.match(name)
    if parts is None or name.endswith("-"):
        raise ConfigError(
            f"unknown kind of NAT {name!r}; there are {_listed(KINDS)}, and MAPPING-FILTERING[-ASSIGNMENT] made of "
            f"{_listed(MAPPINGS)}; {_listed(FILTERINGS)}; {_listed(ASSIGNMENTS)}, seq, seq-STEP; "
            f"with suffixes {_listed(SUFFIXES, '+')}"
        )
    mapping = MAPPINGS[parts[1]]
    filtering = FILTERINGS[parts[2] or "apdf"]
    default = PRESERVING if mapping is Mapping.EIM else RANDOM
    return _home(_nat(mapping, filtering, _assignment(parts[3], parts[4], default)))


def _assignment(name: str | None, step: str | None, default: PortAssignment) -> PortAssignment:
    if name is None:
        return default
    if name.startswith("seq"):
        return PortAssignment(Assignment.SEQUENTIAL, step=int(step or 1))
    return ASSIGNMENTS[name]


def _listed(names: Iterable[str], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{name}" for name in names)
