"""The programs on the pages for integrators, run as they stand there, over the loopback interface.

Those of the README are run by `test_docs.py`, those for plugin authors by `test_plugin_guide.py`, that of the page on
the lab by `test_lab_page.py`.
"""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from warpgate import Config, ConnectFailed, Identity, Node, auto_connect, sync

DOCS = Path(__file__).parent.parent.parent / "docs"
HERE = Config(interfaces=("lo",), brokers=(), stun=(), port=0, port_map=False)
SETTINGS = {"WARPGATE_BROKER": "", "WARPGATE_STUN": "", "WARPGATE_INTERFACE": "lo"}
PATIENCE = 30


def programs(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[sync.Node]:
    """The peer "home"; nodes that programs make without settings ask no server either."""
    real = sync.Node
    with real(HERE, identity=Identity.generate()) as node:
        monkeypatch.setattr(sync, "Config", lambda: HERE)
        monkeypatch.setattr(sync, "Node", lambda config=HERE: real(config, identity=Identity.generate()))
        yield node


def run(program: str, there: sync.Node, threads: ThreadPoolExecutor) -> Any:
    """Elsewhere, since its calls block."""
    text = program.replace('"home"', repr(there.address.to_text()))
    assert text != program
    return threads.submit(exec, text, {})


def test_a_script_gets_a_page(there: sync.Node, capsys: pytest.CaptureFixture[str]) -> None:
    script = next(text for text in programs("sync.md") if 'service="web"' in text)
    asked: list[bytes] = []

    def web(sock: sync.Socket) -> None:
        with sock:
            asked.append(sock.recv(1024))
            sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nthe page")

    there.serve("web", web)
    with ThreadPoolExecutor(1) as threads:
        run(script, there, threads).result(PATIENCE)
    assert asked == [b"GET / HTTP/1.0\r\n\r\n"]
    assert "the page" in capsys.readouterr().out


def test_a_script_sends_datagrams(there: sync.Node, capsys: pytest.CaptureFixture[str]) -> None:
    script = next(text for text in programs("sync.md") if "connect_datagrams" in text)
    with ThreadPoolExecutor(1) as threads:
        running = run(script, there, threads)
        with there.accept_datagrams(PATIENCE) as pipe:
            pipe.send(pipe.recv(timeout=PATIENCE).upper())
            running.result(PATIENCE)
    assert "PING" in capsys.readouterr().out


def connected(node: sync.Node, address: str, service: str) -> sync.Socket:
    """The program serves the one without a name from when it waits for it, a little after its address is there."""
    for _ in range(PATIENCE):
        with suppress(ConnectFailed):
            return node.connect(address, service=service)
    raise AssertionError(f"nothing serves {service!r}")


def test_a_server_of_threads(tmp_path: Path) -> None:
    server = next(text for text in programs("sync.md") if "threading" in text)
    environment = {**os.environ, **SETTINGS, "WARPGATE_DATA": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        (sys.executable, "-c", server), env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            with sync.Node(HERE, identity=Identity.generate()) as node:
                for service in ("echo", ""):
                    with connected(node, address, service) as sock:
                        sock.sendall(b"hello")
                        sock.shutdown(socket.SHUT_WR)
                        assert sock.makefile("rb").read() == b"hello"
        finally:
            watchdog.cancel()
            process.kill()


@pytest.mark.parametrize("program", programs("library.md"))
async def test_one_line_connects(program: str) -> None:
    async with (
        Node(HERE, identity=Identity.generate()) as node,
        Node(HERE, identity=Identity.generate()) as there,
    ):
        space: dict[str, Any] = {"auto_connect": auto_connect, "node": node, "dest": there.addr_bytes}
        await eval(compile(program, "library.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), space)
        pipe, strategy = space["pipe"], space["strategy"]
        other = await there.accept()
        await pipe.send(b"hello")
        assert await other.recv() == b"hello"
        assert strategy == pipe.plugin == "direct"


def test_a_node_with_the_settings_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [line] = programs("configuration.md")
    for name, value in {**SETTINGS, "WARPGATE_DATA": str(tmp_path), "WARPGATE_PORT": "4321"}.items():
        monkeypatch.setenv(name, value)
    seen: list[Config] = []
    exec(line, {"Node": seen.append, "Config": Config})
    assert [(config.durable, config.port, config.interfaces) for config in seen] == [(True, 4321, ("lo",))]
