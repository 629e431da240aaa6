"""The documents: programs in them run, links and file names in them lead somewhere, names in them exist."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

import warpgate
from warpgate.core.names.destination import parse_destination
from warpgate.model.address import Attachment, LearntBy, Listening, NodeAddress
from warpgate.model.endpoint import Transport
from warpgate.plan.targets import pairs

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]

FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ +(?P<title>.+)$", re.MULTILINE)
CODE = re.compile(r"`(?P<code>[^`\n]+)`")
SOURCE_FILE = re.compile(r"(?:[\w-]+/)+[\w*-]+\.(?:py|md|toml|sh)")
MACHINE_PATH = re.compile(r"(?<![\w.:~/])/(?:home|root|work|tmp|usr|opt|var|mnt|Users)/")
REGISTRY = re.compile(r"pypi\.|pythonhosted|crates\.io|npmjs", re.IGNORECASE)

# What runs a program of the README: its nodes stay on the loopback interface and ask no server.
LOOPBACK = """
import runpy, sys, warpgate
from functools import partial
config = warpgate.Config(interfaces=("lo",), brokers=(), stun=(), port=0)
warpgate.Node = partial(warpgate.Node, config)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def python_blocks(page: Path) -> list[str]:
    return [found["body"] for found in FENCE.finditer(page.read_text()) if found["kind"].strip() == "python"]


PROGRAMS = [block for block in python_blocks(README) if "asyncio.run(" in block]
FRAGMENTS = [(page, block) for page in PAGES for block in python_blocks(page) if block not in PROGRAMS]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """As the usual hosts make them: lower case, hyphens for spaces, other punctuation dropped."""
    titles = [found["title"].strip().lower() for found in HEADING.finditer(prose(page))]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


async def start(folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    words = (sys.executable, "-c", LOOPBACK, "program.py", *arguments)
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "WARPGATE_DATA": str(folder)}
    return await asyncio.create_subprocess_exec(*words, cwd=folder, env=environment, stdout=pipe, stderr=pipe)


def test_there_are_programs_to_run() -> None:
    assert len(PROGRAMS) == 1


@pytest.mark.parametrize("program", PROGRAMS, ids=["ten lines"])
async def test_program_runs_between_two_nodes(program: str, tmp_path: Path) -> None:
    """Without arguments a program prints its address and waits for a peer; with an address it connects."""
    (tmp_path / "program.py").write_text(program)
    waiting = await start(tmp_path)
    try:
        assert waiting.stdout is not None
        address = (await waiting.stdout.readline()).decode().strip()
        assert address.startswith("wg1"), await waiting.communicate()
        calling = await start(tmp_path, address)
        async with asyncio.timeout(20):
            for process in (calling, waiting):
                said, errors = await process.communicate()
                assert process.returncode == 0, errors.decode()
                assert b"hello world" in said
    finally:
        for process in (waiting, locals().get("calling")):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()


def test_the_program_on_the_first_screen_has_ten_lines() -> None:
    lines = [line for line in PROGRAMS[0].splitlines() if line.strip()]
    assert len(lines) <= 10


