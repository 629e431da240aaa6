"""The program in docs/lab.md, run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from needs import need_programs

PAGE = Path(__file__).parent.parent.parent / "docs" / "lab.md"


@pytest.mark.lab
def test_the_lab_as_a_program() -> None:
    need_programs("ip", "mosquitto")
    [program] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "from inside" in done.stdout
    assert "mqtt://" in done.stdout
