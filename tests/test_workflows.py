"""What the workflows run is there: targets and variables of the Makefile, files, extras, Pythons."""

from __future__ import annotations

import ast
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"^([A-Z]+) [?:]?=", MAKEFILE, re.MULTILINE))


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            yield f"{path.stem}-{name}", job


def commands() -> list[str]:
    return [
        line
        for _, job in jobs()
        for step in job["steps"]
        for line in str(step.get("run", "")).splitlines()
        if line.strip()
    ]


def test_there_are_some() -> None:
    assert len(commands()) >= 6
    assert {"test", "test-windows", "package"} <= TARGETS


@pytest.mark.parametrize("command", commands())
def test_a_command_names_what_is_there(command: str) -> None:
    words = shlex.split(command)
    while words[0] == "sudo" or words[0].startswith("-"):
        words.pop(0)
    if words[0] == "make":
        for word in words[1:]:
            name, assigned, _ = word.partition("=")
            assert name in (VARIABLES if assigned else TARGETS), word
    else:
        assert "/" not in words[0] or os.access(ROOT / words[0], os.X_OK), words[0]
        for word in words:
            if "/" in word:
                assert (ROOT / word).exists(), word
            if found := re.fullmatch(r"\.\[(.+)\]", word):
                assert set(found[1].split(",")) <= set(PROJECT["optional-dependencies"]), word


def imported_by(places: list[Path]) -> set[str]:
    """The outermost packages that these tests import, and the conftests above them."""
    files = [file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place])]
    above = [folder / "conftest.py" for file in files for folder in file.relative_to(ROOT).parents]
    found = set()
    for file in {*files, *(ROOT / name for name in above if (ROOT / name).exists())}:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found |= {name.partition(".")[0] for name in names}
    local = {file.stem for file in files} | {"warpgate", "warpgate_testing"}
    return found - local - sys.stdlib_module_names


@pytest.mark.parametrize(("name", "job"), list(jobs()), ids=[name for name, _ in jobs()])
def test_what_a_job_installs_is_all_that_its_tests_import(name: str, job: dict[str, Any]) -> None:
    """Where a job does without `make setup`."""
    runs = [shlex.split(str(step.get("run", ""))) for step in job["steps"]]
    installed = {word for words in runs if "install" in words for word in words}
    tests = [ROOT / word for words in runs if "pytest" in words for word in words if word.startswith("tests/")]
    assert imported_by(tests) <= installed


@pytest.mark.parametrize(("name", "job"), list(jobs()), ids=[name for name, _ in jobs()])
def test_a_job_ends_and_pins_what_it_uses(name: str, job: dict[str, Any]) -> None:
    assert 0 < job["timeout-minutes"] <= 60
    assert all(re.fullmatch(r"[\w./-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)


def test_all_pythons_of_the_classifiers_are_tried() -> None:
    told = {text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)}
    matrices = {name: job["strategy"]["matrix"]["python"] for name, job in jobs() if "strategy" in job}
    assert set(matrices["ci-linux"]) == told
    assert all(set(some) <= told for some in matrices.values())
