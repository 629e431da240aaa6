"""A host of the lab: a network namespace with uplinks, and the real programs that run in it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from warpgate.errors import NetworkError, ServiceError
from warpgate.lab import linux
from warpgate.lab.internet import Access, HostCounters, Uplink
from warpgate.lab.namespace import Namespace
from warpgate.lab.router import Router
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import IPAddress
from warpgate.platform import PROCESSES

# How long a program may take to end by itself after SIGTERM before it is killed.
TERM_PATIENCE: Final = 2.0
HOSTS_FILE: Final = "/etc/hosts"
LOCAL_NAMES: Final[dict[str, tuple[IPAddress, ...]]] = {"localhost": (IPv4Address("127.0.0.1"), IPv6Address("::1"))}


@dataclass(frozen=True, slots=True)
class Attached:
    """One uplink of a host: its addresses, the routers from the inside out, and their line to the core."""

    addresses: tuple[IPAddress, ...]
    uplink: Uplink
    routers: tuple[Router, ...]
    access: Access

    @property
    def outside(self) -> frozenset[IPAddress]:
        """The addresses that the internet sees: of the outermost router that translates, else its own."""
        translated = [ip for router in self.routers[-1:] if router.nat is not None for ip in router.nat.external]
        return frozenset(translated) | {ip for ip in self.addresses if ip.version == 6 or not translated}


@dataclass(frozen=True, slots=True)
class Completed:
    """What a finished program left."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Host:
    """Made by `Lab.add_host`. Programs that are still running when the lab closes are terminated."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.namespace = Namespace()
        self.attached: tuple[Attached, ...] = ()
        self.resources = contextlib.ExitStack()  # closed after its programs have ended
        self._names: dict[str, tuple[IPAddress, ...]] = {}
        self._hosts_file: Path | None = None
        self._processes: list[asyncio.subprocess.Process] = []

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """The addresses of its interfaces, first uplink first."""
        return tuple(ip for attached in self.attached for ip in attached.addresses)

    @property
    def ipv4(self) -> IPAddress:
        """Its first IPv4 address; NetworkError when it has none."""
        return self._first(4)

    @property
    def ipv6(self) -> IPAddress:
        """Its first IPv6 address; NetworkError when it has none."""
        return self._first(6)

    @property
    def routers(self) -> tuple[Router, ...]:
        """The routers in front of its first uplink, from the inside out."""
        return self.attached[0].routers

    @property
    def access(self) -> Access:
        """The line between its first uplink's outermost router (itself, when public) and the core."""
        return self.attached[0].access

    @property
    def counters(self) -> tuple[HostCounters, ...]:
        """Of each uplink, live objects."""
        return tuple(attached.uplink.counters for attached in self.attached)

    def know(self, name: str, addresses: Sequence[IPAddress]) -> None:
        """Let its resolver answer so: programs that are started from now on have a hosts file of their own."""
        self._names[name] = tuple(addresses)
        if self._hosts_file is None:
            directory = self.resources.enter_context(tempfile.TemporaryDirectory(prefix="warpgate-lab-"))
            self._hosts_file = Path(directory) / "hosts"
        rows = [(ip, name) for name, ips in {**LOCAL_NAMES, **self._names}.items() for ip in ips]
        self._hosts_file.write_text("".join(f"{ip} {name}\n" for ip, name in rows))

    def entered(self) -> AbstractContextManager[None]:
        """`with host.entered():` opens sockets in this host. Never await inside."""
        return self.namespace.entered()

    async def popen(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | None = asyncio.subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
        cwd: str | os.PathLike[str] | None = None,
        limit: int = 1 << 20,
    ) -> asyncio.subprocess.Process:
        """Start a program in this host, in a process group of its own; `env` is added to ours.

        `limit` bounds a line read from its pipes. Raises ServiceError when it cannot be started.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **(env or {})},
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=cwd,
                limit=limit,
                start_new_session=True,
                preexec_fn=functools.partial(_move_in, self.namespace.fd, self._hosts_file),
            )
        except OSError as error:
            raise ServiceError(f"could not start {command[0]} in host {self.name}: {error}") from error
        self._processes.append(process)
        return process

    async def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        given: bytes = b"",
        timeout: float = 30.0,
    ) -> Completed:
        """Run a program to its end, `given` on its stdin. Raises TimeoutError (and ends it) after `timeout` seconds."""
        pipe = asyncio.subprocess.PIPE
        process = await self.popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            async with asyncio.timeout(timeout):
                stdout, stderr = await process.communicate(given)
        finally:
            await self.stop(process)
        return Completed(process.returncode or 0, stdout, stderr)

    async def stop(self, process: asyncio.subprocess.Process, *, kill: bool = False) -> None:
        """End a program that `popen` started, and its group; kindly first unless `kill`. Idempotent."""
        if process not in self._processes:
            return  # its process id may be somebody else's by now
        group = PROCESSES.group_of(process.pid)
        if process.returncode is None:
            if kill:
                group.kill()
            else:
                group.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TERM_PATIENCE):
                    await process.wait()
        group.kill()  # whatever it started and left behind
        await process.wait()
        with contextlib.suppress(ValueError):  # somebody else waited for the same
            self._processes.remove(process)

    async def close(self) -> None:
        """End its programs and give up the namespace (the uplinks belong to the internet)."""
        await asyncio.gather(*(self.stop(process) for process in tuple(self._processes)))
        self.resources.close()
        self.namespace.close()

    def _first(self, version: int) -> IPAddress:
        for ip in self.addresses:
            if ip.version == version:
                return ip
        raise NetworkError(f"host {self.name} has no IPv{version} address")


def _move_in(namespace: int, hosts_file: Path | None) -> None:
    """Between fork and exec."""
    linux.die_with_parent()
    linux.setns(namespace, linux.CLONE_NEWNET)
    if hosts_file is not None:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("none", "/", linux.MS_REC | linux.MS_PRIVATE)  # nobody else is to see the next one
        linux.mount(str(hosts_file), HOSTS_FILE, linux.MS_BIND)
