"""What doctor says of the machine itself: its clock, and what else runs with this identity."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from warpgate.cli.records import Finding, span
from warpgate.cli.server_words import Checks
from warpgate.errors import AddressError
from warpgate.model.address import NodeAddress

# Of the first release: no clock that is right says less. Machines without a battery begin in 1970, or at a build date.
BUILT = 1_767_225_600.0  # 2026-01-01
# HTTP dates have whole seconds, and the way there may take one; records of names bear five minutes.
CLOCKS_AGREE = 30.0


def clock_findings(checks: Checks) -> Iterator[Finding]:
    """By the name servers, since nobody else who is asked tells the time."""
    section = "clock"
    day = time.strftime("%Y-%m-%d", time.gmtime(checks.now))
    if checks.now < BUILT:
        yield Finding(section, "warning", f"it says {day}, which cannot be: set it")
    told = [(check.server, check.ahead) for check in checks.names if check.ahead is not None]
    for server, ahead in told:
        side = "ahead of" if ahead > 0 else "behind"
        if abs(ahead) > CLOCKS_AGREE:
            yield Finding(
                section,
                "warning",
                f"it is {abs(ahead):.0f} s {side} that of {server}: one of the two is wrong. Connecting works with a "
                "wrong clock; registered names and credentials of relays do not",
            )
        else:
            yield Finding(section, "ok", f"it agrees with that of {server}")
    if not told and checks.now >= BUILT:
        yield Finding(section, "info", f"it says {day}, and no name server is there to compare it with")


def identity_findings(checks: Checks) -> Iterator[Finding]:
    """Processes here are told apart from nodes elsewhere by the instance in their addresses."""
    section = "identity"
    for told in checks.processes:
        does = "accepts peers" if told["accepts"] else "runs beside"
        age = span(checks.now - told["since"])
        yield Finding(section, "ok", f"process {told['pid']} ({told['command']}) {does}, for {age}")
    here = {instance for told in checks.processes if (instance := _instance(told))}
    if checks.holder is not None and not any(told["accepts"] for told in checks.processes):
        here.add(checks.holder.instance.hex())
        yield Finding(section, "ok", f"process {checks.holder.process} (no warpgate command) accepts peers")
    elsewhere = [other for other in checks.others if other.instance not in here and not other.beside]
    for other in elsewhere:
        yield Finding(
            section,
            "warning",
            f"another node runs with this identity, {other.where} (instance {other.instance}): names may lead to "
            "either. Give one of them a key of its own (--identity NAME)",
        )
    if checks.carry_signals and not elsewhere:
        yield Finding(section, "ok", "no other node answers to it")


def _instance(told: dict[str, Any]) -> str:
    with suppress(AddressError):
        return NodeAddress.from_text(told["address"]).instance.hex()
    return ""
