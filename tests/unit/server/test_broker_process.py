"""Both brokers as `serve --broker` runs them: watched, bounded, with hostile clients, never without their parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from warpgate.errors import ConfigError, ServiceError
from warpgate.lab.certificate import write_certificate
from warpgate.lab.servers import SEARCH
from warpgate.model.backoff import Backoff
from warpgate.model.endpoint import Endpoint
from warpgate.net.system import SystemNetwork
from warpgate.net.tls import Trust
from warpgate.platform import PROCESSES
from warpgate.server import broker as broker_module
from warpgate.server.broker import MESSAGE_SIZE, BrokerSettings, Tls, choose_broker
from warpgate.server.broker_process import BrokerProcess
from warpgate.server.child import readable_by_all
from warpgate.server.coturn import find_coturn
from warpgate.services.mqtt import MqttConnector

HOST = "127.0.0.1"
ME, YOU = "warpgate/2/me", "warpgate/2/you"

both = pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass
class Assembly:
    process: BrokerProcess
    port: int
    troubles: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"mqtt://{HOST}:{self.port}"


@asynccontextmanager
async def running(kind: str, **settings: object) -> AsyncIterator[Assembly]:
    if kind == "mosquitto" and not (shutil.which(kind) or shutil.which(kind, path=SEARCH)):
        pytest.skip("needs mosquitto")
    port = free_port()
    chosen = choose_broker(
        BrokerSettings(addresses=(HOST,), port=port, **settings),  # type: ignore[arg-type]
        embedded=kind == "amqtt",
    )
    assert chosen.name == kind
    troubles: list[str] = []
    process = BrokerProcess(
        chosen, Endpoint.of(HOST, port), SystemNetwork(), troubles.append, backoff=Backoff(0.05, 30.0)
    )
    await process.start()
    try:
        yield Assembly(process, port, troubles)
    finally:
        await process.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - a process has no event to wait for
            await asyncio.sleep(0.005)


async def carries(url: str) -> None:
    """Two nodes of ours reach each other."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    connector = MqttConnector(SystemNetwork())
    async with asyncio.timeout(10):
        mine = await connector.connect(url, ME, lambda _data: None)
        yours = await connector.connect(url, YOU, heard.put_nowait)
        mine.publish(YOU, b"x" * 4096)
        assert await heard.get() == b"x" * 4096
        for link in (mine, yours):
            await link.close()


# Raw MQTT 3.1.1, for what no library sends.


def text(words: str) -> bytes:
    return len(words).to_bytes(2, "big") + words.encode()


def packet(first: int, body: bytes) -> bytes:
    length, left = bytearray(), len(body)
    while True:
        left, digit = divmod(left, 128)
        length.append(digit | (0x80 if left else 0))
        if not left:
            break
    return bytes((first,)) + bytes(length) + body


CONNACK = b"\x20\x02\0\0"
PINGREQ, PINGRESP = b"\xc0\0", b"\xd0\0"


def connect(name: str, flags: int = 2, payload: bytes = b"") -> bytes:
    return packet(0x10, text("MQTT") + bytes((4, flags)) + (60).to_bytes(2, "big") + text(name) + payload)


def subscribe(*topics: str) -> bytes:
    return packet(0x82, b"\0\1" + b"".join(text(topic) + b"\0" for topic in topics))


def publish(topic: str, data: bytes, first: int = 0x30) -> bytes:
    return packet(first, text(topic) + data)


