"""What `pip install warpgate` brings along, without extras: counted in the metadata of what is installed here."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SOURCE = Path(__file__).parent.parent / "src" / "warpgate"
MOST_PACKAGES = 13
LARGEST = 30_500_000  # of others
LARGEST_OWN = 2_500_000


def closure(root: str) -> set[str]:
    """The names of all packages that `root` needs, itself not counted."""
    found: set[str] = set()
    waiting: list[tuple[str, frozenset[str]]] = [(root, frozenset())]
    while waiting:
        name, extras = waiting.pop()
        for text in distribution(name).requires or ():
            needed = Requirement(text)
            wanted = needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in extras | {""}
            )
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
    assert sum(sizes.values()) < LARGEST, sizes
    assert 0 < own < LARGEST_OWN
