"""ssh over warpgate as the README prints it: a real sshd and ssh in two hosts behind two NATs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from needs import missing, need_programs
from programs import Seat, script, seats

from warpgate.lab.line import Quality
from warpgate.lab.topology import Lab
from warpgate.model.address import NodeAddress

pytestmark = pytest.mark.lab

README = Path(__file__).parents[2] / "README.md"
PROXY_COMMAND = re.compile(r"ssh -o ProxyCommand='(warpgate connect %h)'")
SSHD_CONFIG = """\
Port 22
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
Subsystem sftp internal-sftp
"""
SERVER = """\
import socket
with socket.create_server(("127.0.0.1", 9000)) as server:
    print("up", flush=True)
    while True:
        client, _ = server.accept()
        with client:
            while data := client.recv(65536):
                client.sendall(data.upper())
"""
CLIENT = """\
import socket
with socket.create_connection(("127.0.0.1", 8000), timeout=20) as client:
    client.sendall(b"through a forwarded port")
    client.shutdown(socket.SHUT_WR)
    print(client.makefile("rb").read().decode())
"""
COPIED = 20_000_000
SLOW = Quality(bandwidth=40e6)  # the copy takes 4 s


def need_users() -> None:
    """sshd becomes other users; in a user namespace of one user it cannot."""
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        missing("sshd needs root")
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd's unprivileged part is locked in


@dataclass(frozen=True, slots=True)
class Login:
    """ssh's options on host a, with what the README prints; `target` is b's address as a host name."""

    a: Seat
    b: Seat
    options: tuple[str, ...]
    target: str


@pytest.fixture
async def login(lab: Lab, tmp_path: Path) -> AsyncIterator[Login]:
    need_programs("sshd", "ssh", "scp", "ssh-keygen")
    need_users()
    a, b = await seats(lab, tmp_path)
    printed = PROXY_COMMAND.search(README.read_text())
    assert printed is not None
    for key in ("host_key", "user_key"):
        made = await b.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / key)
        assert made.returncode == 0, made.stderr
    config = tmp_path / "sshd_config"
    config.write_text(SSHD_CONFIG.format(folder=tmp_path))
    options = {
        "ProxyCommand": printed[1],
        "IdentityFile": str(tmp_path / "user_key"),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": str(tmp_path / "known_hosts"),
        "StrictHostKeyChecking": "accept-new",
        "BatchMode": "yes",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    async with (
        b.running("/usr/sbin/sshd", "-D", "-e", "-f", str(config), says=b"Server listening"),
        b.running("warpgate", "listen", "--forward", "127.0.0.1:22", "--json", says=b"ready") as (_, ready),
    ):
        address = NodeAddress.from_text(json.loads(ready)["address"])
        yield Login(a, b, ("-F", "none", *words), f"root@{address.to_host_name()}")


async def test_a_session_a_copy_and_a_forwarded_port(login: Login, tmp_path: Path) -> None:
    a, options, target = login.a, login.options, login.target
    said = await a.run("ssh", *options, target, "echo $SSH_CONNECTION; exit 7")
    assert (said.returncode, said.stdout[:10]) == (7, b"127.0.0.1 "), said.stderr

    sent = random.Random(3).randbytes(COPIED)
    (tmp_path / "sent").write_bytes(sent)
    copied = await a.run("scp", *options, tmp_path / "sent", f"{target}:{tmp_path}/arrived")
    assert copied.returncode == 0, copied.stderr
    arrived = (tmp_path / "arrived").read_bytes()
    assert hashlib.sha256(arrived).digest() == hashlib.sha256(sent).digest()

    forward = ("ssh", *options, "-v", "-N", "-L", "8000:127.0.0.1:9000", target)
    async with (
        login.b.running(*script(SERVER), says=b"up"),
        a.running(*forward, says=b"Local forwarding listening on 127.0.0.1"),
    ):
        answered = await a.run(*script(CLIENT))
    assert (answered.returncode, answered.stdout) == (0, b"THROUGH A FORWARDED PORT\n"), answered.stderr


async def test_a_copy_goes_on_when_either_host_moves(lab: Lab, login: Login, tmp_path: Path) -> None:
    """Both change their networks while scp runs, b first: the ssh connection does not notice."""
    a, b = login.a.host, login.b.host
    for host in (a, b):
        host.access.up.quality = host.access.down.quality = SLOW
    sent, arrived = random.Random(4).randbytes(COPIED), tmp_path / "arrived"
    (tmp_path / "sent").write_bytes(sent)
    durable = ("-o", "ProxyCommand=warpgate connect --durable %h")  # ssh goes by the first that it is given
    words = (
        "scp",
        *login.options[:2],
        *durable,
        *login.options[2:],
        tmp_path / "sent",
        f"{login.target}:{arrived}",
    )
    copying = asyncio.ensure_future(login.a.run(*words))
    for host, share in ((b, 0.2), (a, 0.5)):
        while size_of(arrived) < share * COPIED:
            assert not copying.done(), copying.result().stderr
            await asyncio.sleep(0.02)
        lab.move(host, "eim-apdf", link=SLOW)
    copied = await copying
    assert copied.returncode == 0, copied.stderr
    assert hashlib.sha256(arrived.read_bytes()).digest() == hashlib.sha256(sent).digest()


def size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


async def test_the_host_name_is_what_the_command_prints(login: Login) -> None:
    host_name = login.target.removeprefix("root@")
    text = NodeAddress.from_text(host_name).to_text()
    printed = await login.b.run("warpgate", "address", "--host-name", text)
    assert (printed.returncode, printed.stdout.decode().strip()) == (0, host_name), printed.stderr
