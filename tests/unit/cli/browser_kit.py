"""A real browser without a screen and without a network: Chromium, spoken to over a pipe (Chrome DevTools Protocol, one
JSON object a message, each ended by a zero byte).
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

PATIENCE = 60.0


def installed() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """One page of it."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, answers: int) -> None:
        self._process = process
        self._to, self._from = os.fdopen(to, "wb", buffering=0), os.fdopen(answers, "rb")
        self._number = 0
        self._session: str | None = None
        self.told: list[dict[str, Any]] = []  # events so far
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            asked["sessionId"] = self._session
        self._to.write(json.dumps(asked).encode() + b"\0")
        while (heard := self._hear()).get("id") != self._number:
            self.told.append(heard)
        assert "error" not in heard, (method, heard)
        return dict(heard["result"])

    def _hear(self) -> dict[str, Any]:
        message = bytearray()
        while (octet := self._from.read(1)) != b"\0":
            assert octet, "the browser ended"
            message += octet
        return dict(json.loads(message))

    def show(self, page: Path, width: int, height: int = 900, *, dark: bool = False) -> Self:
        """Load it as a window of this size does; returns when it is there."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.told.clear()
        self.ask("Page.navigate", url=page.as_uri())
        while not any(each.get("method") == "Page.loadEventFired" for each in self.told):
            self.told.append(self._hear())
        return self

    def evaluate(self, expression: str) -> Any:
        """What this JavaScript says of the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    @property
    def requests(self) -> list[str]:
        """What the page has loaded, itself included."""
        return [
            each["params"]["request"]["url"] for each in self.told if each.get("method") == "Network.requestWillBeSent"
        ]

    def picture(self) -> bytes:
        """The whole page, as PNG."""
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def close(self) -> None:
        self._to.close()
        self._from.close()


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """In a network namespace of its own, whose interfaces are all down; its profile is in `folder`."""
    program = installed()
    assert program is not None
    (asked, to), (answers, told) = os.pipe(), os.pipe()
    script = f'exec 3<&{asked} 4>&{told}; exec "$@"'
    process = subprocess.Popen(
        [
            *("unshare", "--net", *(() if os.getuid() == 0 else ("--map-root-user",))),
            *("bash", "-c", script, "bash", program),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
            *("--remote-debugging-pipe", f"--user-data-dir={folder}"),
        ],
        pass_fds=(asked, told),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )
    os.close(asked)
    os.close(told)
    try:
        page = Browser(process, to, answers)
        try:
            yield page
        finally:
            page.close()
    finally:
        process.kill()
        process.wait()
