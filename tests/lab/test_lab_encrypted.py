"""Encrypted pipes through real NATs, over a real relay, and in the program's hands."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest
from needs import need_programs
from programs import PATIENCE, events, line_with, seats

from sites import R, pair
from warpgate.lab.servers import start_coturn, start_mosquitto
from warpgate.lab.steered import SteeredNode
from warpgate.lab.topology import Lab

pytestmark = pytest.mark.lab

ADDRESS = re.compile(rb"wg1[A-Za-z0-9_-]+")


@pytest.mark.parametrize(("transport", "secure_only"), [("tcp", False), ("tcp", True), (None, True), ("udp", True)])
async def test_through_two_nats(lab: Lab, transport: str | None, secure_only: bool) -> None:
    async with pair(lab, "eim-apdf", "eim-apdf") as nodes:
        await nodes.a.start(**nodes.settings)
        await nodes.b.start(**nodes.settings, secure_only=secure_only)
        done = await nodes.a.connect(nodes.b.address, transport=transport, secure=True)
        assert done.ok, (done.error, done.report)
        assert (done.mode, done.secure) == ("stream", True)
        assert transport in (None, done.transport)
        opened = [entry for entry in await nodes.b.trace() if entry["event"] == "PipeOpened"]
        assert [entry["secure"] for entry in opened] == [True]


async def test_a_node_that_takes_only_encrypted_pipes(lab: Lab) -> None:
    async with pair(lab, "eim-apdf", "eim-apdf") as nodes:
        await nodes.a.start(**nodes.settings)
        await nodes.b.start(**nodes.settings, secure_only=True)
        for asked in ({"transport": "tcp"}, {"mode": "datagram"}):
            done = await nodes.a.connect(nodes.b.address, **asked)
            assert "takes only encrypted pipes" in done.error
            assert not done.ok
        done = await nodes.a.connect(nodes.b.address)  # QUIC is one
        assert (done.ok, done.transport, done.secure) == (True, "udp", True), done


@pytest.mark.parametrize("how", ["udp", "tls"])
async def test_over_a_relay(lab: Lab, how: str) -> None:
    """A real coturn carries the TCP link (RFC 6062), TLS within TLS in the second case."""
    need_programs("turnserver", "mosquitto")
    broker = await start_mosquitto(lab.add_host("broker"))
    relay = await start_coturn(lab.add_host("relay", ipv4=2), tls_port=443)
    port = 443 if how == "tls" else relay.endpoint.port
    settings = {
        "brokers": [broker.mqtt_url],
        "stun": [str(relay.endpoint)],
        "turn": [f"turn:user:password@{relay.endpoint.ip}:{port}?transport={how}"],
        "ca_file": str(relay.certificate),
    }
    hosts = [lab.add_host(name, behind="edm") for name in "ab"]
    async with await SteeredNode.launch(hosts[0]) as a, await SteeredNode.launch(hosts[1]) as b:
        await asyncio.gather(a.start(**settings), b.start(**settings))
        done = await a.connect(b.address, transport="tcp", secure=True)
        assert done.ok, (done.error, done.report)
        assert (done.plugin, done.relayed, done.secure) == ("turn", True, True)
        assert done.seconds < 2.0 + 10 * R


async def test_files_both_ways_through_the_program(lab: Lab, tmp_path: Path) -> None:
    """`connect --tls` to `listen --tls` behind two NATs. Our stdin ends long before what the other side sends."""
    a, b = await seats(lab, tmp_path)
    out, back = random.Random(1).randbytes(100_000), random.Random(2).randbytes(1 << 20)
    listener = await b.host.popen(["warpgate", "listen", "--tls"], env=b.env, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        target = (await printed_address(listener)).decode()
        words = ["warpgate", "connect", target, "--tls", "--transport", "tcp", "-v"]
        connecting = asyncio.create_task(a.host.run(words, env=a.env, given=out, timeout=PATIENCE))
        async with asyncio.timeout(PATIENCE):
            heard, said = await listener.communicate(back)
        done = await connecting
    finally:
        await b.host.stop(listener)
    assert (done.returncode, listener.returncode) == (0, 0), (done.stderr, said)
    assert hashlib.sha256(heard).digest() == hashlib.sha256(out).digest()
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(back).digest()
    assert b"over TCP, encrypted" in done.stderr
    assert b"over TCP, encrypted" in said


async def test_what_json_tells(lab: Lab, tmp_path: Path) -> None:
    a, b = await seats(lab, tmp_path)
    async with b.running("warpgate", "listen", "--echo", "--json", says=b"ready") as (listener, ready):
        target = json.loads(ready)["address"]
        for options, secure in (((), False), (("--tls",), True)):
            done = await a.run("warpgate", "connect", target, "--transport", "tcp", "--ping", "2", "--json", *options)
            pipe, *pongs = events(done.stdout)
            assert (done.returncode, pipe["secure"], pipe["transport"], len(pongs)) == (0, secure, "tcp", 2)
            assert json.loads(await line_with(listener, b"pipe"))["secure"] is secure


async def printed_address(process: Process) -> bytes:
    """What `listen` tells people, on stderr, since its stdout belongs to the pipe."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        while line := await process.stderr.readline():
            if found := ADDRESS.search(line):
                return found[0]
    raise AssertionError("listen has printed no address")
