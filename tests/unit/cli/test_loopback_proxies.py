"""UDP and SOCKS through two real programs: dig against a DNS server, curl against a web server, and what is refused."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from loopback_kit import PATIENCE
from need_kit import need_programs

WEB = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"you asked for " + self.path.encode())
    def log_message(self, *words):
        pass

server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextlib.contextmanager
def running(*command: str, **streams: int) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(command, **streams)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def web() -> Iterator[int]:
    with running(sys.executable, "-c", WEB, stdout=subprocess.PIPE) as process:
        yield int(process.stdout.readline())


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)


def friend(start) -> str:
    return json.loads(start("a", "id", "--json").finish()[1])["node_id"]


def test_dig_asks_a_dns_server(start, unused_udp_port_factory):
    """Each question comes from a port of its own, and is a flow of its own."""
    need_programs("dig", "dnsmasq")
    there, here = unused_udp_port_factory(), unused_udp_port_factory()
    options = (
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
    )
    server = ("dnsmasq", "--keep-in-foreground", "--user=root", "--pid-file=", f"--port={there}", *options)
    with running(*server, "--address=/nas.home/192.0.2.80"):
        listener = start("b", "listen", "--forward", f"dns=udp:{there}", "--forward", "web=9", "--json")
        connector = start("a", "connect", listener.ready(), "-L", f"udp:{here}:dns", "--json")
        assert connector.read_event() == {"event": "listening", "local": f"udp:127.0.0.1:{here}"}
        for _ in range(3):
            asked = run("dig", "+short", "+tries=3", "+notcp", f"-p{here}", "@127.0.0.1", "nas.home")
            assert asked.stdout == b"192.0.2.80\n", asked
        connector.process.send_signal(signal.SIGTERM)
        assert connector.finish()[0] == 0


@pytest.mark.parametrize(("words", "longest"), [((), 9000), (("--durable",), 1147)])
def test_datagrams_are_not_cut_and_each_program_has_its_own_flow(start, unused_udp_port_factory, words, longest):
    here = unused_udp_port_factory()
    with contextlib.ExitStack() as stack:
        service, one, other = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3))
        service.bind(("127.0.0.1", 0))
        service.settimeout(PATIENCE)
        listener = start("b", "listen", "--forward", f"udp:127.0.0.1:{service.getsockname()[1]}", "--json")
        connector = start("a", "connect", listener.ready(), "-L", f"udp:{here}", "--json", *words)
        assert connector.read_event()["event"] == "listening"
        if words:
            one.sendto(bytes(1151), ("127.0.0.1", here))  # lost, and the flow goes on
        for client, question in ((one, b"1" * longest), (other, b""), (one, b"3")):
            client.settimeout(PATIENCE)
            client.sendto(question, ("127.0.0.1", here))
            asked, source = service.recvfrom(65536)
            assert asked == question
            service.sendto(b"to " + question, source)
            assert client.recvfrom(65536) == (b"to " + question, ("127.0.0.1", here))
        pipes = [pipe for _ in range(2 + len(words)) if (pipe := connector.read_event())["event"] == "pipe"]
        assert [(pipe["mode"], pipe["durable"]) for pipe in pipes] == 2 * [("datagram", bool(words))]


def test_curl_through_a_socks_proxy(start, unused_tcp_port, web):
    """The name is looked up there: `socks5-hostname`."""
    listener = start("b", "listen", "--forward", "socks:127.0.0.0/8", "--allow", friend(start), "--json")
    connector = start("a", "connect", listener.ready(), "--socks", str(unused_tcp_port), "--json")
    assert connector.read_event()["event"] == "listening"
    curl = ("curl", "-sS", "--socks5-hostname", f"127.0.0.1:{unused_tcp_port}")
    asked = run(*curl, f"http://localhost:{web}/hello")
    assert (asked.stdout, asked.stderr) == (b"you asked for /hello", b"")
    refused = run(*curl, "http://[::1]:80/")
    assert refused.returncode == 97, refused
    told = [listener.read_event() for _ in range(3)]
    assert [event["event"] for event in told] == ["pipe", "pipe", "unserved"]
    assert told[2]["error"] == "::1: [::1]:80 is not to be reached by --forward socks:127.0.0.0/8"


PRIVATE = ("127.0.0.1", "169.254.169.254", "10.0.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1")
PRIVATE_V6 = (
    "[::1]",
    "[::]",
    "[fe80::1]",
    "[fd00::1]",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
)


def test_by_default_the_proxy_reaches_nothing_private(start, unused_tcp_port, web):
    """Not this machine, not its network, not a cloud's metadata: however they are written."""
    listener = start("b", "listen", "--forward", "socks", "--allow", friend(start), "--json")
    connector = start("a", "connect", listener.ready(), "--socks", str(unused_tcp_port))
    connector.process.stdout.readline()
    for host in (*PRIVATE, *PRIVATE_V6, "localhost"):
        with socket.create_connection(("127.0.0.1", unused_tcp_port), timeout=PATIENCE) as client:
            name = host.strip("[]").encode()
            client.sendall(b"\5\1\0" + b"\5\1\0\3" + bytes((len(name),)) + name + web.to_bytes(2, "big"))
            heard = b""
            while len(heard) < 4:
                heard += client.recv(100)
            assert heard[:4] == b"\5\0\5\2", (host, heard)


@pytest.mark.parametrize("service", ["--echo", "--exec"])
def test_a_peer_that_is_no_proxy_is_told(start, unused_tcp_port, service):
    words = (service, "cat") if service == "--exec" else (service,)
    listener = start("b", "listen", *words, "--json")
    connector = start("a", "connect", listener.ready(), "--socks", str(unused_tcp_port), "--json")
    assert connector.read_event()["event"] == "listening"
    refused = run("curl", "-sS", "--socks5-hostname", f"127.0.0.1:{unused_tcp_port}", "http://a.example/")
    assert refused.returncode == 97
    while (told := connector.read_event())["event"] in ("path", "pipe"):
        pass
    assert told["event"] == "unserved"
    assert "the peer is no SOCKS proxy" in told["error"]


def test_what_is_no_socks_at_all(start, unused_tcp_port):
    listener = start("b", "listen", "--forward", "socks", "--allow", friend(start), "--json")
    address = listener.ready()
    assert start("a", "connect", address).finish(b"GET / HTTP/1.0\r\n\r\n")[:2] == (1, b"")
    assert [listener.read_event()["event"] for _ in range(2)] == ["pipe", "unserved"]
    assert start("a", "connect", address).finish(b"\5\1\2")[:2] == (0, b"\5\xff")
    told = [listener.read_event() for _ in range(2)]
    assert "insists on a password" in told[1]["error"]


@pytest.mark.parametrize("service", [("socks",), ("80", "--forward", "web=socks:any")])
def test_a_proxy_says_whom_it_serves(start, service):
    status, _, errors = start("a", "listen", "--forward", *service).finish()
    assert status == 2
    assert b"with --allow ID" in errors
