"""Write the lists of docs/messages.md: every text that an error, a report or `doctor` can have, read off the source.

What is filled in when it is said stands in <>. `make docs` runs this, and tests/test_architecture.py tells when the
page has other lists.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from warpgate import errors
from warpgate.cli.options import UsageError

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "warpgate"
PAGE = ROOT / "docs" / "messages.md"
DOCTOR = ("doctor", "self_words", "server_words", "family_words", "nat_words", "port_map_words", "strategies")
# They are wrapped before anybody sees them, by one of those that are listed.
WITHIN = ("DecodeError", "Refused")
# Through which the core makes one.
MAKERS = {
    "ConnectFailed": ("_failed", "stop"),
    "PipeClosed": ("_finish", "abort", "_end"),
}
# Kinds of one that only we tell apart.
KINDS = {
    "AuthenticationError": ("Uninvited",),
    "ServiceError": ("Unusable", "Translated"),
}
SHORTEST = 12  # of doctor's: what is shorter is a word in a sentence


class Source:
    """One module: its tree, and the texts that it gives names to."""

    def __init__(self, path: Path, shared: dict[str, str]) -> None:
        """`shared`: the names of all modules, which it adds its own to."""
        self.path = path
        self.layer = path.relative_to(SOURCE).parts[0]
        self.tree = ast.parse(path.read_text())
        self.nodes = list(ast.walk(self.tree))  # which takes its time, and is asked for by each list
        self._calls = [
            (getattr(node.func, "id", getattr(node.func, "attr", "")), node)
            for node in self.nodes
            if isinstance(node, ast.Call)
        ]
        self.names = shared
        self.names |= {
            target.id: node.value.value
            for node in self.tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name) and isinstance(node.value.value, str)
        }

    def texts(self, node: ast.expr) -> Iterator[str]:
        """What it can be, with <name> for what is not known here; none when nothing is."""
        match node:
            case ast.Constant(value=str(text)):
                yield text
            case ast.Name(id=name) if name in self.names:
                yield self.names[name]
            case ast.JoinedStr(values=values):
                yield "".join(map(self._part, values))
            case ast.IfExp(body=body, orelse=orelse):
                yield from self.texts(body)
                yield from self.texts(orelse)
            case ast.BoolOp(op=ast.Or(), values=values):
                for value in values:
                    yield from self.texts(value)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                for text in self.texts(left):
                    yield text + (next(iter(self.texts(right)), "") or "<...>")
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="format")) if name in self.names:
                yield self.names[name].replace("{}", "<...>")

    def _part(self, node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        assert isinstance(node, ast.FormattedValue)
        known = list(self.texts(node.value))
        if len(known) == 1:
            return known[0]
        match node.value:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return f"<{name.strip('_').lower()}>"
        return "<...>"

    def calls(self, wanted: Callable[[str], bool]) -> Iterator[ast.Call]:
        return (call for name, call in self._calls if wanted(name))


def lists() -> dict[str, str]:
    """By their names in the page."""
    names: dict[str, str] = {}
    sources = [Source(path, names) for path in sorted(SOURCE.rglob("*.py")) if "lab" not in path.parts]
    command = [source for source in sources if source.layer == "cli"]
    library = [source for source in sources if source.layer != "cli"]
    doctors = [source for source in command if source.path.stem in DOCTOR]
    doctors += [source for source in library if source.path.stem == "probe"]
    return {
        "errors": "\n\n".join(_error(name, kind, sources) for name, kind in _classes()),
        "skipped": _block(text for source in sources for text in _skipped(source)),
        "failed": _block(_texts(sources, lambda name: name == "AttemptFailed")),
        "noted": _block(_texts(library, lambda name: name == "note", take=-1)),
        "told": _block(_texts(command, lambda name: name == "note")),
        "events": _block(text for source in command if source.path.stem == "words" for text in _said(source)),
        "doctor": _block(text for source in doctors for text in _said(source)),
    }


def filled(page: str) -> str:
    """The page with its lists as they should be."""
    for name, text in lists().items():
        marked = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)", re.DOTALL)
        page, found = marked.subn(lambda mark, text=text: f"{mark[1]}\n{text}\n\n{mark[2]}", page)
        if not found:
            raise ValueError(f"the page has no place for {name}")
    return page


def _classes() -> Iterator[tuple[str, type[Exception]]]:
    yield "UsageError", UsageError
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.WarpgateError) and name not in WITHIN:
            yield name, kind


def _error(name: str, kind: type[Exception], sources: list[Source]) -> str:
    words = " ".join((kind.__doc__ or "").split())
    texts = list(_texts(sources, lambda called: called in (name, *KINDS.get(name, ()))))
    core = [source for source in sources if source.layer == "core"]
    texts += _texts(core, lambda called: called in MAKERS.get(name, ()))
    if kind is errors.ConnectFailed:
        texts += (text for source in sources for text in _refusals(source))
    if kind is errors.IdentityInUse:
        texts = [str(errors.IdentityInUse("<name>", "<holder>")).replace("'", "")]
    listed = f"\n\n{_block(texts)}" if texts else ""
    return f"### {name}\n\n{words}{listed}"


def _refusals(source: Source) -> Iterator[str]:
    """What a peer says, and what is said of one that says nothing."""
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef) and node.name in ("refusal", "silence_words"):
            yield from _returned(node, source)


def _texts(sources: list[Source], wanted: Callable[[str], bool], take: int = 0) -> Iterator[str]:
    for source in sources:
        for call in source.calls(wanted):
            if call.args:
                yield from source.texts(call.args[take])


def _skipped(source: Source) -> Iterator[str]:
    """Why a strategy has no part in a connect."""
    if source.path.stem == "cascade":
        for node in source.nodes:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "reason":
                yield from source.texts(node.value)
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef) and node.name == "unsuitable":
            yield from _returned(node, source)


def _returned(within: ast.AST, source: Source) -> Iterator[str]:
    for node in ast.walk(within):
        if isinstance(node, ast.Return) and node.value is not None:
            yield from source.texts(node.value)


def _said(source: Source) -> Iterator[str]:
    """All sentences of a module, without its docstrings and parts of other sentences."""
    inside = {
        id(part)
        for node in source.nodes
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for part in ast.walk(node)
        if part is not node
    }
    for node in source.nodes:
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in inside:
            for text in source.texts(node):
                if len(text) >= SHORTEST and " " in text:
                    yield text.replace("{}", "<...>")


def _block(texts: Iterator[str] | list[str]) -> str:
    kept = dict.fromkeys(" ".join(text.split()) for text in texts if re.search("[a-z]", re.sub("<.*?>", "", text)))
    return "```text\n" + "\n".join(kept) + "\n```"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