@asynccontextmanager
async def stranger(port: int, *sent: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        for data in sent:
            writer.write(data)
        yield reader, writer
    finally:
        writer.transport.abort()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What came until the broker hung up, as it must."""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionResetError):
            return await reader.read()
    return b""


@both
class TestLife:
    async def test_it_carries_our_signals(self, kind: str) -> None:
        async with running(kind) as broker:
            await carries(broker.url)
            assert broker.troubles == []

    async def test_killed_it_comes_back_and_says_so(self, kind: str) -> None:
        async with running(kind) as broker:
            first = broker.process.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await until(lambda: broker.process.pid not in (None, first))
            await until(lambda: _accepts(broker.port))
            await carries(broker.url)
            assert broker.process.restarts == 1
            assert [f"{kind} ended: by signal 9" in trouble for trouble in broker.troubles] == [True]

    async def test_closed_it_is_gone(self, kind: str) -> None:
        async with running(kind) as broker:
            pid = broker.process.pid
            assert pid is not None
            await broker.process.close()
            await broker.process.close()
            assert not _alive(pid)
            assert not _accepts(broker.port)
            assert broker.troubles == []

    async def test_what_it_reads_is_a_file_of_its_own_that_goes_with_it(
        self, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """mosquitto 2.1 follows no links, and warns of files that others own or read."""
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o711)
            monkeypatch.setattr(tempfile, "tempdir", folder)
            async with running(kind) as broker:
                if kind == "mosquitto":
                    first = _only_file(folder)
                    status = first.lstat()
                    assert stat.S_ISREG(status.st_mode)
                    assert not status.st_mode & 0o077
                    assert str(status.st_uid) in _users(broker.process.pid)
                    os.kill(broker.process.pid or 0, signal.SIGKILL)
                    await until(lambda: _accepts(broker.port) and not first.exists())
                    assert _only_file(folder) != first
            assert os.listdir(folder) == []

    async def test_a_port_that_is_taken(self, kind: str) -> None:
        async with running(kind) as broker:
            again = BrokerProcess(
                choose_broker(BrokerSettings((HOST,), broker.port), embedded=kind == "amqtt"),
                Endpoint.of(HOST, broker.port),
                SystemNetwork(),
                broker.troubles.append,
            )
            with pytest.raises(ServiceError, match=f"{HOST}:{broker.port} is in use"):
                await again.start()

    async def test_an_address_that_is_not_ours_fails_with_its_last_words(self, kind: str) -> None:
        port = free_port()
        process = BrokerProcess(
            choose_broker(BrokerSettings(("192.0.2.77",), port), embedded=kind == "amqtt"),
            Endpoint.of(HOST, port),
            SystemNetwork(),
            lambda _: None,
        )
        with pytest.raises(ServiceError, match=r"(?i)its last words: .*(assign|could not bind)"):
            await process.start()

    async def test_it_dies_with_its_parent(self, kind: str) -> None:
        """Even when that is killed, and although the broker runs as another user where we are root."""
        port = free_port()
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PARENT, kind, str(port), stdout=asyncio.subprocess.PIPE
        )  # fmt: skip
        assert program.stdout is not None
        async with asyncio.timeout(20):
            pid = int(await program.stdout.readline())
        assert _alive(pid)
        program.kill()
        await program.wait()
        await until(lambda: not _alive(pid))
        assert not _accepts(port)

    async def test_it_has_given_up_root(self, kind: str) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root has something to give up")
        if kind == "amqtt" and not readable_by_all(sys.prefix, sys.base_prefix, broker_module.__file__):
            pytest.skip("this Python lives where nobody else can read")
        async with running(kind) as broker:
            assert "0" not in _users(broker.process.pid)

    async def test_tls_with_a_key_that_only_we_can_read(self, kind: str, tmp_path: Path) -> None:
        certificate, key = write_certificate(tmp_path, (Endpoint.of(HOST, 0).ip,))
        key.chmod(0o600)
        async with running(kind, tls=Tls(certificate, key)) as broker:
            connector = MqttConnector(SystemNetwork(), Trust(str(certificate)))
            async with asyncio.timeout(10):
                link = await connector.connect(f"mqtts://{HOST}:{broker.port}", ME, lambda _data: None)
                await link.close()


@both
class TestHostileClients:
    @pytest.mark.parametrize(
        "sent",
        [
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x10\xff\xff\xff\xff\xff",
            connect("a") + publish(ME, bytes(MESSAGE_SIZE + 2000)),
            connect("a") + packet(0x30, b"\xff\xff"),
            connect("a") + publish(ME, b"x", first=0x31),
            publish(ME, b"before connect"),
            connect("a") + connect("a"),
        ],
        ids=["http", "length", "large", "broken", "retained", "unconnected", "twice"],
    )
    async def test_what_no_node_sends_ends_the_connection(self, kind: str, sent: bytes) -> None:
        async with running(kind) as broker:
            async with stranger(broker.port, sent) as (reader, _):
                await ended(reader)
            await carries(broker.url)
            assert broker.troubles == []

    async def test_only_our_topics_are_carried(self, kind: str) -> None:
        async with (
            running(kind) as broker,
            stranger(broker.port, connect("a"), subscribe("other", "$SYS/#", "warpgate/1/x", "a/+/c", YOU)) as (
                reader,
                writer,
            ),
        ):
            head = await _read(reader, 4 + 9)
            assert head[:5] == b"\x20\x02\0\0\x90"
            for topic in ("other", "warpgate/1/x", "a/b/c", YOU):
                writer.write(publish(topic, topic.encode()))
            expected = publish(YOU, YOU.encode())
            assert await _read(reader, len(expected)) == expected

    async def test_a_will_reaches_nobody(self, kind: str) -> None:
        """Neither on other topics nor retained on ours; the brokers may refuse it or not send it."""
        async with running(kind) as broker:
            heard: list[bytes] = []
            link = await MqttConnector(SystemNetwork()).connect(broker.url, YOU, heard.append)
            will = text("other") + text("bye")
            async with stranger(broker.port, connect("w", 2 | 4 | 32, will)) as (reader, writer):
                writer.write(b"\xff\xff\xff\xff\xff")
                await ended(reader)
            link.publish(YOU, b"after")
            await until(lambda: heard)
            assert heard == [b"after"]
            await link.close()

    async def test_connections_are_bounded(self, kind: str) -> None:
        """Give or take one: mosquitto may miscount the connection that only asked whether it is up."""
        async with running(kind, connections=8) as broker, contextlib.AsyncExitStack() as stack:
            crowd = [
                await stack.enter_async_context(stranger(broker.port, connect(f"c{number}"))) for number in range(12)
            ]
            answers = await asyncio.gather(*(_answer(reader) for reader, _ in crowd))
            assert 7 <= answers.count(CONNACK) <= 9
            for (reader, writer), answer in zip(crowd, answers, strict=True):
                if answer == CONNACK:
                    writer.write(PINGREQ)
                    assert await _read(reader, 2) == PINGRESP

    async def test_a_flood_from_many_does_not_stop_it_nor_fill_its_memory(self, kind: str) -> None:
        async with running(kind) as broker:
            await carries(broker.url)
            before = _resident(broker.process.pid)
            async with contextlib.AsyncExitStack() as stack:
                for number in range(20):
                    deaf = await stack.enter_async_context(
                        stranger(broker.port, connect(f"deaf{number}"), subscribe(f"warpgate/2/v{number}"))
                    )
                    await _read(deaf[0], 4)
                    deaf[0]._limit = 0  # type: ignore[attr-defined]
                    deaf[1].transport.pause_reading()  # type: ignore[attr-defined]
                for number in range(20):
                    _, writer = await stack.enter_async_context(stranger(broker.port, connect(f"f{number}")))
                    message = publish(f"warpgate/2/v{number}", bytes(4096))
                    for _ in range(500):
                        writer.write(message)
                await carries(broker.url)
            await carries(broker.url)
            assert broker.troubles == []
            assert _resident(broker.process.pid) - before < 100 * 2**20


class TestChoice:
    def test_neither_is_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(broker_module.shutil, "which", lambda *_, **__: None)
        monkeypatch.setattr(broker_module.importlib.util, "find_spec", lambda _: None)
        with pytest.raises(ConfigError, match=r"install mosquitto, or .*warpgate\[broker\]"):
            choose_broker(BrokerSettings())

    def test_without_mosquitto_the_embedded_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(broker_module.shutil, "which", lambda *_, **__: None)
        assert choose_broker(BrokerSettings()).name == "amqtt"

    def test_where_there_are_no_files_in_memory_our_own_servers_serve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """mosquitto and coturn are told all by such files."""
        monkeypatch.setattr(broker_module.shutil, "which", lambda *_, **__: "/usr/sbin/program")
        monkeypatch.setattr(PROCESSES, "has_memory_files", False)
        assert choose_broker(BrokerSettings()).name == "amqtt"
        assert find_coturn() is None
        monkeypatch.setattr(broker_module.importlib.util, "find_spec", lambda _: None)
        with pytest.raises(ConfigError, match=r"^no MQTT broker: install the embedded one"):
            choose_broker(BrokerSettings())

    async def test_a_certificate_that_is_not_there(self, tmp_path: Path) -> None:
        settings = BrokerSettings((HOST,), free_port(), Tls(tmp_path / "no.pem", tmp_path / "no.key"))
        process = BrokerProcess(
            choose_broker(settings, embedded=True),
            Endpoint.of(HOST, settings.listens_on),
            SystemNetwork(),
            lambda _: None,
        )
        with pytest.raises(ConfigError, match=r"no\.pem"):
            await process.start()


PARENT = """
import asyncio, sys
from warpgate.model.endpoint import Endpoint
from warpgate.net.system import SystemNetwork
from warpgate.server.broker import BrokerSettings, choose_broker
from warpgate.server.broker_process import BrokerProcess

async def main(kind, port):
    broker = choose_broker(BrokerSettings(("127.0.0.1",), port), embedded=kind == "amqtt")
    process = BrokerProcess(broker, Endpoint.of("127.0.0.1", port), SystemNetwork(), print)
    await process.start()
    print(process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def _read(reader: asyncio.StreamReader, count: int) -> bytes:
    async with asyncio.timeout(10):
        return await reader.readexactly(count)


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """What it gets soon: who is refused is hung up on at once, by mosquitto perhaps a turn later."""
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        async with asyncio.timeout(1.0):
            return await reader.read(4)
    return b""


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _alive(pid: int) -> bool:
    """A zombie that waits for somebody's wait() is dead."""
    try:
        return " Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except OSError:
        return False


def _only_file(folder: str) -> Path:
    (found,) = Path(folder).glob("*/*")
    return found


def _users(pid: int | None) -> list[str]:
    """Real, effective, saved and file system user ids."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]


def _resident(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
