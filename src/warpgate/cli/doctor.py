"""`warpgate doctor`: what works here, what does not, and what that means for connecting, in words."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from warpgate.cli.family_words import family_findings, translated
from warpgate.cli.fingerprints import nats_settled
from warpgate.cli.nat_words import attachment_findings
from warpgate.cli.options import UsageError
from warpgate.cli.page_file import PageFile
from warpgate.cli.port_map_words import port_map_findings, ports_settled
from warpgate.cli.records import Finding
from warpgate.cli.self_words import clock_findings, identity_findings
from warpgate.cli.server_words import (
    NO_ROUTE,
    Checks,
    broker_findings,
    list_findings,
    name_findings,
    relay_findings,
    stun_findings,
)
from warpgate.cli.shell import Shell
from warpgate.cli.status import running
from warpgate.cli.strategies import strategy_findings
from warpgate.core.disk.claim import holder
from warpgate.errors import ConfigError
from warpgate.events import Event, MappingLearnt
from warpgate.model.address import LearntBy
from warpgate.model.nat import Mapping
from warpgate.net.threads import in_thread
from warpgate.plugins.registry import REGISTRY

if TYPE_CHECKING:
    from warpgate.config import Config
    from warpgate.core.assembly import NodeStatus
    from warpgate.core.node import Node
    from warpgate.core.server_lists import ServerLists
    from warpgate.model.address import NodeAddress
    from warpgate.model.contact import Contact


def run(arguments: argparse.Namespace, shell: Shell) -> int:
    if arguments.full and arguments.html is None:
        raise UsageError("--full is for the page of --html FILE: nothing else is masked")
    file = None if arguments.html is None else PageFile(arguments.html)
    work = _check_list(shell) if arguments.servers else _examine(shell)
    return shell.run(_tell(shell, work, file, full=arguments.full))


async def _tell(
    shell: Shell,
    work: Awaitable[tuple[list[Finding], NodeAddress | None]],
    file: PageFile | None,
    *,
    full: bool,
) -> int:
    findings, address = await work
    for section, members in groupby(findings, key=lambda finding: finding.section):
        shell.output.heading(section)
        for finding in members:
            shell.output.show(finding)
    if file is not None:
        from warpgate.cli.pages.examination import Examination, page, private_names  # noqa: PLC0415 - only here
        from warpgate.cli.pages.masks import Masks  # noqa: PLC0415

        mask = None if full else Masks(private_names(shell.settings.config))
        shell.output.show(file.write(page(Examination(time.time(), findings, address), mask)))
    return 0


async def _check_list(shell: Shell) -> tuple[list[Finding], None]:
    """Every broker and STUN server of the settings, or else of the list of public ones; without a node. Where newer
    lists are is asked, too.
    """
    from warpgate.model.servers import BrokerUrl, StunServer  # noqa: PLC0415 - slow imports, only where needed
    from warpgate.net.system import SystemNetwork  # noqa: PLC0415
    from warpgate.net.tls import Trust  # noqa: PLC0415
    from warpgate.services.mqtt import MqttConnector  # noqa: PLC0415
    from warpgate.services.server_check import check_servers  # noqa: PLC0415

    config, network, lists = shell.settings.config, SystemNetwork(), _lists(shell.settings.config)
    places = await lists.check(network)
    told = lists.status()
    public = told.used
    brokers = public.brokers if config.brokers is None else tuple(map(BrokerUrl.parse, config.brokers))
    stun = public.stun if config.stun is None else tuple(map(StunServer.parse, config.stun))
    checks = await check_servers(network, MqttConnector(network, Trust(config.ca_file)), brokers, stun)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    findings = [
        Finding(section, "missing" if check.error else "ok", f"{check.entry}: {check.error or check.words}")
        for kind, section in (("broker", "brokers"), ("stun", "STUN"))
        for check in checks
        if check.kind == kind
    ]
    findings += list_findings(told, places, time.time())
    findings += [Finding("rows", "info", check.row(day).strip()) for check in checks]
    return findings, None


def _lists(config: Config) -> ServerLists:
    from warpgate.core.disk.list_store import LIST_FILE, list_store  # noqa: PLC0415 - slow imports
    from warpgate.core.disk.store import kept_at  # noqa: PLC0415
    from warpgate.core.server_lists import ServerLists  # noqa: PLC0415

    return ServerLists(config, list_store(kept_at(LIST_FILE)), time.time)


async def _examine(shell: Shell) -> tuple[list[Finding], NodeAddress]:
    mappings: list[MappingLearnt] = []

    def observe(event: Event) -> None:
        if isinstance(event, MappingLearnt):
            mappings.append(event)

    config = shell.settings.config
    async with shell.node(accept=False, beside=False, observer=observe) as node:
        checks, _ = await asyncio.gather(_checked(node, config), nats_settled(node, config, ports_settled))
        findings = diagnose(node.status(), node.node_id, node.port, mappings, config, checks)
        address = node.address
    findings[-1:-1] = strategy_findings(REGISTRY)
    return findings, address


async def _checked(node: Node, config: Config) -> Checks:
    (brokers, others), processes = await asyncio.gather(node.check_brokers(), running(config.identity))
    contacts, contacts_error = await in_thread(partial(_contacts, config))
    return Checks(
        time.time(),
        brokers,
        others,
        processes,
        holder(config.identity),
        accounts=await node.check_relay_accounts(),
        relays=await node.check_relays(),
        names=await node.check_names() if config.names else (),
        contacts=contacts,
        contacts_error=contacts_error,
        list=await in_thread(_lists(config).status),
    )


def _contacts(config: Config) -> tuple[tuple[Contact, ...], str]:
    """What is in the user's contact book, or why it cannot be read."""
    from warpgate.core.names.known_peers import ContactBook, default_path  # noqa: PLC0415 - only here

    try:
        path = default_path() if config.known_peers is None else Path(config.known_peers).expanduser()
        return ContactBook(path).contacts(), ""
    except ConfigError as error:
        return (), str(error)


