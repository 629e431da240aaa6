"""A strategy of somebody else's, built, installed with pip beside warpgate, and found by the real program.

Host a is behind a router that lets out nothing but port 443, host b is public: without a relay, and but for this
strategy, nothing connects them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from needs import need_programs

from warpgate.lab.host import Completed, Host
from warpgate.lab.servers import start_mosquitto
from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

PACKAGE = Path(__file__).parent.parent / "data" / "warpgate-port-443"
WARPGATE = (sys.executable, "-m", "warpgate")
PATIENCE = 30.0


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what pip made of the package, with nothing fetched from anywhere."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, source, dirs_exist_ok=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(target), str(source)]
    subprocess.run(command, check=True, timeout=60)
    return target


@dataclass(frozen=True, slots=True)
class Site:
    host: Host
    env: dict[str, str]

    async def run(self, *words: str) -> Completed:
        return await self.host.run([*WARPGATE, *words], env=self.env, timeout=PATIENCE)

    async def listen(self) -> tuple[asyncio.subprocess.Process, str]:
        """`listen --echo`, and its address."""
        command = [*WARPGATE, "listen", "--echo", "--json"]
        listener = await self.host.popen(command, env=self.env, stdout=asyncio.subprocess.PIPE)
        assert listener.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return listener, json.loads(await listener.stdout.readline())["address"]


async def two_sites(lab: Lab, tmp_path: Path, installed: Path | None) -> tuple[Site, Site]:
    need_programs("mosquitto")
    broker = await start_mosquitto(lab.add_host("broker"), 443)
    known = {"WARPGATE_BROKER": broker.mqtt_url, "WARPGATE_STUN": "", "WARPGATE_PORT_MAP": "no"}
    if installed is not None:
        known["PYTHONPATH"] = os.pathsep.join(filter(None, (str(installed), os.environ.get("PYTHONPATH"))))
    a, b = (
        Site(lab.add_host(name, kind), {**known, "WARPGATE_DATA": str(tmp_path / name)})
        for name, kind in (("a", "only-443"), ("b", "public"))
    )
    return a, b


async def test_it_wins_where_nothing_else_gets_through(lab: Lab, tmp_path: Path, installed: Path) -> None:
    a, b = await two_sites(lab, tmp_path, installed)
    listener, address = await b.listen()
    for via in ((), ("--via", "port_443")):
        done = await a.run("connect", address, "--ping", "1", "--json", *via)
        assert (done.returncode, done.stderr) == (0, b""), done.stdout
        pipe, pong = (json.loads(line) for line in done.stdout.splitlines())
        assert (pipe["plugin"], pipe["transport"], pipe["relayed"]) == ("port_443", "tcp", False)
        assert pipe["remote"].endswith(":443")
        assert pong["event"] == "pong"
    explained = await a.run("explain", address)
    assert b"port_443" in explained.stdout
    await b.host.stop(listener)


async def test_without_it_there_is_no_way(lab: Lab, tmp_path: Path) -> None:
    a, b = await two_sites(lab, tmp_path, None)
    listener, address = await b.listen()
    done = await a.run("connect", address, "--ping", "1", "--timeout", "1", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["event"] == "failed"
    unknown = await a.run("connect", address, "--via", "port_443", "--ping", "1")
    assert b"there is no strategy 'port_443'" in unknown.stderr
    await b.host.stop(listener)


async def test_the_program_lists_it(lab: Lab, tmp_path: Path, installed: Path) -> None:
    a, _ = await two_sites(lab, tmp_path, installed)
    helped, examined = await asyncio.gather(a.run("connect", "--help"), a.run("doctor", "--json"))
    assert "port_443" in " ".join(helped.stdout.decode().split())
    findings = [json.loads(line) for line in examined.stdout.splitlines()]
    told = [found["message"] for found in findings if found["section"] == "strategies"]
    assert told[0].startswith("direct, reverse, udp_punch")
    assert told[1:] == ["port_443, installed with warpgate-port-443 1.0"]


async def test_a_broken_one_is_told_and_left_out(lab: Lab, tmp_path: Path, installed: Path) -> None:
    shutil.copytree(installed, tmp_path / "site")
    (tmp_path / "site" / "warpgate_port_443.py").write_text("import no_such_module\n")
    a, _ = await two_sites(lab, tmp_path, tmp_path / "site")
    examined = await a.run("doctor")
    assert b"port_443 of warpgate-port-443 1.0 cannot be used: ModuleNotFoundError" in examined.stdout
    noted = await a.run("connect", "--via", "port_443", "wg1", "--ping", "1")
    assert b"there is no strategy 'port_443'" in noted.stderr
