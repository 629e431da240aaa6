"""What `warpgate serve` takes for serving more than names. Only grammar: imported for every --help."""

from __future__ import annotations

import argparse

from warpgate.cli.help_texts import COMMON
from warpgate.cli.options import port_number

EPILOG = """\
With --stun, --broker and --relay, one command on a machine with a public address gives a group everything. It prints
one line for the clients' config file; whoever has the line may use the relay. Open in its firewall: UDP and TCP 3478 to
3480, UDP and TCP 49152 to 65535, TCP 1883 (with a certificate 8883), TCP 8421, and the --door-port. docs/operating.md
tells what larger groups need."""


def add_rendezvous_options(parser: argparse.ArgumentParser) -> None:
    """--stun, --broker, --relay and what goes with them."""
    parser.epilog = f"{EPILOG}\n\n{COMMON}"
    group = parser.add_argument_group("rendezvous")
    group.add_argument(
        "--stun",
        dest="serve_stun",
        action="store_true",
        help="answer STUN, too (with --interface, there alone): with two addresses of one all of RFC 5780",
    )
    group.add_argument(
        "--broker",
        dest="serve_broker",
        action="store_true",
        help="run an MQTT broker, too: mosquitto if it is installed, else the one of warpgate[broker]",
    )
    group.add_argument("--embedded-broker", action="store_true", help="the latter, even if mosquitto is installed")
    group.add_argument(
        "--public-host",
        metavar="NAME_OR_IP",
        help="how clients reach this machine (default: its address)",
    )
    group.add_argument(
        "--stun-port",
        type=port_number,
        default=3478,
        metavar="N",
        help="this one and the next (default 3478)",
    )
    group.add_argument(
        "--broker-port",
        type=port_number,
        metavar="N",
        help="(default 1883, with a certificate 8883)",
    )
    group.add_argument(
        "--tls-cert",
        metavar="FILE",
        help="PEM certificate chain: HTTP becomes HTTPS, and MQTT MQTTS; clients must trust it",
    )
    group.add_argument("--tls-key", metavar="FILE", help="PEM private key of the certificate")
    _add_relay_options(group)


def _add_relay_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--relay",
        dest="serve_relay",
        action="store_true",
        help="relay (TURN) for pairs that nothing else connects, to whoever has the secret in the printed line",
    )
    group.add_argument(
        "--embedded-relay",
        action="store_true",
        help="the same, without coturn even if that is installed",
    )
    group.add_argument("--relay-port", type=port_number, default=3480, metavar="N", help="UDP and TCP (default 3480)")
    group.add_argument(
        "--door-port",
        type=port_number,
        metavar="N",
        help="with a certificate: relay and broker over TLS on this port too; 443 passes almost every network",
    )
    group.add_argument(
        "--relay-secret-file",
        metavar="FILE",
        help="the group's secret (default: in the data directory, made at the first start)",
    )
    group.add_argument(
        "--relay-allow",
        action="append",
        default=[],
        metavar="NETWORK",
        help="relay to this network, too, though it is private or this machine's own; repeatable",
    )
    group.add_argument(
        "--relay-for",
        action="append",
        default=[],
        metavar="ID",
        help="relay for this node id alone, without a secret; repeatable",
    )
    group.add_argument(
        "--relay-limit",
        action="append",
        default=[],
        metavar="WHAT=N",
        help="allocations, mbits or daily-gb in all, and the same with user- for one address; repeatable",
    )