def diagnose(
    status: NodeStatus,
    node_id: str,
    port: int,
    mappings: Sequence[MappingLearnt],
    config: Config,
    checks: Checks,
) -> list[Finding]:
    """Everything there is to say, section by section. Pure."""
    findings = [Finding("node", "ok", f"{node_id}, listening on port {port}")]
    findings += identity_findings(checks)
    findings += clock_findings(checks)
    findings += _interfaces(status)
    findings += family_findings(status)
    for attachment in status.attachments:
        findings += attachment_findings(attachment)
    findings += broker_findings(status, checks, config)
    findings += stun_findings(status, mappings, checks, config)
    findings += relay_findings(checks)
    findings += port_map_findings(status, config)
    findings += name_findings(checks)
    if checks.list is not None and (config.brokers is None or config.stun is None):
        findings += list_findings(checks.list, (), checks.now)
    return [*findings, _verdict(status, checks)]


def _interfaces(status: NodeStatus) -> Iterator[Finding]:
    section = "interfaces"
    if not status.interfaces:
        yield Finding(section, "missing", "none is up")
    for interface in status.interfaces:
        family = "IPv4 by NAT64" if translated(status, interface) else f"IPv{interface.ip.version}"
        yield Finding(section, "ok", f"{interface.name}: {interface.ip}/{interface.prefix} ({family})")
    if status.interfaces and not status.routed:
        yield Finding(section, "missing", NO_ROUTE)


def _verdict(status: NodeStatus, checks: Checks) -> Finding:
    """The one line that most people want."""
    section = "in short"
    nats = [attachment.nat for attachment in status.attachments]
    if any(nat.mapping is Mapping.NONE and nat.accepts_anyone for nat in nats):
        return Finding(section, "ok", "anybody can connect to this node directly")
    if any(attachment.tcp.learnt is LearntBy.PORT_MAP for attachment in status.attachments):
        return Finding(section, "ok", "anybody can connect to this node, through the port that the router maps")
    if not checks.carry_signals:
        return Finding(section, "warning", "only peers who can reach this machine directly can connect to it")
    if any(nat.mapping.predictable for nat in nats):
        return Finding(section, "ok", "most peers can connect to this node, by hole punching where need be")
    if any(nat.mapping.endpoint_dependent for nat in nats):
        return Finding(section, "warning", "peers behind easy NATs can connect to this node, others perhaps")
    return Finding(section, "warning", "peers can be heard from, but how this node is reached is not known")
