"""docs/writing-a-plugin.md, run: its code between two nodes in virtual time, where nothing else gets through."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import ModuleType

import pytest
from cascade_world import OVER_TCP, World, connected, exchange, virtual

from warpgate import Attempt, ConnectFailed, Link
from warpgate.model.endpoint import Endpoint
from warpgate.net.network import TcpStream
from warpgate.plugins import registry as registry_module
from warpgate.plugins.base import Plugin
from warpgate.plugins.registry import Registry
from warpgate_testing.internet import MemoryNetwork

ROOT = Path(__file__).parent.parent.parent
GUIDE = (ROOT / "docs" / "writing-a-plugin.md").read_text()
PACKAGE = ROOT / "tests" / "data" / "warpgate-port-443"
FILES = {
    found["name"]: found["body"]
    for found in re.finditer(
        r"<!-- file: (?P<name>\S+) -->\n```python\n(?P<body>.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL
    )
}
PROXY = "203.0.113.77"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The one that `@register` and `Node` use, as in a fresh process."""
    fresh = Registry()
    monkeypatch.setattr(registry_module, "REGISTRY", fresh)
    return fresh


@pytest.fixture
def guide(registry: Registry, tmp_path: Path) -> Iterator[Registry]:
    """The files on the page, imported."""
    strategies = [name for name in FILES if not name.startswith("test_")]
    for name in strategies:
        (tmp_path / name).write_text(FILES[name])
        imported(tmp_path / name)
    yield registry
    for name in strategies:
        sys.modules.pop(Path(name).stem, None)


def imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def test_the_package_in_the_tests_is_the_one_on_the_page() -> None:
    assert set(FILES) == {"http_proxy.py", "warpgate_port_443.py", "test_port_443.py"}
    assert (PACKAGE / "warpgate_port_443.py").read_text() == FILES["warpgate_port_443.py"]
    assert (PACKAGE / "pyproject.toml").read_text() in GUIDE


def test_it_needs_nothing_but_public_names() -> None:
    for name in ("http_proxy.py", "warpgate_port_443.py"):
        assert re.findall(r"^(?:from|import) (warpgate[\w.]*)", FILES[name], re.MULTILINE) == ["warpgate"]
    assert set(re.findall(r"^from warpgate_testing import (.*)$", FILES["test_port_443.py"], re.MULTILINE)) == {
        "Pair, run_virtual"
    }


def test_the_test_on_the_page_passes_where_its_author_runs_it(tmp_path: Path) -> None:
    for name in ("warpgate_port_443.py", "test_port_443.py"):
        (tmp_path / name).write_text(FILES[name])
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "testing" / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, "1 passed" in ran.stdout) == (0, True), ran.stdout


def test_the_table_of_what_an_attempt_offers_is_complete() -> None:
    section = GUIDE.partition("## What an attempt offers")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    offered = {name for name in vars(Attempt) if not name.startswith("_")}
    assert named == offered - {"remote_changed", "knowledge_changed"}


def test_both_take_part(guide: Registry) -> None:
    assert list(guide.all())[-2:] == ["http_proxy", "port_443"]


def test_port_443_is_the_only_way_out(guide: Registry) -> None:
    async def run() -> None:
        async with World("only-443", "public", registry=guide) as world:
            pipe, other, seconds = await connected(world, **OVER_TCP)
            assert (pipe.plugin, other.plugin) == ("port_443", "port_443")
            assert str(pipe.remote).endswith(":443")
            assert seconds < 0.3
            await exchange(pipe, other)
            await pipe.close()
            await other.close()
            await world.quiet()

    virtual(run)


def test_a_peer_that_cannot_open_the_door_says_why(guide: Registry) -> None:
    async def run() -> None:
        async with World("only-443", "public", registry=guide) as world:
            taken = world.hosts["b"].listen_tcp(Endpoint.of("198.51.100.2", 443), TcpStream.abort)
            with pytest.raises(ConnectFailed, match="the peer cannot listen on port 443"):
                await world.a.node.connect(world.b.node.address, plugins=["port_443"], timeout=3.0, **OVER_TCP)
            taken.close()

    virtual(run)


def test_port_443_is_skipped_where_the_peer_accepts_no_strangers(guide: Registry) -> None:
    async def run() -> None:
        async with World("public", "eim-apdf", registry=guide) as world:
            with pytest.raises(ConnectFailed) as failed:
                await world.a.node.connect(world.b.node.address, plugins=["port_443"], timeout=3.0, **OVER_TCP)
            [row] = failed.value.report
            assert (row.outcome, row.reason) == ("skipped", "the peer has no address that accepts strangers")

    virtual(run)


