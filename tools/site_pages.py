"""A hook of mkdocs (mkdocs.yml): the pages of the site that stand outside `docs/`, and links that lead out of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {"index.md": "README.md", "CHANGELOG.md": "CHANGELOG.md"}
EXAMPLE = re.compile(r"^```(?:hex|values) (\S+)$", re.MULTILINE)
LINK = re.compile(r"(?P<text>!?\[[^\]\n]*\])\((?P<target>[^)\s]+)\)")


def on_config(config: Any) -> Any:
    decisions = sorted(path.relative_to(ROOT / "docs") for path in (ROOT / "docs" / "decisions").glob("*.md"))
    config["nav"].append({"Decisions": [str(path) for path in decisions]})
    return config


def on_files(files: Files, config: Any) -> Files:
    for page, source in PAGES.items():
        text = LINK.sub(_inside, (ROOT / source).read_text())
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What is no page (LICENSE, a folder, the source) keeps its text and loses its link; an example is shown with the
    name that the tests know it by.
    """
    markdown = EXAMPLE.sub(r'```text title="\1"', markdown)
    return LINK.sub(lambda found: found["text"][1:-1] if _leads_out(found["target"]) else found[0], markdown)


def _inside(found: re.Match[str]) -> str:
    return f"{found['text']}({found['target'].removeprefix('docs/')})"


def _leads_out(target: str) -> bool:
    return target.startswith("../deploy") or target in ("LICENSE", "decisions")
