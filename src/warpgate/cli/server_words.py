"""What doctor says of the outside servers: brokers, STUN servers, relays, name servers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from warpgate.cli.records import Finding, milliseconds, span
from warpgate.errors import RELAY_ADVICE
from warpgate.lazy_dataclass import dataclass
from warpgate.model.scope import Scope, scope_of
from warpgate.proto.name_record import MAX_LIFETIME

if TYPE_CHECKING:
    from warpgate.config import Config
    from warpgate.core.assembly import NodeStatus
    from warpgate.core.disk.claim import Holder
    from warpgate.core.search.probe import BrokerCheck, OtherProcess
    from warpgate.core.server_lists import ListStatus, PlaceCheck
    from warpgate.events import MappingLearnt
    from warpgate.model.contact import Contact
    from warpgate.services.names import NameServerCheck
    from warpgate.services.relay import RelayCheck
    from warpgate.services.turn_accounts import AccountCheck

NO_ROUTE = "no default route: this machine reaches its own networks alone"
# As `Network.resolve` begins its reasons.
_UNRESOLVED = "resolve "
_ALIKE = 3  # names that all cannot be looked up are one finding


@dataclass(frozen=True, slots=True)
class Checks:
    """What was tried beside what the node does by itself. `now` in Unix seconds; `processes`: those of this identity on
    this machine, as `status_door.snapshot` has it; `holder`: the process of this machine that accepts peers, perhaps
    none of those; `others`: those anywhere that answered the probe.
    """

    now: float
    brokers: Sequence[BrokerCheck] = ()
    others: Sequence[OtherProcess] = ()
    processes: Sequence[dict[str, Any]] = ()
    holder: Holder | None = None
    relays: Sequence[RelayCheck] = ()
    accounts: Sequence[AccountCheck] = ()
    names: Sequence[NameServerCheck] = ()
    contacts: Sequence[Contact] = ()
    contacts_error: str = ""  # why the contact book cannot be read
    list: ListStatus | None = None  # of public servers

    @property
    def carry_signals(self) -> bool:
        return any(not check.error for check in self.brokers)


def broker_findings(status: NodeStatus, checks: Checks, config: Config) -> Iterator[Finding]:
    section = "brokers"
    for check in checks.brokers:
        if not check.error:
            back = milliseconds(check.seconds)
            text = f"{check.url}, round trip {milliseconds(check.rtt)}; a probe was back in {back}"
            yield Finding(section, "ok", text)
    failed = [(check.url, check.error) for check in checks.brokers if check.error]
    yield from _failed(section, failed, status, checks.now)
    if config.brokers == ():
        yield Finding(section, "missing", "none is configured")
    elif not checks.carry_signals:
        yield Finding(section, "warning", "none works: no signals, so only `direct` connections can be made")


def stun_findings(
    status: NodeStatus, mappings: Sequence[MappingLearnt], checks: Checks, config: Config
) -> Iterator[Finding]:
    section = "STUN"
    quickest: dict[tuple[str, str], float] = {}
    for mapping in mappings:
        key = mapping.server, mapping.transport
        quickest[key] = min(mapping.seconds, quickest.get(key, mapping.seconds))
    for (server, transport), seconds in quickest.items():
        yield Finding(section, "ok", f"{server} over {transport.upper()}, round trip {milliseconds(seconds)}")
    failed = [(each.server, each.reason) for each in status.failures if each.service == "stun"]
    yield from _failed(section, failed, status, checks.now)
    if config.stun == ():
        yield Finding(section, "missing", "none is configured")
    elif not mappings:
        yield Finding(section, "warning", "no server answers: this node cannot tell how it looks from outside")


def relay_findings(checks: Checks) -> Iterator[Finding]:
    section = "relays"
    if not checks.relays and not checks.accounts:
        none = f"none is configured, and two strict NATs cannot be crossed without one: {RELAY_ADVICE}"
        yield Finding(section, "missing", none)
    for account in checks.accounts:
        if account.error:
            yield Finding(section, "missing", f"{account.account}: {account.error}")
            continue
        life = "" if account.lifetime is None else f" for {account.lifetime / 3600:.3g} h"
        yield Finding(section, "ok", f"{account.account} gives {', '.join(account.servers)}, with credentials{life}")
    for check in checks.relays:
        if check.error:
            yield Finding(section, "missing", f"{check.server}: {check.error}")
            continue
        where = " and ".join(str(endpoint.ip) for endpoint in check.relayed)
        text = f"{check.server} relays at {where}, allocated in {milliseconds(check.seconds)}"
        yield Finding(section, "ok", text)
        for ip in dict.fromkeys(endpoint.ip for endpoint in check.relayed):
            if (scope := scope_of(ip)) is not Scope.GLOBAL:
                yield Finding(
                    section,
                    "warning",
                    f"{check.server} relays at {ip}, and that is {scope.value}: of no use to peers outside its own "
                    "network. Tell it its public address (external-ip of coturn, serve --public-host)",
                )


def name_findings(checks: Checks) -> Iterator[Finding]:
    section = "names"
    if not checks.names:
        yield Finding(section, "missing", "no name server is configured: peers are reached by their addresses")
    for check in checks.names:
        if check.error:
            yield Finding(section, "missing", f"{check.server}: {check.error}")
        else:
            yield Finding(section, "ok", f"{check.server}, round trip {milliseconds(check.seconds)}")
    yield from _contact_findings(section, checks)


def list_findings(told: ListStatus, places: Sequence[PlaceCheck], now: float) -> Iterator[Finding]:
    """`places` as they were asked just now; () when they were not."""
    section = "list of public servers"
    used, source = told.used, "fetched" if told.fetched else "of this package"
    left = used.expires - now
    last = time.strftime("%Y-%m-%d", time.gmtime(used.expires - 1))
    if left > 0:
        yield Finding(section, "ok", f"number {used.sequence}, {source}, good until {last}")
    else:
        old = f"number {used.sequence}, {source}, was good until {last}: update warpgate, as servers leave and rename"
        yield Finding(section, "warning", old)
    if told.off:
        yield Finding(section, "info", f"no newer one is fetched: {told.off}")
    elif not places:
        when = f"in {span(told.next_at - now)}" if told.next_at > now else "by the next node that runs for 15 minutes"
        yield Finding(section, "info", f"a newer one is looked for {when}")
    for each in places:
        state, text = ("missing", each.error) if each.error else ("ok", f"it has number {each.sequence}")
        yield Finding(section, state, f"{each.place}: {text}")


def _contact_findings(section: str, checks: Checks) -> Iterator[Finding]:
    """How old is what is known of peers; not who they are, as this is what people show around."""
    if checks.contacts_error:
        yield Finding(section, "missing", checks.contacts_error)
    if not checks.contacts:
        return
    seen = [checks.now - contact.first_seen for contact in checks.contacts]
    news = [checks.now - contact.sequence / 1000 for contact in checks.contacts]  # as `Registration` counts
    yield Finding(
        section,
        "ok",
        f"keys of {len(seen)} names in the contact book, met {_range(seen)} ago; their newest records are of "
        f"{_range(news)} ago",
    )
    if late := sum(age > MAX_LIFETIME for age in news):
        yield Finding(
            section,
            "info",
            f"{late} of them have shown no new record for {MAX_LIFETIME // 86_400} days: such names are free for "
            "others, whose keys will be refused here",
        )


def _range(ages: Sequence[float]) -> str:
    low, high = span(min(ages)), span(max(ages))
    return low if low == high else f"{low} to {high}"


def _failed(section: str, failed: Iterable[tuple[str, str]], status: NodeStatus, now: float) -> Iterator[Finding]:
    """What is the matter with all of them is told once."""
    failed = list(failed)
    if failed and not status.routed:
        yield Finding(section, "missing", f"{len(failed)} not reached: no default route")
        return
    nameless = [server for server, reason in failed if reason.startswith(_UNRESOLVED)]
    if len(nameless) >= _ALIKE:
        yield Finding(section, "missing", f"{len(nameless)} not found: DNS does not know {', '.join(nameless)}")
        failed = [(server, reason) for server, reason in failed if server not in nameless]
    for server, reason in failed:
        yield Finding(section, "missing", f"{server}: {reason}{_known(server, status, now)}")


def _known(server: str, status: NodeStatus, now: float) -> str:
    """When it was good here last, as far as that is remembered."""
    seen = [at for name, at in status.known if name == server or name == server.rpartition(":")[0]]
    return f" (it was good here {span(now - max(seen))} ago)" if seen else ""
