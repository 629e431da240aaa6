"""The layers of docs/architecture.md and the sizes of the house rules, checked on the source itself."""

from __future__ import annotations

import ast
import importlib.util
import tomllib
from functools import cache
from pathlib import Path

import pytest

import warpgate

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "warpgate"
FILES = sorted(SOURCE.rglob("*.py"))
TESTING = sorted((ROOT / "testing" / "src").rglob("*.py"))
FILE_LINES = 600
FUNCTION_LINES = 60

# Lowest first; a package imports only itself and what stands before it.
LAYERS = (
    "base",
    "model",
    "proto",
    "plan",
    "platform",
    "net",
    "services",
    "plugins",
    "core",
    "api",
    "sync",
    "user_settings",
    "transfer",
    "lab",
    "server",
    "cli",
)
BASE_MODULES = {"errors", "events", "config", "lazy_dataclass", "__init__", "__main__"}
PURE = {"base", "model", "proto", "plan"}
IMPURE_MODULES = {
    "asyncio",
    "socket",
    "ssl",
    "time",
    "random",
    "secrets",
    "os",
    "logging",
    "subprocess",
    "threading",
}
SYSTEM_QUESTIONS = {("sys", "platform"), ("os", "name"), ("os", "uname"), ("platform", "system")}
MODULES_THAT_DIFFER = {"errno", "os", "signal", "socket"}
MODULES_OF_ONE_SYSTEM = {
    "ctypes",
    "fcntl",
    "grp",
    "msvcrt",
    "pwd",
    "resource",
    "select",
    "termios",
    "tty",
    "winreg",
}
# proto and plan are side by side: neither imports the other. The lab is outside: it uses the program like a user.
SIBLINGS = {frozenset({"proto", "plan"})}


def layer_of(module: str) -> str:
    """`warpgate.net.udp` -> net; top-level modules of the bottom row -> base."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] in BASE_MODULES:
        return "base"
    return parts[1]


def imports_of(nodes: list[ast.AST]) -> set[str]:
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def module_name(path: Path) -> str:
    return ".".join(["warpgate", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_layers(path: Path) -> None:
    if path in (SOURCE / "__init__.py", SOURCE / "__main__.py"):
        return  # the facade names what is above it, lazily
    layer = layer_of(module_name(path))
    imported = imports_of(nodes_of(path))
    for module in sorted(imported):
        if module.split(".")[0] == "warpgate" and module != "warpgate":
            other = layer_of(module)
            assert LAYERS.index(other) <= LAYERS.index(layer), f"{layer} imports {module}"
            assert frozenset({layer, other}) not in SIBLINGS, f"{layer} imports {module}"
        elif layer in PURE:
            assert module.split(".")[0] not in IMPURE_MODULES, f"{layer} is pure, but imports {module}"


@pytest.mark.parametrize("path", sorted((SOURCE / "plugins").glob("*.py")), ids=lambda path: path.name)
def test_plugins_do_not_know_each_other(path: Path) -> None:
    if path.stem in ("builtin", "base", "registry", "__init__"):
        return
    others = {module for module in imports_of(nodes_of(path)) if module.startswith("warpgate.plugins.")}
    parts = {"punching", "guesses", "meeting", "router_care"}  # of strategies
    assert others <= {"warpgate.plugins.base", *(f"warpgate.plugins.{part}" for part in parts)}


@pytest.mark.parametrize("path", [*FILES, *TESTING], ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") < FILE_LINES, "split the file"
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length < FUNCTION_LINES, f"{node.name} has {length} lines"


def test_the_program_does_not_need_what_its_tests_do() -> None:
    for path in FILES:
        assert not any(module.startswith("warpgate_testing") for module in imports_of(nodes_of(path))), path


def test_both_packages_have_one_version() -> None:
    for file in (ROOT / "pyproject.toml", ROOT / "testing" / "pyproject.toml"):
        assert tomllib.loads(file.read_text())["project"]["version"] == warpgate.__version__
    assert tomllib.loads(file.read_text())["project"]["dependencies"] == [f"warpgate=={warpgate.__version__}"]


def test_only_the_command_line_prints() -> None:
    for path in FILES:
        if layer_of(module_name(path)) in ("cli", "lab"):
            continue
        calls = [node for node in nodes_of(path) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"], path


def test_values_do_not_hold_up_the_start() -> None:
    """The standard decorator compiles each class at import: half of a command's start, when all had it."""
    for path in FILES:
        names = {
            alias.name
            for node in nodes_of(path)
            if isinstance(node, ast.ImportFrom) and node.module == "dataclasses"
            for alias in node.names
        }
        assert "dataclass" not in names or path.name == "lazy_dataclass.py", path


def test_only_platform_asks_which_system_this_is() -> None:
    """The lab is Linux's own, and may have what only that has; but it asks nobody either."""
    for path in FILES:
        layer = layer_of(module_name(path))
        if layer == "platform":
            continue
        for node in nodes_of(path):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in SYSTEM_QUESTIONS, f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("hasattr", "getattr"):
                assert ast.unparse(node.args[0]) not in MODULES_THAT_DIFFER, f"{path}:{node.lineno}"
        assert layer == "lab" or not imports_of(nodes_of(path)) & MODULES_OF_ONE_SYSTEM, path


def graph() -> dict[str, set[str]]:
    """Which of our modules each one imports, also for type checkers alone and inside functions."""
    modules = {module_name(path): path for path in FILES}
    found = {}
    for name, path in modules.items():
        if path in (SOURCE / "__init__.py", SOURCE / "__main__.py"):
            continue
        imported = set()
        for node in nodes_of(path):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        found[name] = (imported & set(modules)) - {name, "warpgate"}
    return found


def test_no_circles() -> None:
    """What remains when whatever imports nothing that remains is taken away is a circle, or leads to one."""
    left = graph()
    while leaves := {name for name, imported in left.items() if not imported & set(left)}:
        left = {name: imported for name, imported in left.items() if name not in leaves}
    assert {name: sorted(imported & set(left)) for name, imported in left.items()} == {}


@pytest.mark.parametrize(("tool", "page"), [("command_reference", "configuration"), ("messages", "messages")])
def test_pages_that_are_made_of_the_source_are_up_to_date(tool: str, page: str) -> None:
    """Here, and not with the other documents: every change to the source can make them stale."""
    spec = importlib.util.spec_from_file_location(tool, ROOT / "tools" / f"{tool}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "docs" / f"{page}.md").read_text()
    assert module.filled(text) == text, "`make docs` writes them"
