"""The program as started from a shell: statuses, one sentence, no traceback, quick help."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from cli_fakes import FakeWorld, target_text

from warpgate.cli.main import main
from warpgate.errors import PipeClosed

TARGET = target_text()
MISUSES = [
    ([], "say what to do"),
    (["fly"], "fly"),
    (["connect"], "TARGET"),
    (["connect", "wg1AAAA"], "mangled"),
    (["connect", TARGET[:-1] + ("A" if TARGET[-1] != "A" else "B")], "mangled"),
    (["connect", "@/no/such/file"], "/no/such/file: No such file"),
    (["connect", "@"], "address file"),
    (["connect", ""], "TARGET"),
    (["connect", "not an address!"], "TARGET"),
    (["connect", TARGET, "--transport", "sctp"], "sctp"),
    (["connect", TARGET, "--datagram", "--transport", "tcp"], "--datagram needs UDP"),
    (["connect", TARGET, "--ping", "0"], "--ping"),
    (["connect", TARGET, "--ping", "x"], "--ping"),
    (["connect", TARGET, "--ping", "1", "--listen", "80"], "--ping"),
    (["connect", TARGET, "--listen", "70000"], "70000"),
    (["connect", TARGET, "--listen", "80", "--datagram"], "--datagram"),
    (["connect", TARGET, "--timeout", "0"], "--timeout"),
    (["connect", TARGET, "--timeout", "nan"], "--timeout"),
    (["connect", TARGET, "--pin", "1"], "--pin"),  # options are not abbreviated
    (["listen", "--echo", "--exec", "cat"], "--e"),
    (["listen", "--forward", "localhost"], "HOST:PORT"),
    (["listen", "--forward", "::1:80"], "IPv6"),
    (["listen", "--forward", "localhost:http"], "--forward"),
    (["listen", "--allow", "bob"], "'bob' is no node id"),
    (["listen", "--relay"], "say to whom, with --allow ID"),
    (["receive"], "say where to put what comes"),
    (["id", "--port", "0"], "--port"),
    (["id", "--identity", "../me"], "identity name"),
    (["id", "--broker", "http://broker.example"], "http://broker.example"),
    (["id", "--stun", "a b"], "stun"),
    (["id", "--config", "/no/such/file"], "No such file"),
    (["name", "register"], "NAME"),
    (["serve", "--connections", "0"], "--connections"),
    (["serve", "--names-per-key", "-1"], "--names-per-key"),
    (["name", "forget", "a b"], "a nickname is made of letters"),
    (["listen", "--name", "admin"], "'admin' is reserved"),
    (["connect", "a/b"], "is no address text (wg1...), and no nickname"),
    (["demo", "--scene", "9"], "there are 5 scenes"),
    (["id", "--names", "https://names.example/?x"], "names: "),
]
FAILURES = [
    (["connect", "alice"], "no name server is configured: give the URL of one (--names URL"),
    (["explain", "alice"], "no name server is configured"),
    (["listen", "--name", "alice"], "no name server is configured"),
    (["name", "register", "alice"], "no name server is configured"),
    (["name", "show", "alice"], "no name server is configured"),
    (["name", "release", "alice"], "no name server is configured"),
    (["name", "show", "alice", "--names", "http://127.0.0.1:1"], "http://127.0.0.1:1: "),
]


@pytest.mark.parametrize(("words", "says"), MISUSES + FAILURES)
def test_bad_input_gets_one_sentence(words, says, capsys):
    status = 2 if (words, says) in MISUSES else 1
    assert main(words) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("warpgate: ")
    assert captured.err.count("\n") == 1
    assert says in captured.err

    assert main([*words, "--json"]) == status
    captured = capsys.readouterr()
    assert captured.err == ""
    (line,) = captured.out.splitlines()
    failed = json.loads(line)
    assert list(failed) == ["event", "error", "report"]
    assert failed["event"] == "failed"
    assert says in failed["error"]
    assert failed["report"] == []


def test_a_file_may_hold_the_address_in_broken_lines(tmp_path, capsys):
    (tmp_path / "address").write_text(f"{TARGET[:20]}\r\n  {TARGET[20:]}\n\n")
    world = FakeWorld()
    assert main(["connect", f"@{tmp_path / 'address'}", "--ping", "1"], world.node_maker) == 0
    assert world.asked[0][0].to_text() == TARGET


def test_a_file_with_something_else_is_named(tmp_path, capsys):
    (tmp_path / "address").write_bytes(b"\xff\x00")
    assert main(["connect", f"@{tmp_path / 'address'}"]) == 2
    assert f"{tmp_path / 'address'}" in capsys.readouterr().err


def test_a_bug_is_a_sentence_and_its_place_is_shown_on_request(capsys):
    def broken(config, observer):
        raise LookupError("surprise")

    assert main(["address"], broken) == 1
    assert capsys.readouterr().err == "warpgate: a bug in warpgate: LookupError: surprise (-v shows where)\n"
    assert main(["address", "-v"], broken) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main(["address", "--json"], broken) == 1
    assert "surprise" in json.loads(capsys.readouterr().out)["error"]


def test_a_pipe_that_breaks_is_a_failure(capsys):
    async def breaking(pipe):
        pipe.abort()

    assert main(["connect", TARGET, "--ping", "1"], FakeWorld(peer=breaking).node_maker) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert issubclass(PipeClosed, Exception)


def run(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "warpgate", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_from_a_shell():
    assert run("--help").stdout.startswith("usage: warpgate")
    assert run("connect", "--help").stdout.startswith("usage: warpgate connect")
    assert run("--version").stdout.startswith("warpgate ")
    shown = run("id", "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["event"] == "id"
    misused = run("connect", "wg1", "--json")
    assert (misused.returncode, misused.stderr) == (2, "")


def test_help_and_misuse_import_neither_asyncio_nor_the_core():
    program = (
        "import sys; from warpgate.cli.main import main; status = main(sys.argv[1:]); "
        "slow = ('asyncio', 'warpgate.core', 'cryptography', 'msgspec'); "
        "print(status, [name for name in sys.modules if name.startswith(slow)])"
    )
    for words, status in ((["--help"], 0), (["listen", "--help"], 0), (["listen", "--fly"], 2)):
        shown = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
        assert shown.stdout.splitlines()[-1] == f"{status} []"


def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    shown = subprocess.run(
        [sys.executable, "-m", "warpgate", "id"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (shown.returncode, shown.stderr) == (1, "")


def test_no_streams_at_all():
    shown = subprocess.run(
        f"{sys.executable} -m warpgate id >&- 2>&- <&-",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")
