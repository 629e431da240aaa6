"""`warpgate send` and `warpgate receive`, as real programs on the loopback interface."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import random
import re
import signal

import pytest
from cli_fakes import target_text

BLOB = random.Random(6).randbytes(5_000_000)


@pytest.fixture
def here(tmp_path):
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "blob").write_bytes(BLOB)
    (tmp_path / "tree" / "link").symlink_to("below")
    (tmp_path / "blob").write_bytes(BLOB)
    return tmp_path


@pytest.fixture
def incoming(tmp_path):
    (tmp_path / "incoming").mkdir()
    return tmp_path / "incoming"


def test_a_file_and_a_directory_and_the_file_again(start, here, incoming):
    receiver = start("b", "receive", str(incoming), "--json")
    address = receiver.ready()
    sent = start("a", "send", str(here / "blob"), address, "--json")
    status, output, errors = sent.finish()
    assert (status, errors) == (0, b"")
    told = [json.loads(line) for line in output.splitlines()]
    assert [event["event"] for event in told if event["event"] != "progress"] == ["offered", "sent"]
    digest = hashlib.sha256(BLOB).hexdigest()
    peer = told[0].pop("peer")
    assert told[0] == {"event": "offered", "name": "blob", "directory": False, "files": 1, "size": len(BLOB)}
    seconds = told[-1].pop("seconds")
    assert 0 < seconds < 30
    whole = {
        "name": "blob",
        "directory": False,
        "files": 1,
        "size": len(BLOB),
        "resumed": 0,
        "sha256": digest,
        "left_out": 0,
        "identical": False,
    }
    assert told[-1] == {"event": "sent", "peer": peer, **whole}
    heard = [receiver.read_event()]
    while heard[-1]["event"] != "received":
        heard.append(receiver.read_event())
    own = heard[-1].pop("peer")
    assert own != peer
    assert heard[-1] == {"event": "received", **whole, "path": str(incoming / "blob")}

    status, output, errors = start("a", "send", str(here / "tree"), address).finish()
    assert status == 0
    assert b"skipped link" in errors
    assert output.splitlines()[-1].startswith(b"sent tree: 5.0 MB, verified")
    assert (incoming / "tree" / "below" / "blob").read_bytes() == BLOB
    assert not (incoming / "tree" / "link").exists()

    (here / "blob").write_bytes(b"another")
    status, output, errors = start("a", "send", str(here / "blob"), address).finish()
    assert (status, output) == (1, b"")
    assert b"'blob' exists already, and nothing is overwritten" in errors
    assert (incoming / "blob").read_bytes() == BLOB
    while (event := receiver.read_event())["event"] != "failed":
        pass
    assert (event["peer"], event["reason"]) == (own, "exists")
    receiver.process.send_signal(signal.SIGTERM)
    assert receiver.finish()[0] == 0


def test_once_and_overwritten_and_a_bar_on_a_terminal(start, here, incoming):
    (incoming / "blob").write_bytes(b"old")
    receiver = start("b", "receive", str(incoming), "--once", "--overwrite")
    assert receiver.process.stdout.readline().startswith(b"listening as ")
    address = receiver.process.stdout.readline().decode().strip()
    screen, terminal = pty.openpty()
    sender = start("a", "send", str(here / "blob"), address, stderr=terminal)
    os.close(terminal)
    drawn = b""
    with open(screen, "rb", buffering=0) as file:
        try:
            while data := file.read(65536):
                drawn += data
        except OSError:  # how a pseudo-terminal ends
            pass
    assert sender.finish()[0] == 0
    assert b"blob" in drawn
    assert b"5.0" in drawn
    status, output, _ = receiver.finish()
    assert status == 0
    assert f"received {incoming}/blob: 5.0 MB".encode() in output
    assert (incoming / "blob").read_bytes() == BLOB


def test_only_the_allowed_may_send(start, here, incoming):
    friend = json.loads(start("a", "id", "--json").finish()[1])["node_id"]
    receiver = start("b", "receive", str(incoming), "--allow", friend, "--json")
    address = receiver.ready()
    assert start("c", "send", str(here / "blob"), address, "--timeout", "1").finish()[0] == 1
    assert list(incoming.iterdir()) == []
    assert start("a", "send", str(here / "blob"), address).finish()[0] == 0


def test_a_peer_that_does_something_else(start, here):
    listener = start("b", "listen", "--echo", "--json")
    status, _, errors = start("a", "send", str(here / "blob"), listener.ready()).finish()
    assert status == 1
    assert b"there is no service 'files', only one without a name" in errors


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("send", "nothing-there", "wg1x"), 2, b"TARGET"),
        (("send", "nothing-there", "@{address}"), 1, b"nothing-there: No such file"),
        (("receive", "nothing-there"), 2, b"is not a directory"),
        (("receive", ".", "--allow", "me"), 2, b"--allow"),
    ],
)
def test_what_makes_no_sense(start, tmp_path, words, status, message):
    (tmp_path / "address").write_text(target_text())
    words = [word.format(address=tmp_path / "address") for word in words]
    found, _, errors = start("a", *words).finish()
    assert found == status
    assert message in errors


def read_until(screen, words: bytes) -> bytes:
    shown = b""
    while words not in shown:
        shown += os.read(screen, 65536)
    return shown


def a_receiver_at_a_terminal(start, incoming):
    """It, its screen and keyboard in one, and its address."""
    screen, terminal = pty.openpty()
    receiver = start("b", "receive", str(incoming), stdin=terminal, stdout=terminal, stderr=terminal, session=True)
    os.close(terminal)
    shown = b""
    while b"\nwg1" not in shown or not shown.endswith(b"\n"):
        shown += os.read(screen, 65536)
    return receiver, screen, next(line for line in shown.decode().split() if line.startswith("wg1"))


@pytest.mark.parametrize("answer", [b"y\n", b"n\n", b"\n", b"\x04"])
def test_the_person_at_the_terminal_is_asked(start, here, incoming, answer):
    receiver, screen, address = a_receiver_at_a_terminal(start, incoming)
    os.write(screen, b"y\n")  # typed before there was a question: no answer to it
    sender = start("a", "send", str(here / "blob"), address)
    asked = read_until(screen, b"Take it? [y/N] ")
    assert b"wants to send 'blob' (5.0 MB)" in asked
    assert list(incoming.iterdir()) == []
    os.write(screen, answer)
    status, _, errors = sender.finish()
    if answer == b"y\n":
        assert status == 0
        assert (incoming / "blob").read_bytes() == BLOB
    else:
        assert status == 1
        assert b"refused by the receiver: it is not wanted here" in errors
        assert list(incoming.iterdir()) == []
        assert start("a", "send", str(here / "blob"), address).finish()[0] == 1, "and not asked again"
    receiver.process.terminate()
    os.close(screen)


def test_what_cannot_be_sent_is_told_and_the_rest_arrives(start, here, incoming):
    for name in (b"Icon\r", b"a\nb", b"\xff"):
        (here / "tree" / os.fsdecode(name)).touch()
    friend = json.loads(start("a", "id", "--json").finish()[1])["node_id"]
    receiver = start("b", "receive", str(incoming), "--allow", friend, "--json")
    address = receiver.ready()
    status, output, errors = start("a", "send", str(here / "tree"), address).finish()
    assert status == 1
    assert output.startswith(b"tree: ")
    assert b"sent tree: 5.0 MB" in output
    assert errors.count(b"skipped") == 4
    assert b"skipped Icon\\r:" in errors
    assert sorted(os.listdir(incoming / "tree")) == ["below"]
    (here / "other").mkdir()
    (here / "other" / "file").write_bytes(b"x")
    assert start("a", "send", str(here / "other"), address).finish()[0] == 0
    status, output, _ = start("a", "send", str(here / "other"), address).finish()
    assert (status, output.splitlines()[-1]) == (0, b"other is there already, identical")


def test_of_several_files_those_arrive_that_can_be_sent(start, here, incoming):
    """As with `warpgate send *`, in which nobody has read every name."""
    (here / "Icon\r").touch()
    os.mkfifo(here / "fifo")
    receiver = start("b", "receive", str(incoming), "--yes", "--json")
    files = [str(here / name) for name in ("Icon\r", "missing", "blob", "fifo")]
    address = receiver.ready()
    status, output, errors = start("a", "send", *files, address).finish()
    assert status == 1
    assert b"sent blob: 5.0 MB" in output
    assert errors.count(b"skipped") == 3
    assert os.listdir(incoming) == ["blob"]
    status, _, errors = start("a", "send", *files[:2], address).finish()
    assert (status, errors.splitlines()[-1]) == (1, b"warpgate: nothing of this can be sent")


def test_a_text_is_shown_and_not_kept(start, incoming):
    receiver = start("b", "receive", str(incoming))
    receiver.process.stdout.readline()
    address = receiver.process.stdout.readline().decode().strip()
    for text in ("one\nwarpgate: two \x1b[2J", "three"):
        assert start("a", "send", "--text", text, address).finish()[0] == 0
    receiver.process.terminate()
    _, output, _ = receiver.finish()
    shown = [line for line in output.decode().splitlines() if line.startswith("  ")]
    assert shown == ["  one", "  warpgate: two \\x1b[2J", "  three"]
    assert list(incoming.iterdir()) == []
    assert start("a", "send", "--text", "x" * 20_000, address).finish()[0] == 2


def test_without_a_directory_the_senders_have_to_be_named(start):
    status, _, errors = start("b", "receive").finish()
    assert status == 2
    assert b"whoever has the address may send" in errors


HOSTILE_SENDER = """
import sys
from warpgate.proto import transfer_names
transfer_names.is_deceiving = lambda character: False
transfer_names.check_harmless = lambda path, rules: None
from warpgate.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["x\x1b]0;owned\x07\x1b[2J\nwarpgate: fine", "a\u202egpj.exe", ".bash_profile", "-rf"])
def test_a_sender_that_breaks_the_rules(start, here, incoming, name):
    """What it is called reaches neither the disk nor, raw, the screen."""
    (here / name).write_bytes(b"x")
    (here / name).chmod(0o755)
    receiver = start("b", "receive", str(incoming))
    assert receiver.process.stdout.readline().startswith(b"listening as ")
    address = receiver.process.stdout.readline().decode().strip()
    assert start("a", "send", str(here / name), address, program=("-c", HOSTILE_SENDER)).finish()[0] == 1
    receiver.process.terminate()
    status, output, errors = receiver.finish()
    assert status == 0
    assert list(incoming.iterdir()) == []
    assert "not received from" in errors.decode()
    for text in (output.decode(), errors.decode()):
        assert all(line.isprintable() for line in text.split("\n"))
        assert "\nwarpgate: fine" not in text


def test_a_file_that_is_cut_while_it_is_sent(start, here, incoming):
    """Both ends say so, and the receiver, which was stopped meanwhile, waits for the next."""
    with (here / "long").open("wb") as file:
        file.truncate(256_000_000)
    receiver = start("b", "receive", str(incoming), "--json")
    address = receiver.ready()
    sender = start("a", "send", str(here / "long"), address, "--json")
    assert sender.read_event()["event"] == "offered"
    receiver.process.send_signal(signal.SIGSTOP)
    os.truncate(here / "long", 1000)
    receiver.process.send_signal(signal.SIGCONT)
    status, output, _ = sender.finish()
    assert status == 1
    said = json.loads(output.splitlines()[-1])["error"]
    assert re.search(r"long was (cut|changed) while it was being sent", said)  # by whether it was open yet
    while (event := receiver.read_event())["event"] != "failed":
        assert event["event"] in ("offered", "progress")
    assert "while it was being sent" in event["error"]
    assert not (incoming / "long").exists()
    assert start("a", "send", str(here / "long"), address).finish()[0] == 0
    assert (incoming / "long").read_bytes() == bytes(1000)
