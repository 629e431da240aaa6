"""`warpgate name` and `--name` on the loopback interface, with a server that can be told to fail."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from warpgate.cli.main import main
from warpgate.model.contact import Contact
from warpgate.model.endpoint import Endpoint
from warpgate.model.identity import Identity
from warpgate.net.system import SystemNetwork
from warpgate_testing.name_server import LabNameServer

PATIENCE = 20


class ServerThread:
    """A name server beside a program that has the main thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.server = self.call(self._make)

    def call(self, make) -> object:
        """What the coroutine function returns, run over there."""
        done: Future = asyncio.run_coroutine_threadsafe(make(), self._loop)
        return done.result(PATIENCE)

    async def _make(self) -> LabNameServer:
        return LabNameServer(SystemNetwork(), Endpoint.parse("127.0.0.1:0"), time.time)

    async def _kill(self) -> None:
        self.server.kill()

    async def _revive(self) -> None:
        self.server.revive()

    def kill(self) -> None:
        self.call(self._kill)

    def revive(self) -> None:
        self.call(self._revive)

    def close(self) -> None:
        self.call(self.server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerThread]:
    thread = ServerThread()
    servers = {"NAMES": thread.server.url, "BROKER": "", "STUN": "", "INTERFACE": "lo", "PORT_MAP": "no"}
    for key, value in servers.items():
        monkeypatch.setenv(f"WARPGATE_{key}", value)
    yield thread
    thread.close()


@pytest.fixture
def call(capsys):
    """Run one command in this process: status, events on stdout, text on stderr."""

    def call(*words: str) -> tuple[int, list[dict], str]:
        status = main([*words, "--json"])
        captured = capsys.readouterr()
        return status, [json.loads(line) for line in captured.out.splitlines()], captured.err

    return call


def node_id(call) -> str:
    return call("id")[1][0]["node_id"]


class TestName:
    def test_register_show_release(self, names, call):
        me = node_id(call)
        status, (named,), _ = call("name", "register", "Alice")
        assert (status, named) == (
            0,
            {"event": "named", "name": "alice", "node_id": me, "servers": [names.server.url]},
        )
        status, (shown,), _ = call("name", "show", "ALICE")
        assert status == 0
        assert (shown["name"], shown["node_id"], shown["server"]) == ("alice", me, names.server.url)
        assert (shown["sequence"], shown["pinned"]) == (names.server.record("alice").sequence, False)
        assert shown["expires"] - shown["issued"] == 30 * 86_400
        status, (released,), _ = call("name", "release", "alice")
        assert (status, released["event"], names.server.records) == (0, "released", {})
        status, (failed,), _ = call("name", "show", "alice")
        assert (status, failed["error"]) == (
            1,
            f"nobody has registered 'alice' ({names.server.url}: it knows no such name)",
        )

    def test_for_people(self, names, capsys):
        assert main(["name", "register", "alice"]) == 0
        assert capsys.readouterr().out == f"registered as alice at {names.server.url}\n"
        assert main(["name", "show", "alice"]) == 0
        shown = capsys.readouterr().out
        assert "not in your contact book yet" in shown
        assert "\nwg1" in shown
        assert main(["name", "release", "alice"]) == 0
        assert capsys.readouterr().out == f"alice is free again at {names.server.url}\n"

    def test_somebody_elses(self, names, call):
        call("name", "register", "alice", "--identity", "alice")
        for action in ("register", "release"):
            status, (failed,), _ = call("name", action, "alice")
            assert status == 1
            assert "registered by another key" in failed["error"]

    def test_no_server_answers(self, names, call):
        names.kill()
        for action in ("register", "show", "release"):
            status, (failed,), _ = call("name", action, "alice")
            assert status == 1
            assert f"{names.server.url}: " in failed["error"]

    def test_a_changed_key_is_refused_until_it_is_forgotten(self, names, call, own_home: Path):
        before = Contact("alice", Identity.generate().public_key, 1, 1_795_392_000)
        book = own_home / "data" / "known_peers"
        book.parent.mkdir(exist_ok=True)
        book.write_text(before.to_line() + "\n")
        call("name", "register", "alice", "--identity", "alice")
        status, (failed,), _ = call("name", "show", "alice")
        assert status == 1
        assert "the key behind 'alice' has changed" in failed["error"]
        status, (forgotten,), _ = call("name", "forget", "Alice")
        assert (status, forgotten) == (
            0,
            {"event": "forgotten", "name": "alice", "node_id": before.node_id},
        )
        assert call("name", "show", "alice")[0] == 0
        assert call("name", "forget", "alice")[1][0]["node_id"] == ""

    def test_a_damaged_contact_book_is_named(self, names, call, own_home: Path):
        book = own_home / "data" / "known_peers"
        book.parent.mkdir(exist_ok=True)
        book.write_text("# mine\nalice\n")
        status, (failed,), _ = call("name", "show", "bob")
        assert status == 2
        assert f"contact book {book}, line 2: it has 1 words" in failed["error"]


async def listen(tmp_path: Path, *words: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "warpgate", "listen", "--echo", "--json", *words),
        env={**os.environ, "WARPGATE_DATA": str(tmp_path / "listener")},
        stdout=pipe,
        stderr=pipe,
    )


async def event(process: asyncio.subprocess.Process) -> dict:
    async with asyncio.timeout(PATIENCE):
        return json.loads(await process.stdout.readline())


class TestListenAndConnect:
    async def test_a_server_that_is_down_is_waited_for(self, names, tmp_path):
        """Peers with the address are served meanwhile; then the name works, and is pinned by its first use."""
        names.kill()
        listener = await listen(tmp_path, "--name", "alice")
        try:
            ready, unnamed = await event(listener), await event(listener)
            assert (unnamed["event"], unnamed["name"], unnamed["refused"]) == ("unnamed", "alice", False)
            names.revive()
            while (named := await event(listener))["event"] != "named":
                assert named["event"] == "unnamed"
            assert named["servers"] == [names.server.url]
            caller = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "warpgate", "connect", "alice", "--ping", "1", "--json"),
                stdout=asyncio.subprocess.PIPE,
            )
            said, _ = await asyncio.wait_for(caller.communicate(), PATIENCE)
            assert caller.returncode == 0, said
            assert json.loads(said.splitlines()[0])["peer"] == ready["node_id"]
            assert names.server.count("GET") == 1
            book = Path(os.environ["WARPGATE_DATA"]) / "known_peers"
            assert Contact.from_line(book.read_text()).node_id == ready["node_id"]
        finally:
            listener.kill()
            await listener.communicate()

    async def test_what_it_listens_for_can_end_before_it_has_its_name(self, names, tmp_path):
        names.kill()
        listener = await listen(tmp_path, "--name", "alice", "--once")
        ready = await event(listener)
        assert await asyncio.to_thread(main, ["connect", ready["address"], "--ping", "1"]) == 0
        said, _ = await asyncio.wait_for(listener.communicate(), PATIENCE)
        assert listener.returncode == 0, said

    async def test_a_name_that_is_taken_ends_it(self, names, tmp_path):
        assert await asyncio.to_thread(main, ["name", "register", "alice"]) == 0
        listener = await listen(tmp_path, "--name", "alice")
        said, _ = await asyncio.wait_for(listener.communicate(), PATIENCE)
        events = [json.loads(line) for line in said.splitlines()]
        assert [told["event"] for told in events] == ["ready", "unnamed", "failed"]
        assert "registered by another key" in events[-1]["error"]
        assert listener.returncode == 1
