"""The program itself, as a user starts it, on the loopback interface."""

from __future__ import annotations

import json
import random
import socket
import sys
from pathlib import Path

import pytest
from portable_kit import PATIENCE, WINDOWS, told_to_end

from warpgate.proto.transfer_names import partial_name

# On Linux tests/unit/cli has the same and more; here it is for systems where those tests do not run.
pytestmark = pytest.mark.long

BLOB = random.Random(14).randbytes(2_000_000)
PROGRAM = "import sys; print(*sorted(sys.stdin.read().split()))"
SORT = f'"{sys.executable}" -c "{PROGRAM}"'


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_id_address_and_doctor_say_nothing_false(start) -> None:
    status, output, errors = start("a", "id", "--json").finish(b"")
    assert (status, errors) == (0, b"")
    node_id = json.loads(output)["node_id"]
    assert start("a", "address").finish(b"")[0] == 0
    status, output, errors = start("a", "doctor", "--json").finish(b"")
    assert (status, errors) == (0, b"")
    findings = [json.loads(line) for line in output.splitlines()]
    assert node_id in findings[0]["message"]
    assert not [each for each in findings if "bug" in each["message"]]


@pytest.mark.parametrize("words", [(), ("--transport", "udp"), ("--datagram",), ("--durable",)])
def test_ping(start, words: tuple[str, ...]) -> None:
    listener = start("b", "listen", "--echo", "--once", "--json")
    status, output, errors = start("a", "connect", listener.ready(), "--ping", "3", "--json", *words).finish(b"")
    assert (status, errors) == (0, b"")
    assert [json.loads(line)["event"] for line in output.splitlines()][-4:] == ["pipe", *["pong"] * 3]
    assert listener.finish()[0] == 0


def test_bytes_go_through_stdin_and_stdout_as_they_are(start) -> None:
    listener = start("b", "listen", "--echo", "--json")
    status, output, errors = start("a", "connect", listener.ready()).finish(BLOB)
    assert (status, errors, output == BLOB) == (0, b"", True)


def test_exec(start) -> None:
    listener = start("b", "listen", "--exec", SORT, "--json")
    status, output, errors = start("a", "connect", listener.ready()).finish(b"b\na\n")
    assert (status, output.split(), errors) == (0, [b"a", b"b"], b"")


def test_a_name_is_registered_looked_up_and_connected_to(start) -> None:
    server = start("s", "serve", "--host", "127.0.0.1", "--port", str(free_port()), "--json").read_event()
    known = ("--names", server["url"], "--json")
    listener = start("b", "listen", "--echo", "--name", "bea", *known)
    address = listener.ready()
    named = listener.read_event()
    assert (named["event"], named["name"], named["servers"]) == ("named", "bea", [server["url"]])
    status, output, errors = start("a", "name", "show", "bea", *known).finish(b"")
    shown = json.loads(output)
    assert (status, errors, shown["node_id"], shown["address"]) == (0, b"", named["node_id"], address)
    status, output, errors = start("a", "connect", "bea", "--ping", "1", *known).finish(b"")
    assert (status, [json.loads(line)["event"] for line in output.splitlines()][-1]) == (0, "pong"), errors


def test_a_forwarded_port(start) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as service:
        listener = start("b", "listen", "--forward", f"127.0.0.1:{service.getsockname()[1]}", "--json")
        connector = start("a", "connect", listener.ready(), "--listen", str(port), "--json")
        assert connector.read_event()["event"] == "listening"
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            client.sendall(b"request")
            client.shutdown(socket.SHUT_WR)
            service.settimeout(PATIENCE)
            served, _ = service.accept()
            with served:
                assert served.recv(100) == b"request"
                assert served.recv(100) == b""
                served.sendall(b"response")
            assert client.recv(100) == b"response"


def test_a_file_and_a_directory_arrive_and_an_unfinished_one_is_gone_on_with(start, tmp_path: Path) -> None:
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "blob").write_bytes(BLOB)
    (tmp_path / "blob").write_bytes(BLOB)
    into = tmp_path / "incoming"
    into.mkdir()
    receiver = start("b", "receive", str(into), "--json")
    address = receiver.ready()
    for name in ("blob", "tree"):
        status, output, errors = start("a", "send", str(tmp_path / name), address, "--json").finish(b"")
        assert (status, errors) == (0, b"")
    sent = json.loads(output.splitlines()[-1])
    assert (sent["event"], sent["size"], sent["resumed"]) == ("sent", len(BLOB), 0)
    assert (into / "tree" / "below" / "blob").read_bytes() == (into / "blob").read_bytes() == BLOB
    # What an earlier try left: its hidden name is told by what is there while a transfer goes on.
    (into / "blob").unlink()
    half = into / partial_of(start, "blob")
    half.write_bytes(BLOB[: len(BLOB) // 2])
    status, output, _ = start("a", "send", str(tmp_path / "blob"), address, "--json").finish(b"")
    sent = json.loads(output.splitlines()[-1])
    assert (status, sent["resumed"]) == (0, len(BLOB) // 2)
    assert (into / "blob").read_bytes() == BLOB


def partial_of(start, name: str) -> str:
    return partial_name(name, json.loads(start("a", "id", "--json").finish(b"")[1])["node_id"])


def test_status_tells_what_runs_and_nothing_of_what_was_killed(start) -> None:
    listener = start("b", "listen", "--echo", "--json")
    address = listener.ready()
    status, output, errors = start("b", "status", "--json").finish(b"")
    assert (status, errors) == (0, b"")
    told = json.loads(output)
    assert (told["pid"], told["address"], told["pipes"]) == (listener.process.pid, address, [])
    assert start("b", "address").finish(b"")[1].decode().strip() == address
    listener.process.kill()
    listener.finish()
    status, output, _ = start("b", "status", "--json").finish(b"")
    assert (status, json.loads(output)["error"]) == (1, "nothing runs with the identity 'default'")


@pytest.mark.parametrize(
    ("command", "by_user", "status"),
    [("listen", True, 130), ("connect", True, 130), ("listen", False, 0), ("connect", False, 143)],
)
def test_who_is_told_to_end_does(start, tmp_path: Path, command: str, by_user: bool, status: int) -> None:
    """Without a word, also while a thread waits for more of stdin. A listener that is told so has done its work."""
    listener = start("b", "listen", "--echo", "--json")
    words = ("listen", "--json") if command == "listen" else ("connect", listener.ready())
    assert told_to_end(tmp_path / "a", *words, by_user=by_user) == (status, b"")


NO_LAB = b"the lab is made of Linux's network namespaces: it runs on Linux only"
NO_SYSTEMD = b"this system has no systemd: have what starts programs here run the command (--show prints the unit)"
NO_SUCH_SOCKETS = (
    b"argument --forward: '/run/app': this system has no sockets in the file system (see warpgate listen --help)"
)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("demo",), NO_LAB),
        (("lab", "up", "--a", "eim-apdf", "--b", "eim-apdf"), NO_LAB),
        (("install-service", "listen", "--echo"), NO_SYSTEMD),
        (("listen", "--forward", "/run/app"), NO_SUCH_SOCKETS),
    ],
)
@pytest.mark.skipif(not WINDOWS, reason="Linux has what these need")
def test_what_does_not_exist_here_is_said_in_one_sentence(start, words: tuple[str, ...], said: bytes) -> None:
    status, _, errors = start("a", *words).finish(b"")
    assert (status, errors.splitlines()) == (2, [b"warpgate: " + said])
