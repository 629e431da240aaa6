"""`warpgate doctor`: what works here, what does not, and what that means for connecting, in words."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from warpgate.cli.family_words import family_findings, translated
from warpgate.cli.nat_words import attachment_findings
from warpgate.cli.port_map_words import port_map_findings, ports_settled
from warpgate.cli.records import Finding, milliseconds
from warpgate.cli.shell import Shell
from warpgate.cli.strategies import strategy_findings
from warpgate.errors import RELAY_ADVICE
from warpgate.events import Event, MappingLearnt
from warpgate.model.address import LearntBy
from warpgate.model.nat import Filtering, Mapping
from warpgate.plugins.registry import REGISTRY

if TYPE_CHECKING:
    from warpgate.config import Config
    from warpgate.core.assembly import NodeStatus
    from warpgate.core.node import Node
    from warpgate.services.names import NameServerCheck
    from warpgate.services.relay import RelayCheck
    from warpgate.services.turn_accounts import AccountCheck

# Two requests to a second server tell the filtering behaviour; each is given up after about 1.5 s.
FINGERPRINT_PATIENCE = 4.0
FINGERPRINT_POLL = 0.1


def run(_arguments: argparse.Namespace, shell: Shell) -> int:
    return shell.run(_examine(shell))


async def _examine(shell: Shell) -> int:
    mappings: list[MappingLearnt] = []

    def observe(event: Event) -> None:
        if isinstance(event, MappingLearnt):
            mappings.append(event)

    async with shell.node(accept=False, beside=False, observer=observe) as node:
        await _settled(node, shell.settings.config)
        accounts = await node.check_relay_accounts()
        relays = await node.check_relays()
        names = await node.check_names() if shell.settings.config.names else ()
        findings = diagnose(
            node.status(), node.node_id, node.port, mappings, shell.settings.config, relays, names, accounts
        )
    findings[-1:-1] = strategy_findings(REGISTRY)
    for section, members in groupby(findings, key=lambda finding: finding.section):
        shell.output.heading(section)
        for finding in members:
            shell.output.show(finding)
    return 0


async def _settled(node: Node, config: Config) -> None:
    """Fingerprints and routers need more time than start() gives them: a little longer."""
    deadline = asyncio.get_running_loop().time() + FINGERPRINT_PATIENCE
    while not _all_told(node.status(), config) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(FINGERPRINT_POLL)


def _all_told(status: NodeStatus, config: Config) -> bool:
    return (config.stun == () or fingerprinted(status)) and ports_settled(status)


def fingerprinted(status: NodeStatus) -> bool:
    """Whether nothing more is to be learnt about the NATs."""
    return all(
        attachment.nat.mapping is not Mapping.UNKNOWN and attachment.nat.filtering is not Filtering.UNKNOWN
        for attachment in status.attachments
    )


def diagnose(
    status: NodeStatus,
    node_id: str,
    port: int,
    mappings: Sequence[MappingLearnt],
    config: Config,
    relays: Sequence[RelayCheck] = (),
    names: Sequence[NameServerCheck] = (),
    accounts: Sequence[AccountCheck] = (),
) -> list[Finding]:
    """Everything there is to say, section by section. Pure."""
    findings = [Finding("node", "ok", f"{node_id}, listening on port {port}")]
    findings += _interfaces(status)
    findings += family_findings(status)
    for attachment in status.attachments:
        findings += attachment_findings(attachment)
    findings += _brokers(status, config)
    findings += _stun(status, mappings, config)
    findings += _relays(relays, accounts)
    findings += port_map_findings(status, config)
    findings += _names(names)
    return [*findings, _verdict(status)]


def _interfaces(status: NodeStatus) -> Iterator[Finding]:
    section = "interfaces"
    if not status.interfaces:
        yield Finding(section, "missing", "none is up")
    for interface in status.interfaces:
        family = "IPv4 by NAT64" if translated(status, interface) else f"IPv{interface.ip.version}"
        yield Finding(section, "ok", f"{interface.name}: {interface.ip}/{interface.prefix} ({family})")


def _brokers(status: NodeStatus, config: Config) -> Iterator[Finding]:
    section = "brokers"
    for broker in status.brokers:
        rtt = "" if broker.rtt is None else f", round trip {milliseconds(broker.rtt)}"
        yield Finding(section, "ok", f"{broker.url}{rtt}")
    yield from _failures(status, "broker", section)
    if config.brokers == ():
        yield Finding(section, "missing", "none is configured")
    elif not status.brokers:
        yield Finding(
            section, "warning", "none answers: no signals, so only `direct` connections can be made"
        )


def _stun(status: NodeStatus, mappings: Sequence[MappingLearnt], config: Config) -> Iterator[Finding]:
    section = "STUN"
    quickest: dict[tuple[str, str], float] = {}
    for mapping in mappings:
        key = mapping.server, mapping.transport
        quickest[key] = min(mapping.seconds, quickest.get(key, mapping.seconds))
    for (server, transport), seconds in quickest.items():
        yield Finding(section, "ok", f"{server} over {transport.upper()}, round trip {milliseconds(seconds)}")
    yield from _failures(status, "stun", section)
    if config.stun == ():
        yield Finding(section, "missing", "none is configured")
    elif not mappings:
        yield Finding(
            section, "warning", "no server answers: this node cannot tell how it looks from outside"
        )


def _relays(checks: Sequence[RelayCheck], accounts: Sequence[AccountCheck]) -> Iterator[Finding]:
    section = "relays"
    if not checks and not accounts:
        none = f"none is configured, and two strict NATs cannot be crossed without one: {RELAY_ADVICE}"
        yield Finding(section, "missing", none)
    for account in accounts:
        if account.error:
            yield Finding(section, "missing", f"{account.account}: {account.error}")
            continue
        life = "" if account.lifetime is None else f" for {account.lifetime / 3600:.3g} h"
        yield Finding(
            section, "ok", f"{account.account} gives {', '.join(account.servers)}, with credentials{life}"
        )
    for check in checks:
        if check.error:
            yield Finding(section, "missing", f"{check.server}: {check.error}")
            continue
        where = " and ".join(str(endpoint.ip) for endpoint in check.relayed)
        text = f"{check.server} relays at {where}, allocated in {milliseconds(check.seconds)}"
        yield Finding(section, "ok", text)


def _names(checks: Sequence[NameServerCheck]) -> Iterator[Finding]:
    section = "names"
    if not checks:
        yield Finding(
            section, "missing", "no name server is configured: peers are reached by their addresses"
        )
    for check in checks:
        if check.error:
            yield Finding(section, "missing", f"{check.server}: {check.error}")
        else:
            yield Finding(section, "ok", f"{check.server}, round trip {milliseconds(check.seconds)}")


def _failures(status: NodeStatus, service: str, section: str) -> Iterator[Finding]:
    live = {broker.url for broker in status.brokers}
    for failure in status.failures:
        if failure.service == service and failure.server not in live:
            yield Finding(section, "missing", f"{failure.server}: {failure.reason}")


def _verdict(status: NodeStatus) -> Finding:
    """The one line that most people want."""
    section = "in short"
    nats = [attachment.nat for attachment in status.attachments]
    if any(nat.mapping is Mapping.NONE and nat.accepts_anyone for nat in nats):
        return Finding(section, "ok", "anybody can connect to this node directly")
    if any(attachment.tcp.learnt is LearntBy.PORT_MAP for attachment in status.attachments):
        return Finding(
            section, "ok", "anybody can connect to this node, through the port that the router maps"
        )
    if not status.brokers:
        return Finding(section, "warning", "only peers who can reach this machine directly can connect to it")
    if any(nat.mapping.predictable for nat in nats):
        return Finding(section, "ok", "most peers can connect to this node, by hole punching where need be")
    if any(nat.mapping.endpoint_dependent for nat in nats):
        return Finding(section, "warning", "peers behind easy NATs can connect to this node, others perhaps")
    return Finding(section, "warning", "peers can be heard from, but how this node is reached is not known")
