"""`warpgate lab kinds`: what `--a` and `--b` can be."""

from __future__ import annotations

import argparse

from warpgate.cli.records import KindShown
from warpgate.cli.shell import Shell
from warpgate.lab.kinds import ASSIGNMENTS, FILTERINGS, KINDS, MAPPINGS, SUFFIXES
from warpgate.lab.spec import NatSpec

INSIDE_NAT64 = "IPv6 alone, and a NAT64 with "


def run(_arguments: argparse.Namespace, shell: Shell) -> int:
    for name, layers in KINDS.items():
        routers = ", behind ".join(f"{INSIDE_NAT64 if layer.nat64 else ''}{describe(layer.nat)}" for layer in layers)
        shell.output.show(KindShown(name, routers or "no router: a host on the internet"))
    shell.output.heading(
        f"\nand MAPPING-FILTERING[-ASSIGNMENT]: {'|'.join(MAPPINGS)} - {'|'.join(FILTERINGS)} - "
        f"{'|'.join(ASSIGNMENTS)}|seq|seq-STEP\nwith any of +{' +'.join(SUFFIXES)}; for example eim-apdf+rst"
    )
    return 0


def describe(nat: NatSpec) -> str:
    """One router in RFC 4787's terms."""
    if not nat.translates:
        return f"a firewall, {nat.filtering.value} filtering"
    restrictions = " no UDP" if nat.udp_blocked else ""
    if nat.tcp_ports is not None:
        restrictions += f", TCP only to port {', '.join(map(str, sorted(nat.tcp_ports)))}"
    return f"{nat.mapping.value} mapping, {nat.filtering.value} filtering, {nat.assignment.kind.value} ports" + (
        f",{restrictions}" if restrictions else ""
    )
