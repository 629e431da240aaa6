from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from warpgate.net.threads import in_thread


async def test_result_and_error_come_back() -> None:
    assert await in_thread(lambda: 6 * 7) == 42
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


async def test_many_at_once_do_not_wait_for_each_other() -> None:
    everyone = threading.Barrier(64, timeout=10)
    assert len(await asyncio.gather(*(in_thread(everyone.wait) for _ in range(64)))) == 64


def test_a_call_that_never_returns_does_not_hold_up_the_end_of_the_loop() -> None:
    forever = threading.Event()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(in_thread(forever.wait), 0.01)

    started = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - started < 2
    forever.set()


@pytest.mark.parametrize("daemon", [True, False])
def test_the_end_of_the_program_waits_for_native_code_alone(daemon: bool) -> None:
    program = f"""
import asyncio, time
from warpgate.net.threads import in_thread

async def main():
    calling = asyncio.ensure_future(in_thread(lambda: (time.sleep(0.3), print("done")), daemon={daemon}))
    await asyncio.sleep(0)
    calling.cancel()

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ("" if daemon else "done\n")


def test_a_program_that_ends_while_it_loads_waits_for_that(tmp_path: Path) -> None:
    """A thread that is cut off in the middle of native code takes the process along (Rust aborts)."""
    (tmp_path / "slow.py").write_text("import time; time.sleep(0.3); print('loaded', flush=True)")
    program = """
import asyncio
from warpgate.net.threads import imported
async def main():
    loading = asyncio.ensure_future(imported("slow"))
    await asyncio.sleep(0.05)
    loading.cancel()
asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("loaded\n", "")
