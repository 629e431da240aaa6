"""`make fuzz`: every target for SECONDS each, by atheris where that is installed; exit status 1 when one finds a thing.

python tests/fuzz [NAME ...]          these targets alone
python tests/fuzz --input NAME HEX    one input again, as it is printed with a finding
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS = float(os.environ.get("SECONDS", "5"))
SEED = int(os.environ.get("SEED", "1"))
# Of libFuzzer, for what the engine's own limits do not interrupt: a decoder that does not come back.
STUCK, MOST_MEGABYTES = 10, 1024
COUNT = re.compile(r"executed_units: *(\d+)")
LONGEST_STORY = 4000


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--input"]:
        again(arguments[1], bytes.fromhex(arguments[2]))
        return 0
    if arguments[:1] == ["--one"]:
        return one(arguments[1])
    from fuzz_targets import TARGETS  # noqa: PLC0415 - a child imports it instrumented

    found = []
    for name in arguments or TARGETS:
        # A process each: what one target keeps, or breaks, is no other's.
        command = (sys.executable, str(Path(__file__).parent), "--one", name)
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        count = COUNT.search(ended.stdout)
        verdict = "FOUND" if ended.returncode else "ok   "
        print(f"{verdict} {name:<24} {count[1] if count else '?':>9} inputs", flush=True)
        if ended.returncode:
            print(ended.stdout[-LONGEST_STORY:], flush=True)
            found.append(name)
    print(f"\nfound something: {', '.join(found)}" if found else f"\nnothing found, in {SECONDS:g} s each")
    return 1 if found else 0


def one(name: str) -> int:
    if importlib.util.find_spec("atheris") is None:
        from fuzz_engine import run_for  # noqa: PLC0415 - see above
        from fuzz_targets import TARGETS  # noqa: PLC0415

        print(f"executed_units: {run_for(TARGETS[name], SECONDS, SEED)}")
        return 0
    import atheris  # noqa: PLC0415 - where there is one

    with atheris.instrument_imports(include=["warpgate"]):
        from fuzz_engine import LONGEST_INPUT, attempt  # noqa: PLC0415
        from fuzz_targets import TARGETS  # noqa: PLC0415
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="warpgate-fuzz-") as folder:
        for number, seed in enumerate(target.seeds):
            (Path(folder) / str(number)).write_bytes(seed)
        flags = [f"-max_total_time={max(1, round(SECONDS))}", f"-max_len={LONGEST_INPUT}", f"-seed={SEED}"]
        flags += [f"-timeout={STUCK}", f"-rss_limit_mb={MOST_MEGABYTES}", f"-artifact_prefix={folder}/"]
        atheris.Setup(
            [sys.argv[0], *flags, "-verbosity=0", "-print_final_stats=1", folder],
            lambda data: attempt(target, bytes(data)),
        )
        atheris.Fuzz()
    return 0


def again(name: str, data: bytes) -> None:
    from fuzz_engine import attempt  # noqa: PLC0415
    from fuzz_targets import TARGETS  # noqa: PLC0415

    attempt(TARGETS[name], data)
    print("nothing found")


if __name__ == "__main__":
    raise SystemExit(main())
