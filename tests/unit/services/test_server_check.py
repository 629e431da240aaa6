"""The check of a list of servers, against servers on loopback that are well, half dead, and dead."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import subprocess
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from services_kit import free_port

from warpgate.model.endpoint import Endpoint
from warpgate.model.server_list import ServerList
from warpgate.model.servers import BrokerUrl, StunServer
from warpgate.net.system import SystemNetwork
from warpgate.services import server_check
from warpgate.services.mqtt import MqttConnector
from warpgate.services.server_check import ServerCheck, check_servers, written
from warpgate_testing.servers import MemoryStun

DAY = "2026-11-28"


async def checked(*, brokers: tuple[str, ...] = (), stun: tuple[str, ...] = ()) -> tuple[ServerCheck, ...]:
    network = SystemNetwork()
    return await check_servers(
        network,
        MqttConnector(network),
        [BrokerUrl.parse(text) for text in brokers],
        [StunServer.parse(text) for text in stun],
    )


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_check, "PATIENCE", 0.5)
    monkeypatch.setattr(server_check, "REPEATED_AFTER", (0.05, 0.05))


@asynccontextmanager
async def server(behaviour: Callable[..., Any]) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await behaviour(reader, writer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def test_servers_that_are_well(mosquitto: Any) -> None:
    url, port = mosquitto().url, free_port()
    stun = MemoryStun(SystemNetwork(), Endpoint.of("127.0.0.1", port))  # type: ignore[arg-type]
    broker, seen = await checked(brokers=(url,), stun=(f"127.0.0.1:{port}",))
    await stun.close()
    assert (broker.error, seen.error) == ("", "")
    assert broker.row(DAY).startswith(f'    "{url}",  # {DAY}: a message was back after ')
    assert seen.words.startswith("udp ")
    assert ", tcp " in seen.words
    assert "OTHER-ADDRESS" not in seen.words


async def test_a_broker_that_takes_subscriptions_and_passes_nothing_on(impatient: None) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"\x20\x03\x00\x00\x00")
        subscribe = await reader.read(4096)
        writer.write(b"\x90\x04" + subscribe[2:4] + b"\x00\x00")
        await reader.read()

    async with server(deaf) as place:
        [broker] = await checked(brokers=(f"mqtt://{place}",))
        assert broker.error == "no answer within 0.5 s"
        assert broker.row(DAY) == f'    # "mqtt://{place}",  # {DAY}: no answer within 0.5 s'


async def test_a_stun_server_without_one_of_its_transports(impatient: None) -> None:
    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)

    async with server(hangs_up) as place:
        silent, tcp = await checked(stun=(place, f"{place}?transport=tcp"))
        assert silent.error == "silent over UDP"
        assert tcp.error == "TCP: it hangs up"


async def test_answers_that_are_none_do_not_count(impatient: None) -> None:
    """Another's transaction, no mapped address, more than an answer can have."""

    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read(100)
        writer.write(b"\x01\x01\x00\x00" + request[4:8] + bytes(12))
        writer.write(b"\x01\x01\x00\x00" + request[4:20])
        writer.write((b"\x01\x01\x00\x00" + request[4:8] + bytes(12)) * 1000)
        await reader.read()

    async with server(garbage) as place:
        [seen] = await checked(stun=(f"{place}?transport=tcp",))
        assert seen.error == "TCP: it talks, and does not answer"


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    [broker] = await checked(brokers=(f"mqtt://127.0.0.1:{port}",))
    assert "refused" in broker.error


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    file = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(file), "user", "se-cret"], check=True)
    return file


async def test_a_log_in_of_ones_own_is_used_and_not_shown(mosquitto: Any, passwords: Path) -> None:
    url = mosquitto(f"password_file {passwords}\nallow_anonymous false\n").url
    [broker] = await checked(brokers=(url.replace("//", "//user:se-cret@"),))
    assert broker.error == ""
    assert "se-cret" not in broker.row(DAY)
    assert written(BrokerUrl.parse("wss://public:public@public.cloud.shiftr.io:443/")).count("public:public@") == 1


async def test_what_the_maintainers_tool_prints_is_a_list(mosquitto: Any) -> None:
    place = Path(__file__).parents[3] / "tools" / "servers_check.py"
    spec = importlib.util.spec_from_file_location("servers_check", place)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    url, dead = mosquitto().url, f"mqtt://127.0.0.1:{free_port()}"
    servers = ServerList(1, 0.0, tuple(map(BrokerUrl.parse, (url, dead))), ())
    checks = await tool.check(servers, SystemNetwork())
    assert tomllib.loads(tool.page(checks, DAY)) == {"brokers": [url], "stun": []}
