"""coturn for the relay's UDP clients, where it is installed: many times what one core of ours carries.

It counts allocations by the name that a client logs in with (what follows the time in it), and its rate is that of one
allocation: `bps-capacity` would refuse allocations as soon as their rates add up to it, ten of them by our defaults.

Clients over TCP and TLS stay with the embedded relay, on the same port: two of them may need each other's relayed
ports, and coturn can only allow all ports of this machine or none. Here it allows none.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from ipaddress import ip_network

from warpgate.model.endpoint import Endpoint
from warpgate.platform import PROCESSES
from warpgate.proto.relay_admission import NONCE_LIFETIME, REALM
from warpgate.server.broker import SERVER_PATHS, Broker, Launch
from warpgate.server.child import unprivileged_user
from warpgate.server.relay import RelaySettings

# What a relay must not reach (`model.scope`): coturn knows ranges, not what is inside an address.
DENIED = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3",
    "::/3", "2001::/32", "2002::/16", "4000::/2", "8000::/1",
)  # fmt: skip
DENIED_LOW = ip_network("::/3")


def find_coturn() -> str | None:
    """Its path, when it is installed, and can be told its settings by a file in memory."""
    if not PROCESSES.has_memory_files:
        return None
    return shutil.which("turnserver") or shutil.which("turnserver", path=SERVER_PATHS)


def coturn_relay(program: str, places: Sequence[Endpoint], settings: RelaySettings) -> Broker:
    """What to start for UDP clients on these endpoints."""
    return Broker("coturn", places[0].port, lambda: _launch(program, places, settings))


def coturn_config(places: Sequence[Endpoint], settings: RelaySettings) -> str:
    """The text of turnserver.conf (coturn 4.6)."""
    limits = settings.limits
    lines = [f"listening-port={places[0].port}", *(f"listening-ip={place.ip}" for place in places)]
    for address in settings.addresses.values():
        lines.append(f"relay-ip={address.local}")
        if address.announced != address.local:
            lines.append(f"external-ip={address.announced}/{address.local}")
    lines += [
        "no-tcp",
        "no-tls",
        "no-dtls",
        "no-tcp-relay",
        "no-cli",
        "no-rfc5780",
        "no-software-attribute",
        "no-multicast-peers",
        "use-auth-secret",
        f"static-auth-secret={settings.secret}",
        f"realm={REALM}",
        f"stale-nonce={NONCE_LIFETIME}",
        f"min-port={settings.ports.start}",
        f"max-port={settings.ports.stop - 1}",
        f"user-quota={limits.allocations_per_user}",
        f"total-quota={limits.allocations}",
        f"max-bps={int(limits.bytes_per_second_per_user)}",
        "userdb=:memory:",  # without its tables, coturn does not look at the secret
        "pidfile=/dev/null",
        "log-file=stdout",
        "simple-log",
    ]
    announced = {address.announced for address in settings.addresses.values()}
    denied = [*map(ip_network, DENIED), *map(ip_network, sorted(map(str, settings.own | announced)))]
    # coturn takes a range that begins with :: for one of all addresses, IPv4 as well; :: itself it never relays to.
    lines += [f"denied-peer-ip={network[network == DENIED_LOW]}-{network[-1]}" for network in denied]
    lines += [f"allowed-peer-ip={network[0]}-{network[-1]}" for network in settings.allowed]
    return "\n".join(lines) + "\n"


def _launch(program: str, places: Sequence[Endpoint], settings: RelaySettings) -> Launch:
    user = unprivileged_user("turnserver", "nobody")
    config = PROCESSES.memory_file("turnserver.conf", coturn_config(places, settings).encode())
    wrapper = (sys.executable, "-P", "-m", "warpgate.server.child", str(os.getpid()), user)
    return Launch((*wrapper, program, "-c", f"/dev/fd/{config}"), (config,))
