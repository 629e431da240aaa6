from __future__ import annotations

import subprocess
import sys

from warpgate.model.endpoint import Transport
from warpgate.services.defaults import public_login, public_servers


def test_the_first_brokers_are_four_operators_and_one_is_on_the_webs_port() -> None:
    brokers = public_servers().brokers
    assert len(set(brokers)) == len(brokers)
    assert len({broker.host.split(".")[-2] for broker in brokers[:4]}) == 4
    assert any(broker.port == 443 and broker.path is not None for broker in brokers[:4])
    assert all(broker.tls for broker in brokers[:4])


def test_what_everybody_logs_in_with_is_known_of_a_broker_that_an_address_names() -> None:
    (broker,) = [broker for broker in public_servers().brokers if broker.login is not None]
    assert public_login(str(broker)) == broker.login
    assert public_login("mqtt://broker.example:1883") is None


def test_there_are_stun_servers_for_both_transports() -> None:
    servers = public_servers().stun
    assert len(set(servers)) == len(servers)
    for transport in Transport:
        assert len({server.host for server in servers if server.serves(transport)}) >= 3


def test_nothing_is_read_on_import() -> None:
    check = "import sys, warpgate.services.defaults; sys.exit('tomllib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