def test_fragments_are_python() -> None:
    for page, fragment in FRAGMENTS:
        compile(fragment, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for found in LINK.finditer(prose(page)):
        target, _, anchor = found["target"].partition("#")
        if "://" in target:
            continue
        assert not target.startswith("/"), found[0]
        destination = (page.parent / target).resolve() if target else page
        assert destination.exists(), f"{found[0]} leads nowhere"
        if anchor:
            assert anchor in anchors(destination), f"{found[0]}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_named_files_exist(page: Path) -> None:
    """`core/node.py` is below src/warpgate, `tests/test_docs.py` below the root; `*` stands for several."""
    for found in CODE.finditer(prose(page)):
        for name in SOURCE_FILE.findall(found["code"]):
            assert any([*ROOT.glob(name), *(ROOT / "src" / "warpgate").glob(name)]), f"there is no {name}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_nothing_of_one_machine_or_registry(page: Path) -> None:
    for pattern in (MACHINE_PATH, REGISTRY):
        found = pattern.search(page.read_text())
        assert found is None, f"{found[0]!r} in {page.name}"


def test_names_in_the_library_table_exist() -> None:
    """First column of the table in docs/library.md: `Node.accept()` is an attribute of `warpgate.Node`, and so on."""
    section = (ROOT / "docs" / "library.md").read_text().partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 10
    for row in rows:
        owner: object = None
        for code in CODE.findall(row.split(" | ")[0]):
            words = re.match(r"@?([A-Za-z_][\w.]*)", code)
            if words is None or code.startswith("async for"):
                continue
            first, _, rest = words[1].partition(".")
            if hasattr(warpgate, first):
                owner = getattr(warpgate, first)
                assert not rest or _has(owner, rest), code
            else:
                assert owner is not None, code
                assert _has(owner, first), code


def test_packets_that_one_offer_can_cause() -> None:
    """The numbers in docs/threats.md: an address of 8 attachments that claims the most, against 1 and 8 interfaces."""

    def attachment(number: int) -> Attachment:
        open_port = Listening(53, 53, LearntBy.PORT_MAP)
        host, reflexive = ip_address(f"198.51.100.{number}"), ip_address(f"203.0.113.{number}")
        return Attachment(host, reflexive, open_port, open_port)

    def victim(interfaces: int) -> NodeAddress:
        listening = Listening(20000)
        hosts = (ip_address(f"192.0.2.{number}") for number in range(1, interfaces + 1))
        return NodeAddress(key, (), tuple(Attachment(host, None, listening, listening) for host in hosts))

    key = warpgate.Identity.generate().public_key
    hostile = NodeAddress(key, (), tuple(attachment(number) for number in range(1, 9)))
    sends = len(warpgate.Timing().check_offsets)
    text = " ".join((ROOT / "docs" / "threats.md").read_text().split())
    for transport in Transport:
        assert len(pairs(victim(1), hostile, transport, invited=False)) == 8
        assert len(pairs(victim(8), hostile, transport, invited=False)) == 8
    opened = [pair for pair in pairs(victim(1), hostile, Transport.TCP, invited=False) if pair.open]
    assert len(opened) <= 8
    assert f"{8 * sends} UDP datagrams" in text
    assert f"{4 * 8 * sends} datagrams, or with fresh ports {4 * 8 * (sends + 1)} from each interface" in text


def _has(owner: object, name: str) -> bool:
    return hasattr(owner, name) or name in getattr(owner, "__annotations__", {}) or _in_init(owner, name)


def _in_init(owner: object, name: str) -> bool:
    """Attributes that the constructor sets from an argument of that name."""
    code = getattr(getattr(owner, "__init__", None), "__code__", None)
    return code is not None and name in code.co_varnames


MESSAGES = (ROOT / "docs" / "messages.md").read_text()


def as_said(text: str) -> str:
    """The table cannot have backquotes in what stands in backquotes."""
    return text.replace("`", "'")


def test_texts_in_the_table_of_messages_are_said() -> None:
    table, _, lists = MESSAGES.partition("\n## Every error\n")
    rows = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    said = as_said(lists)
    for row in rows:
        assert len(row) == 5, row
        for code in CODE.findall(" ".join(row[1:4])):
            assert " " not in code or code in said, code


def test_every_error_has_its_section() -> None:
    sections = set(re.findall(r"^### (\w+)$", MESSAGES, re.MULTILINE))
    public = {name for name in warpgate.__all__ if isinstance(getattr(warpgate, name), type)}
    assert {name for name in public if issubclass(getattr(warpgate, name), Exception)} - sections <= {"DecodeError"}


def test_errors_that_are_raised_are_listed() -> None:
    """Under their class, with `<...>` for what differs."""

    async def unstarted() -> None:
        await warpgate.Node().connect(warpgate.NodeAddress(warpgate.Identity.generate().public_key, (), ()))

    calls: list[Callable[[], object]] = [
        lambda: warpgate.Config(port=70_000),
        lambda: warpgate.Config(port="80"),  # type: ignore[arg-type]
        lambda: warpgate.NodeAddress.from_text("wg1AAAA"),
        lambda: warpgate.Node("home"),  # type: ignore[arg-type]
        lambda: warpgate.Mode.of("shout"),
        lambda: asyncio.run(unstarted()),
        lambda: parse_destination(7),  # type: ignore[arg-type]
        lambda: parse_destination("no name!"),
    ]
    for call in calls:
        with pytest.raises(warpgate.WarpgateError) as raised:
            call()
        listed = MESSAGES.partition(f"\n### {type(raised.value).__name__}\n")[2].partition("\n#")[0]
        forms = [".+".join(map(re.escape, re.split(r"<[^<>]*>", line))) for line in listed.splitlines() if " " in line]
        text = " ".join(str(raised.value).split())
        assert any(re.fullmatch(form, text) for form in forms), text
