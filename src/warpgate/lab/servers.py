"""Real servers in lab hosts: mosquitto (MQTT) and coturn (STUN per RFC 5780, TURN)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Final

from warpgate.errors import ConfigError, ServiceError
from warpgate.lab.certificate import CERTIFICATE_FILE, write_certificate
from warpgate.lab.host import Host
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint

MQTT_PORT: Final = 1883
STUN_PORT: Final = 3478
STUN_OTHER_PORT: Final = 3479
# Both are up in well under a second on an idle machine; the limit only has to be finite.
START_LIMIT: Final = 10.0
RETRY: Final = 0.01
# Debian installs servers where an ordinary user's PATH does not look.
SEARCH: Final = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: `endpoints` are where it listens; `log` is what it says."""

    host: Host
    process: asyncio.subprocess.Process
    endpoints: tuple[Endpoint, ...]
    directory: Path

    @property
    def endpoint(self) -> Endpoint:
        return self.endpoints[0]

    @property
    def mqtt_url(self) -> str:
        return f"mqtt://{self.endpoint}"

    @property
    def certificate(self) -> Path:
        """PEM file to trust a server with TLS by."""
        return self.directory / CERTIFICATE_FILE

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    async def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would: its connections are reset by the kernel, its clients see it."""
        await self.host.stop(self.process, kill=True)


async def start_mosquitto(host: Host, port: int = MQTT_PORT) -> Server:
    """An MQTT broker on every address of this host, for anyone. ServiceError when it does not come up."""
    program = find_program("mosquitto")
    directory = workspace(host)
    lines = ["allow_anonymous true", "persistence false", "user root"]
    lines += [f"listener {port} {ip}" for ip in host.addresses]
    (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    return await start_server(host, [program, "-c", str(directory / "mosquitto.conf")], directory, port)


async def start_coturn(
    host: Host,
    user: str = "user",
    password: str = "password",
    *,
    secret: str | None = None,
    tls_port: int | None = None,
) -> Server:
    """STUN and TURN on ports 3478 and 3479 of this host; with two IPv4 addresses, a full RFC 5780 server.

    TURN takes `user` and `password` (long-term, realm "lab"); peers in private networks are allowed, since
    in the lab they are just hosts. With a `secret` it takes time-limited credentials instead, with a `tls_port` it
    speaks TLS there; the certificate to trust is `server.certificate`. ServiceError when it does not come up.
    """
    program = find_program("turnserver")
    directory = workspace(host)
    command = [program, "-n", "--no-dtls", "--no-cli", "--no-stdout-log"]
    if tls_port is None:
        command.append("--no-tls")
    else:
        certificate, key = write_certificate(directory, host.addresses)
        command += [f"--tls-listening-port={tls_port}", f"--cert={certificate}", f"--pkey={key}"]
    command += [f"--log-file={directory / 'coturn.log'}", "--simple-log", f"--pidfile={directory / 'pid'}"]
    command += [f"--listening-port={STUN_PORT}", f"--alt-listening-port={STUN_OTHER_PORT}"]
    command += ["--realm=lab", "--relay-threads=1"]
    if secret is None:
        command += ["--lt-cred-mech", f"--user={user}:{password}"]
    else:
        command += ["--use-auth-secret", f"--static-auth-secret={secret}"]
    command += [f"--userdb={directory / 'users'}"]
    for ip in host.addresses:
        command += [f"--listening-ip={ip}", f"--relay-ip={ip}"]
    return await start_server(host, command, directory, STUN_PORT)


def find_program(name: str) -> str:
    """Its path; ConfigError when it is not installed."""
    path = shutil.which(name) or shutil.which(name, path=SEARCH)
    if path is None:
        raise ConfigError(f"the lab needs {name}, which is not installed")
    return path


async def start_server(host: Host, command: list[str], directory: Path, port: int) -> Server:
    """What listens for TCP on this port of every address; its log is in `directory`. ServiceError where it does not."""
    endpoints = tuple(Endpoint(ip, port) for ip in host.addresses)
    for endpoint in endpoints:
        if await _accepts(host, endpoint):
            raise ServiceError(f"{endpoint} in host {host.name} is in use")
    with (directory / "log").open("wb") as log:
        process = await host.popen(command, stdout=log.fileno(), stderr=asyncio.subprocess.STDOUT, cwd=directory)
    server = Server(host, process, endpoints, directory)
    for endpoint in endpoints:
        await _listening(server, endpoint)
    return server


async def _listening(server: Server, endpoint: Endpoint) -> None:
    """Until a TCP connection from the host to itself succeeds: both servers open UDP before TCP."""
    deadline = time.monotonic() + START_LIMIT
    while not await _accepts(server.host, endpoint):
        if server.process.returncode is not None or time.monotonic() > deadline:
            await server.kill()
            raise ServiceError(f"{endpoint} in host {server.host.name} does not listen; its log: {server.log}")
        await asyncio.sleep(RETRY)


async def _accepts(host: Host, endpoint: Endpoint) -> bool:
    with host.entered():
        probe = socket.socket(socket.AF_INET if endpoint.ip.version == 4 else socket.AF_INET6)
    with probe:
        probe.setblocking(False)
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_connect(probe, endpoint.sockaddr)
            return True
    return False


def workspace(host: Host) -> Path:
    """A directory that goes when the host is closed."""
    return Path(host.resources.enter_context(tempfile.TemporaryDirectory(prefix="warpgate-lab-")))
