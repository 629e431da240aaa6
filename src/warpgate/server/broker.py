"""Which MQTT broker to run, and how: mosquitto when it is installed, the embedded one otherwise.

Whoever knows the address may use it, so it is bounded: sizes, connections, queues, memory, and nothing but our topics
(`warpgate/2/<node id>`). What it carries is sealed and signed by the nodes: the broker keeps nothing and knows nothing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from warpgate.errors import ConfigError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.servers import MQTT_PORT, MQTTS_PORT
from warpgate.platform import PROCESSES
from warpgate.server.child import KEEP, readable_by_all, unprivileged_user

# Debian installs servers where an ordinary user's PATH does not look.
SERVER_PATHS = "/usr/local/sbin:/usr/sbin:/sbin"

TOPICS = "warpgate/2/+"
# An envelope has at most 4 KiB (docs/protocol.md); topic and packet head come on top.
MESSAGE_SIZE = 8192
# A connection costs mosquitto about 3 KiB here and as much in the kernel; nodes that wait keep one each.
CONNECTIONS = 20_000
# One costs amqtt 100 KiB and every message a look at each subscription: more than a small group needs.
EMBEDDED_CONNECTIONS = 1000
# Of one reader that does not keep up: at QoS 0, which nodes use, mosquitto counts these bytes too.
QUEUED_MESSAGES = 64
QUEUED_BYTES = QUEUED_MESSAGES * MESSAGE_SIZE
MEMORY = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: the chain, and the key that belongs to it."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """`addresses` to listen on, () for all; `port` None for the usual one (1883, with TLS 8883)."""

    addresses: tuple[str, ...] = ()
    port: int | None = None
    tls: Tls | None = None
    connections: int = CONNECTIONS

    @property
    def listens_on(self) -> int:
        return self.port or (MQTTS_PORT if self.tls else MQTT_PORT)


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, the descriptors that it inherits (open: whoever starts it closes them), and a folder that is removed
    when it has ended.
    """

    command: tuple[str, ...]
    descriptors: tuple[int, ...]
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Broker:
    """`launch` makes what is to be started; called anew for each start. Raises ConfigError, OSError."""

    name: str
    port: int
    launch: Callable[[], Launch]


def choose_broker(settings: BrokerSettings, *, embedded: bool | None = None) -> Broker:
    """mosquitto when it is installed (not when `embedded`), otherwise the embedded one (not when `embedded` is False).

    mosquitto is told nearly all by files in memory, so it is for systems that have such. ConfigError says what to
    install when there is neither.
    """
    program = None
    if PROCESSES.has_memory_files:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path=SERVER_PATHS)
    if program is not None and not embedded:
        return Broker("mosquitto", settings.listens_on, lambda: _launch_mosquitto(program, settings))
    if embedded is not False and importlib.util.find_spec("amqtt") is not None:
        return Broker("amqtt", settings.listens_on, lambda: _launch_embedded(settings))
    if not PROCESSES.has_memory_files:
        raise ConfigError("no MQTT broker: install the embedded one with pip install 'warpgate[broker]'")
    raise ConfigError("no MQTT broker: install mosquitto, or the embedded one with pip install 'warpgate[broker]'")


def mosquitto_config(settings: BrokerSettings, *, acl_file: str, certificate: str, key: str, user: str) -> str:
    """The text of mosquitto.conf (mosquitto 2.0). The file names are where mosquitto finds what is in `settings`."""
    lines = [
        f"user {user}",
        "allow_anonymous true",
        f"acl_file {acl_file}",
        "persistence false",
        "retain_available false",
        "sys_interval 0",
        f"max_packet_size {MESSAGE_SIZE + 1024}",
        f"max_queued_messages {QUEUED_MESSAGES}",
        f"max_queued_bytes {QUEUED_BYTES}",
        f"max_inflight_bytes {QUEUED_BYTES}",
        "persistent_client_expiration 1h",
        f"memory_limit {MEMORY}",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "connection_messages false",
    ]
    for address in settings.addresses or ("",):
        lines += [
            f"listener {settings.listens_on} {address}".rstrip(),
            f"max_connections {settings.connections}",
        ]
        if settings.tls is not None:
            lines += [f"certfile {certificate}", f"keyfile {key}", "tls_version tlsv1.2"]
    return "\n".join(lines) + "\n"


def _launch_mosquitto(program: str, settings: BrokerSettings) -> Launch:
    user = unprivileged_user("mosquitto", "nobody")
    with ExitStack() as undo:
        files = _tls_files(settings, undo)
        acl = _acl_file(user, undo)
        text = mosquitto_config(
            settings,
            acl_file=str(acl),
            certificate=_path(files[0]) if files else "",
            key=_path(files[1]) if files else "",
            user="root",  # the wrapper has given root up by then; mosquitto is to leave it at that
        )
        config = _memory_file("mosquitto.conf", text.encode(), undo)
        undo.pop_all()
    wrapper = (sys.executable, "-P", "-m", "warpgate.server.child", str(os.getpid()), user)
    return Launch((*wrapper, program, "-c", _path(config)), (*files, config), acl.parent)


def _acl_file(user: str, undo: ExitStack) -> Path:
    """In a folder of its own: mosquitto follows no link to it since 2.1, as `/dev/fd/N` is one, and wants to own it."""
    folder = Path(tempfile.mkdtemp(prefix="warpgate-"))
    undo.callback(shutil.rmtree, folder, ignore_errors=True)
    acl = folder / "acl"
    acl.write_text(f"topic readwrite {TOPICS}\n")
    acl.chmod(0o600)
    if user != KEEP:
        for path in (acl, folder):
            PROCESSES.give(path, user)
    return acl


def _launch_embedded(settings: BrokerSettings) -> Launch:
    with ExitStack() as undo:
        files = _tls_files(settings, undo)
        undo.pop_all()
    command = [sys.executable, "-P", "-m", "warpgate.server.embedded_broker", str(os.getpid())]
    connections = min(settings.connections, EMBEDDED_CONNECTIONS)
    user = unprivileged_user("nobody") if readable_by_all(sys.prefix, sys.base_prefix, __file__) else KEEP
    command += [user, str(settings.listens_on), str(connections)]
    command.append(",".join(map(_path, files)))
    return Launch((*command, *settings.addresses), files)


def _tls_files(settings: BrokerSettings, undo: ExitStack) -> tuple[int, ...]:
    """Certificate and key, read with our rights: the broker runs with fewer."""
    if settings.tls is None:
        return ()
    found = []
    for path in (settings.tls.certificate, settings.tls.key):
        try:
            found.append(_memory_file(path.name, path.read_bytes(), undo))
        except OSError as error:
            raise ConfigError(f"TLS file {path}: {error.strerror or error}") from error
    return tuple(found)


def _memory_file(name: str, content: bytes, undo: ExitStack) -> int:
    descriptor = PROCESSES.memory_file(name, content)
    undo.callback(os.close, descriptor)
    return descriptor


def _path(descriptor: int) -> str:
    return f"/dev/fd/{descriptor}"
