"""The probe of doctor against real brokers: one that is well, one whose rules refuse what is published, none at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from services_kit import free_port

from warpgate import Config, Identity, Node
from warpgate.core.search.equipment import TOPIC
from warpgate.core.search.probe import SWALLOWED
from warpgate.proto.instances import PATIENCE


@pytest.fixture
def swallowing(mosquitto: Any, tmp_path: Path) -> str:
    """It lets anybody connect and subscribe, and drops what they publish."""
    rules = tmp_path / "acl"
    rules.write_text("topic read #\n")
    url: str = mosquitto(f"acl_file {rules}\n").url
    return url


def settings(*brokers: str, **more: Any) -> Config:
    return Config(brokers=brokers, stun=(), port=0, port_map=False, interfaces=("lo",), **more)


async def test_what_is_published_has_to_come_back(mosquitto: Any, swallowing: str) -> None:
    well, dead = mosquitto().url, f"mqtt://127.0.0.1:{free_port()}"
    async with Node(settings(swallowing, well, dead), identity=Identity.generate()) as node:
        assert {broker.url for broker in node.status().brokers} == {
            swallowing,
            well,
        }  # which nothing tells apart
        (bad, good, none), others = await node.check_brokers()
    assert (good.url, good.error) == (well, "")
    assert 0 < good.seconds < PATIENCE + 1
    assert (bad.url, bad.error) == (swallowing, SWALLOWED)
    assert none.url == dead
    assert "refused" in none.error
    assert others == ()


async def test_whoever_has_the_key_answers(mosquitto: Any) -> None:
    """And nobody else, whatever he publishes; the one who answers takes the probe for no twin of its own."""
    url, identity = mosquitto().url, Identity.generate()
    async with (
        Node(settings(url), identity=identity) as twin,
        Node(settings(url, accept=False, beside=False), identity=identity) as node,
        Node(settings(url), identity=Identity.generate()) as stranger,
    ):
        for data in (b"", b"noise", os.urandom(500)):
            stranger._run.channel.publish((url,), TOPIC + node.node_id, data)
        (check,), (other,) = await node.check_brokers()
        assert check.error == ""
        assert (other.instance, other.beside) == (twin.address.instance.hex(), False)
        assert "127.0.0.1" in other.where
        assert twin.status().twin == ""


def test_doctor_tells_it(mosquitto: Any, swallowing: str, tmp_path: Path) -> None:
    well = mosquitto().url
    words = ("doctor", "--json", "--broker", swallowing, "--broker", well, "--stun", "", "--interface", "lo")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WARPGATE_")}
    places = {"WARPGATE_DATA": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(
        (sys.executable, "-m", "warpgate", *words, "--no-port-map"),
        env=environment | places,
        capture_output=True,
        timeout=60,
        check=True,
    )
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    brokers = [finding for finding in findings if finding["section"] == "brokers"]
    assert [finding["state"] for finding in brokers] == ["ok", "missing"]
    assert brokers[0]["message"].startswith(f"{well}, round trip ")
    assert brokers[1]["message"] == f"{swallowing}: {SWALLOWED}"
    identity = [finding["message"] for finding in findings if finding["section"] == "identity"]
    assert identity == ["no other node answers to it"]
