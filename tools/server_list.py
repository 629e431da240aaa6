"""For maintainers: the key that signs lists of public servers, and lists signed with it.

    python tools/server_list.py key FILE               make a key, and let the package know it
    python tools/server_list.py sign KEY... [--days N] give the package's list the next number, and sign it
    python tools/server_list.py check FILE             what a client of this package would make of it; status 1: nothing

`sign` writes the signed list to dist/servers.toml, which goes to the places of `data/list_keys.toml` as it is.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from warpgate.core.disk.whole_file import read_small, replace_file
from warpgate.errors import ConfigError, WarpgateError
from warpgate.model.identity import Identity
from warpgate.model.server_list import LARGEST_LIST, open_list, parse_list, signed, without_signatures
from warpgate.services.defaults import MOST_KEYS, list_keys, public_servers

ROOT = Path(__file__).parent.parent
DATA = ROOT / "src" / "warpgate" / "data"
OUT = ROOT / "dist" / "servers.toml"
# Nodes ask at most weekly; who is away for a season still has a list that counts.
DAYS = 270


def make_key(file: Path, data: Path) -> str:
    """The key goes to `file`, where none may be yet; its public half among those of the package."""
    if file.exists():
        raise ConfigError(f"{file} is there already: a key that has signed lists is not replaced")
    page = data / "list_keys.toml"
    text = page.read_text()
    match = re.search(r"^keys = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    if match is None:
        raise ConfigError(f"{page} has no line `keys = [...]`")
    keys = re.findall(r'"([0-9a-f]+)"', match[1])
    if len(keys) >= MOST_KEYS:
        raise ConfigError(f"{page} has {len(keys)} keys: take out one that signs no more")
    key = Identity.generate()
    replace_file(file, key.to_pem(), durable=True)
    keys.append(key.public_key.hex())
    shown = ", ".join(f'"{each}"' for each in keys)
    page.write_text(text[: match.start()] + f"keys = [{shown}]" + text[match.end() :])
    return f"{file} signs as {key.node_id}: keep it off line, and commit {page}"


def sign(files: Sequence[Path], days: int, data: Path, out: Path, now: float) -> str:
    """The package's list with the next number and a new last day, there and signed at `out`."""
    keys = [Identity.from_pem(file.read_bytes()) for file in files]
    page = data / "servers.toml"
    text = page.read_text()
    sequence = parse_list(text.encode()).sequence + 1
    last = datetime.fromtimestamp(now, UTC).date() + timedelta(days=days)
    text = re.sub(r"^sequence = \d+$", f"sequence = {sequence}", text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^expires = [\d-]+$", f"expires = {last}", text, count=1, flags=re.MULTILINE)
    listed = signed(text.encode(), *keys)
    open_list(listed, tuple(key.public_key for key in keys))  # nothing is published that no client takes
    page.write_text(text)
    out.parent.mkdir(exist_ok=True)
    out.write_bytes(listed)
    return f"list {sequence}, good until the end of {last}: publish {out}, and commit {page}"


def check(file: Path, now: float) -> str:
    data = read_small(file, LARGEST_LIST)
    listed = open_list(data, list_keys().keys)
    if now >= listed.expires:
        raise ConfigError(f"the last day of list {listed.sequence} is over")
    ours = public_servers().sequence
    if listed.sequence < ours:
        raise ConfigError(f"it is list {listed.sequence}, and the package has {ours}")
    signers = ", ".join(without_signatures(data)[1])
    what = f"{len(listed.brokers)} brokers and {len(listed.stun)} STUN servers"
    return f"list {listed.sequence} with {what}, signed by {signers}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("key").add_argument("file", type=Path)
    signing = commands.add_parser("sign")
    signing.add_argument("key", type=Path, nargs="+")
    signing.add_argument("--days", type=int, default=DAYS)
    commands.add_parser("check").add_argument("file", type=Path)
    given = parser.parse_args(arguments)
    try:
        match given.command:
            case "key":
                told = make_key(given.file, DATA)
            case "sign":
                told = sign(given.key, given.days, DATA, OUT, time.time())
            case _:
                told = check(given.file, time.time())
    except (WarpgateError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
