from __future__ import annotations

import subprocess
import sys

from warpgate.model.endpoint import Transport
from warpgate.services.defaults import public_servers


def test_there_are_brokers_with_and_without_tls_on_different_hosts() -> None:
    brokers = public_servers().brokers
    assert {broker.tls for broker in brokers} == {True, False}
    assert len(set(brokers)) == len(brokers)
    assert len({broker.host for broker in brokers[:4]}) == 4


def test_there_are_stun_servers_for_both_transports() -> None:
    servers = public_servers().stun
    assert len(set(servers)) == len(servers)
    for transport in Transport:
        assert len({server.host for server in servers if server.serves(transport)}) >= 3


def test_nothing_is_read_on_import() -> None:
    check = "import sys, warpgate.services.defaults; sys.exit('tomllib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
