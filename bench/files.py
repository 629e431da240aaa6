"""100 MB between two hosts behind two NATs: `send` over TCP and UDP, `scp` over a ProxyCommand, beside a bare socket.

Port-restricted NATs, 40 ms round trips. The bare socket goes to a public host over as many lines. All hashes must be
equal; and a receiver that is killed after a third and started again must not get that third once more. Rates are
printed to be read: the lab's forwarding in Python, not the program, is what they mostly measure, so a share of the bare
socket's is all that is judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from bench.rows import Row, show
from warpgate.lab.host import Host
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.topology import Lab
from warpgate.model.address import NodeAddress

SIZE = 100_000_000
PATIENCE = 300.0
# Of what is there when a receiver is killed, a block is not written yet, and as much was on its way.
SENT_AGAIN = 10.0  # MB
SHARE = 0.5
SSHD = (
    "Port 22\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/user.pub\nPidFile none\nUsePAM no\n"
    "StrictModes no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
)
SINK = """\
import socket
with socket.create_server(("0.0.0.0", 9000)) as server:
    print("up", flush=True)
    client, _ = server.accept()
    with client:
        while client.recv(1 << 20): pass
        client.sendall(b"all")
"""
POUR = """\
import socket, sys
with socket.create_connection((sys.argv[1], 9000)) as client, open(sys.argv[2], "rb") as file:
    client.sendfile(file)
    client.shutdown(socket.SHUT_WR)
    assert client.recv(3) == b"all"
"""


@dataclass(frozen=True, slots=True)
class Rig:
    server: Host
    a: Host
    b: Host
    env_a: dict[str, str]
    env_b: dict[str, str]
    folder: Path

    @property
    def blob(self) -> Path:
        return self.folder / "blob"

    def arrived(self) -> bool:
        """Whether it is what was sent; it makes room for the next."""
        there = self.folder / "in" / "blob"
        with self.blob.open("rb") as sent, there.open("rb") as received:
            same = hashlib.file_digest(sent, "sha256").digest() == hashlib.file_digest(received, "sha256").digest()
        there.unlink()
        return same


@contextlib.asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        (folder / "blob").write_bytes(os.urandom(SIZE))
        async with Lab() as lab:
            server = lab.add_host("server", ipv4=2)
            broker, stun = await asyncio.gather(start_mosquitto(server), start_coturn(server))
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            known = {"WARPGATE_BROKER": broker.mqtt_url, "WARPGATE_STUN": str(stun.endpoint), "PATH": path}
            a, b = (lab.add_host(side, "eim-apdf") for side in "ab")
            env_a, env_b = ({**known, "WARPGATE_DATA": f"{name}/{side}"} for side in "ab")
            yield Rig(server, a, b, env_a, env_b, folder)


async def event(process: Process, kind: str, done: int = 0) -> dict[str, object]:
    """The next of that kind, with at least so much done."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while True:
            found = json.loads(await process.stdout.readline())
            if found["event"] == "failed":
                raise SystemExit(found["error"])
            if found["event"] == kind and found.get("done", 0) >= done:
                return dict(found)


@contextlib.asynccontextmanager
async def running(host: Host, env: dict[str, str], *command: str) -> AsyncIterator[Process]:
    process = await host.popen(command, env=env, stdout=PIPE, stderr=STDOUT)
    try:
        yield process
    finally:
        await host.stop(process)


async def timed(host: Host, env: dict[str, str], *command: str) -> float:
    began = time.perf_counter()
    done = await host.run(command, env=env, timeout=PATIENCE)
    if done.returncode:
        raise SystemExit((done.stdout + done.stderr).decode())
    return time.perf_counter() - began


async def bare(rig: Rig) -> float:
    async with running(rig.server, rig.env_a, sys.executable, "-c", SINK) as sink:
        assert sink.stdout is not None
        await sink.stdout.readline()
        return await timed(rig.a, rig.env_a, sys.executable, "-c", POUR, str(rig.server.ipv4), str(rig.blob))


async def send(rig: Rig, transport: str) -> float:
    async with running(rig.b, rig.env_b, "warpgate", "receive", str(rig.folder / "in"), "--json") as receiver:
        address = str((await event(receiver, "ready"))["address"])
        return await timed(rig.a, rig.env_a, "warpgate", "send", str(rig.blob), address, "--transport", transport)


def configure_sshd(folder: Path) -> None:
    Path("/run/sshd").mkdir(exist_ok=True)
    (folder / "sshd_config").write_text(SSHD.format(folder))


async def copy(rig: Rig) -> float:
    configure_sshd(rig.folder)
    for key in ("host", "user"):
        await rig.a.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(rig.folder / key)])
    sshd = ("/usr/sbin/sshd", "-D", "-e", "-f", str(rig.folder / "sshd_config"))
    listen = ("warpgate", "listen", "--forward", "127.0.0.1:22", "--json")
    async with running(rig.b, rig.env_b, *sshd), running(rig.b, rig.env_b, *listen) as listener:
        address = NodeAddress.from_text(str((await event(listener, "ready"))["address"]))
        options = {
            "ProxyCommand": "warpgate connect %h",
            "IdentityFile": str(rig.folder / "user"),
            "UserKnownHostsFile": str(rig.folder / "known_hosts"),
            "StrictHostKeyChecking": "accept-new",
            "BatchMode": "yes",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        target = f"root@{address.to_host_name()}:{rig.folder}/in/blob"
        return await timed(rig.a, rig.env_a, "scp", "-F", "none", *words, str(rig.blob), target)


async def killed(rig: Rig) -> float:
    """Megabytes that went over the line twice."""
    receive = ("warpgate", "receive", str(rig.folder / "in"), "--json")
    async with contextlib.AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(running(rig.b, rig.env_b, *receive))
        address = str((await event(receiver, "ready"))["address"])
        command = ("warpgate", "send", str(rig.blob), address, "--json", "--transport", "tcp")
        sender = await stack.enter_async_context(running(rig.a, rig.env_a, *command))
        there = await event(receiver, "progress", done=SIZE // 3)
        await rig.b.stop(receiver, kill=True)
        await stack.enter_async_context(running(rig.b, rig.env_b, *receive))
        sent = await event(sender, "sent")
        return (int(str(there["done"])) - int(str(sent["resumed"]))) / 1e6


async def run() -> list[Row]:
    async with rig() as made:
        plain = await bare(made)
        seconds = {"send over TCP": await send(made, "tcp")}
        whole = [made.arrived()]
        seconds["send over UDP"] = await send(made, "udp")
        whole.append(made.arrived())
        seconds["scp"] = await copy(made)
        whole.append(made.arrived())
        again = await killed(made)
        whole.append(made.arrived())
    rate = SIZE / 1e6
    rows = [
        Row(
            f"{what} / bare socket",
            plain / took,
            SHARE if "TCP" in what else 0.0,
            "x",
            False,
            f"({rate / took:.1f} MB/s)",
        )
        for what, took in seconds.items()
    ]
    rows.append(
        Row(
            "copies that arrived whole",
            sum(whole),
            len(whole),
            "of",
            False,
            f"(bare: {rate / plain:.1f} MB/s)",
        )
    )
    rows.append(Row("sent again after the receiver was killed", again, SENT_AGAIN, "MB"))
    return rows


def main() -> bool:
    return show(asyncio.run(run()))


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
