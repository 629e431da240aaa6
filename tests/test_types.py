"""What a type checker sees: the programs of the documents are clean, and a pipe has the type that was asked for."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import warpgate

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```python\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = {
    f"{page.stem}_{number}": found["body"]
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    for number, found in enumerate(FENCE.finditer(page.read_text()))
    if "asyncio.run(" in found["body"] or "sync." in found["body"]
}
TYPES = """
import asyncio
from typing import assert_type
from warpgate import Config, DatagramPipe, Mode, Node, Pipe, auto_connect, open_connection, start_server

class MyNode(Node): ...

async def main() -> None:
    async with MyNode(Config()) as node:
        assert_type(node, MyNode)
        assert_type(await node.connect("home"), Pipe)
        assert_type(await node.connect("home", transport="tcp"), Pipe)
        assert_type(await node.connect("home", mode="datagram"), DatagramPipe)
        assert_type(await node.connect("home", mode=Mode.DATAGRAM), DatagramPipe)
        assert_type(await auto_connect(node, "home", Mode.DATAGRAM), tuple[DatagramPipe, str])
        assert_type(await auto_connect(node, b"..."), tuple[Pipe, str])
        assert_type(await auto_connect(node, b"...", durable=True), tuple[Pipe, str])
        async with await node.connect("home", mode="datagram") as pipe:
            assert_type(pipe.dropped, int)
            assert_type(await pipe.recv(1024), bytes)
        assert_type(await open_connection(node, "home"), tuple[asyncio.StreamReader, asyncio.StreamWriter])
        async for each in node:
            assert_type(each.open_streams(), tuple[asyncio.StreamReader, asyncio.StreamWriter])

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...

        async with await start_server(node, serve) as server, await start_server(node, serve, service="ssh"):
            await server.serve_forever()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("typed")
    for name, body in {**PROGRAMS, "types_of_the_library": TYPES}.items():
        (made / f"{name}.py").write_text(body)
    (made / "wrong.py").write_text("import warpgate\nwarpgate.Config(port='80')\n")
    return made


def check(*words: str, cwd: Path) -> str:
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False).stdout


def test_there_are_programs() -> None:
    assert any(name.startswith("README") for name in PROGRAMS)


@pytest.mark.slow
def test_mypy_finds_nothing_but_what_is_wrong(folder: Path) -> None:
    words = (sys.executable, "-m", "mypy", "--check-untyped-defs", "--cache-dir", str(folder / "cache"), ".")
    complaints = [line for line in check(*words, cwd=folder).splitlines() if ": error: " in line]
    assert [line.partition(":")[0] for line in complaints] == ["wrong.py"], "\n".join(complaints)


@pytest.mark.long  # 280 MB with its Node.js: `make pyright` installs it
def test_pyright_finds_nothing_but_what_is_wrong(folder: Path) -> None:
    words = (
        sys.executable,
        "-m",
        "basedpyright",
        "--level",
        "error",
        "--outputjson",
        "--pythonpath",
        sys.executable,
    )
    found = json.loads(check(*words, ".", cwd=folder))["generalDiagnostics"]
    assert [Path(each["file"]).name for each in found] == ["wrong.py"], found


def test_type_checkers_see_all_public_names() -> None:
    """What is loaded when it is first used stands in a block of its own for them."""
    facade = ast.parse((ROOT / "src/warpgate/__init__.py").read_text())
    imports = [node for node in ast.walk(facade) if isinstance(node, ast.ImportFrom)]
    seen = {name.name for node in imports if (node.module or "").startswith("warpgate") for name in node.names}
    assert seen == {*warpgate.__all__, "sync"}
