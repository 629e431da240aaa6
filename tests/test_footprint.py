"""What `pip install warpgate` brings along, without extras: counted in the metadata of what is installed here."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SOURCE = Path(__file__).parent.parent / "src" / "warpgate"
MOST_PACKAGES = 13
LARGEST = 32 * 1024 * 1024  # of all of them and our own


def closure(root: str) -> set[str]:
    """The names of all packages that `root` needs, itself not counted."""
    found: set[str] = set()
    waiting: list[tuple[str, frozenset[str]]] = [(root, frozenset())]
    while waiting:
        name, extras = waiting.pop()
        for text in distribution(name).requires or ():
            needed = Requirement(text)
            wanted = needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras | {""})
            if wanted and (key := canonicalize_name(needed.name)) not in found:
                found.add(key)
                waiting.append((key, frozenset(needed.extras)))
    return found


def size(name: str) -> int:
    """Bytes of the files of a package, without the bytecode that Python makes of them."""
    files = (Path(str(file.locate())) for file in distribution(name).files or ())
    return sum(path.stat().st_size for path in files if path.suffix != ".pyc" and path.is_file())


def test_the_base_install_is_small() -> None:
    packages = closure("warpgate")
    assert not {"aiohttp", "async-upnp-client"} & packages
    assert len(packages) <= MOST_PACKAGES, sorted(packages)
    own = sum(path.stat().st_size for path in SOURCE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    sizes = {name: size(name) for name in packages}
    assert all(sizes.values())
    assert own > 0
    assert own + sum(sizes.values()) < LARGEST, (own, sizes)


LOADED = "import sys; {}; print(*sys.modules)"


def loaded(program: str) -> set[str]:
    ran = subprocess.run([sys.executable, "-c", LOADED.format(program)], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_importing_the_node_loads_what_a_program_needs_to_make_one() -> None:
    """The rest, most of warpgate and what it needs, is loaded by `Node.start`."""
    more = loaded("from warpgate import Config, Node") - loaded("import asyncio")
    assert not {"cryptography", "msgspec", "qh3", "ifaddr", "h11", "paho"} & more
    assert len([name for name in more if name.startswith("warpgate.")]) < 20, sorted(more)


def test_listen_loads_nothing_that_only_mistakes_need() -> None:
    more = loaded("import warpgate.cli.listen") - loaded("import asyncio")
    assert not {"difflib", "rich", "shutil"} & more


def test_a_node_starts_without_what_only_some_need() -> None:
    more = loaded("import warpgate.core.launch, warpgate.plugins.registry as at; at.REGISTRY.all()")
    assert not {"qh3", "paho", "h11", "importlib.metadata", "difflib", "email", "json", "ifaddr"} & more