class TestHttpProxy:
    def test_it_gets_through(self, guide: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(os.environ, "HTTPS_PROXY", f"http://{PROXY}:443")

        async def run() -> None:
            async with World("only-443", "public", registry=guide) as world, proxy(world, b"200 OK"):
                pipe, other, _ = await connected(world, plugins=["http_proxy"], **OVER_TCP)
                assert (pipe.plugin, pipe.relayed) == ("http_proxy", True)
                assert str(other.remote).startswith(PROXY)
                await exchange(pipe, other)
                await pipe.close()
                await other.close()

        virtual(run)

    def test_a_refusal_is_told_and_nothing_stays_open(self, guide: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(os.environ, "HTTPS_PROXY", f"http://{PROXY}:443")

        async def run() -> None:
            async with World("only-443", "public", registry=guide) as world, proxy(world, b"407 No"):
                with pytest.raises(ConnectFailed, match=r"the proxy refused: b'HTTP/1\.1 407 No'"):
                    await world.a.node.connect(world.b.node.address, plugins=["http_proxy"], timeout=3.0, **OVER_TCP)

        virtual(run)

    def test_without_one_it_says_so(self, guide: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HTTPS_PROXY", raising=False)

        async def run() -> None:
            async with World("only-443", "public", registry=guide) as world:
                with pytest.raises(ConnectFailed, match="HTTPS_PROXY is not set"):
                    await world.a.node.connect(world.b.node.address, plugins=["http_proxy"], timeout=3.0, **OVER_TCP)

        virtual(run)


@asynccontextmanager
async def proxy(world: World, status: bytes) -> AsyncIterator[None]:
    """An HTTP proxy in the world that answers with this status, and passes bytes on where it is 200."""
    network: MemoryNetwork = world.internet.host("proxy", PROXY)
    serving: list[asyncio.Task[None]] = []

    async def copy(source: TcpStream, sink: TcpStream) -> None:
        with suppress(Exception):
            while data := await source.recv(65536):
                await sink.send(data)
        sink.close()

    async def serve(stream: TcpStream) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await stream.recv(65536)
        target = Endpoint.parse(head.split(b" ")[1].decode())
        await stream.send(b"HTTP/1.1 " + status + b"\r\n\r\n")
        if not status.startswith(b"200"):
            stream.close()
            return
        onward = await network.dial_tcp(target)
        try:
            await asyncio.gather(copy(stream, onward), copy(onward, stream))
        finally:
            stream.abort()
            onward.abort()

    listener = network.listen_tcp(
        Endpoint.of(PROXY, 443), lambda stream: serving.append(asyncio.ensure_future(serve(stream)))
    )
    try:
        yield
    finally:
        listener.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


class TestMisbehaviour:
    """The table of the page that the rogue plugins of the other tests do not cover."""

    def failed(self, registry: Registry, plugin: type[Plugin], match: str) -> None:
        registry.add(plugin)

        async def run() -> None:
            async with World("public", "public", registry=registry) as world:
                with pytest.raises(ConnectFailed, match=match):
                    await world.a.node.connect(world.b.node.address, plugins=[plugin.name], timeout=3.0, **OVER_TCP)

        virtual(run)

    def test_a_message_that_is_too_large(self, guide: Registry) -> None:
        class Wordy(guide.all()["port_443"]):  # type: ignore[misc]
            name = "wordy"

            async def initiate(self, attempt: Attempt) -> Link:
                attempt.signal(self.message_type(trouble="!" * 1024))
                raise AssertionError

        self.failed(guide, Wordy, "at most 1024 fit")

    def test_a_message_of_another_type(self, guide: Registry) -> None:
        class Confused(guide.all()["port_443"]):  # type: ignore[misc]
            name = "confused"

            async def initiate(self, attempt: Attempt) -> Link:
                attempt.signal("hello")
                raise AssertionError

        self.failed(guide, Confused, "'hello' is no message of confused")

    def test_ways_that_all_fail(self, guide: Registry) -> None:
        class Hopeless(guide.all()["port_443"]):  # type: ignore[misc]
            name = "hopeless"

            async def initiate(self, attempt: Attempt) -> Link:
                return await attempt.first({"the back door": lambda: attempt.dial(Endpoint.of("198.51.100.2", 9))})

        self.failed(guide, Hopeless, "the back door: ")
