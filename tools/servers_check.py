"""Test every server of the list that comes with the package, and print the rows for the next one.

For maintainers, on a machine that reaches the internet: `python tools/servers_check.py`. Status 1 if any fails.
"""

from __future__ import annotations

import asyncio
import sys
import time

from warpgate.model.server_list import ServerList
from warpgate.net.network import Network
from warpgate.net.system import SystemNetwork
from warpgate.services.defaults import public_servers
from warpgate.services.mqtt import MqttConnector
from warpgate.services.server_check import ServerCheck, check_servers


async def check(servers: ServerList, network: Network) -> tuple[ServerCheck, ...]:
    return await check_servers(network, MqttConnector(network), servers.brokers, servers.stun)


def page(checks: tuple[ServerCheck, ...], day: str) -> str:
    """The two lists, as `data/servers.toml` has them."""
    lines = []
    for name, kind in (("brokers", "broker"), ("stun", "stun")):
        lines += [f"{name} = [", *(each.row(day) for each in checks if each.kind == kind), "]", ""]
    return "\n".join(lines)


def main() -> int:
    checks = asyncio.run(check(public_servers(), SystemNetwork()))
    sys.stdout.write(page(checks, time.strftime("%Y-%m-%d", time.gmtime())) + "\n")
    return int(any(each.error for each in checks))


if __name__ == "__main__":
    sys.exit(main())
