"""The demultiplexer: whose a flow is, and where datagrams go."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest
from pipe_kit import KEY, PEER_KEY, SESSION, Datagrams, Side, virtually

from warpgate.core.udp.demultiplexer import (
    EARLY_BYTES,
    EARLY_LIMIT,
    EXPECTED_LIMIT,
    PAST_LIMIT,
    SessionChecks,
)
from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint
from warpgate.proto.check import CheckAgent, CheckingEnded, CheckSettings
from warpgate.proto.check_wire import CheckCodec
from warpgate.proto.stun import COOKIE
from warpgate_testing.internet import MemoryInternet, PathSpec

PEER = Endpoint.of("198.51.100.9", 9)


def session(side: Side, number: int, ended: list[str], peer_key: bytes = PEER_KEY) -> SessionChecks:
    agent = CheckAgent(
        controlling=True,
        session=bytes((number,)) * 16,
        key=KEY,
        secret=bytes(32),
        new_id=lambda: bytes(12),
        settings=CheckSettings((0.0,), 15.0, 30.0),
    )

    def happened(event: object) -> None:
        if isinstance(event, CheckingEnded):
            ended.append(f"{number}: {event.reason}")

    made = SessionChecks(side.udp, agent, peer_key, happened)
    side.udp.sessions[agent.session] = made
    return made


def test_when_relays_are_in_doubt_only_who_is_reached_by_one_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bytes] = []
    monkeypatch.setattr(CheckAgent, "ask", lambda agent, _: asked.append(agent.session))

    async def main() -> None:
        side = Side(MemoryInternet().host("one", "198.51.100.1"), controlling=True)
        for number, relayed in ((1, False), (2, True), (3, False)):
            session(side, number, []).hand_over(lambda _: None, relayed=relayed)
        side.udp.ask_relayed()
        assert asked == [bytes([2] * 16)]
        side.udp.close()

    asyncio.run(main())


def test_one_pair_of_endpoints_is_one_sessions() -> None:
    async def main() -> None:
        side = Side(MemoryInternet().host("one", "198.51.100.1"), controlling=True)
        ended: list[str] = []
        first, second = session(side, 1, ended), session(side, 2, ended)
        base = side.port.base
        assert side.udp.owner(base, PEER) is None
        assert side.udp.claim(first, base, PEER)
        assert side.udp.claim(first, base, PEER)  # again, and it is still its own
        assert not side.udp.claim(second, base, PEER)
        assert side.udp.claim(second, base, Endpoint.of("198.51.100.9", 10))
        assert side.udp.owner(base, PEER) is first
        side.udp.forget(first)
        assert side.udp.owner(base, PEER) is None
        assert side.udp.claim(second, base, PEER)
        elsewhere = side.udp.port(side.udp.open(Endpoint(base.ip, 0)).base)
        assert side.udp.claim(second, elsewhere.base, PEER)
        second.disown(keep=(side.port, PEER.sockaddr))
        assert list(side.port.owners) == [PEER.sockaddr]
        assert not elsewhere.in_use
        assert ended == []
        side.udp.close()

    virtually(main)


def test_whom_the_peer_nominates_takes_over_and_the_former_pipe_is_over() -> None:
    async def main() -> None:
        side = Side(MemoryInternet().host("one", "198.51.100.1"), controlling=True)
        ended: list[str] = []
        first, second = session(side, 1, ended), session(side, 2, ended)
        base = side.port.base
        side.udp.claim(first, base, PEER)
        side.udp.take_over(second, base, PEER)
        side.udp.take_over(second, base, PEER)
        assert side.udp.owner(base, PEER) is second
        assert ended == ["1: the peer opened another pipe between the same endpoints"]
        side.udp.forget(first)  # what it had is another's by now
        assert side.udp.owner(base, PEER) is second
        side.udp.close()

    virtually(main)


def test_nobody_takes_over_the_pipe_of_another_peer() -> None:
    async def main() -> None:
        side = Side(MemoryInternet().host("one", "198.51.100.1"), controlling=True)
        ended: list[str] = []
        first, thief = session(side, 1, ended), session(side, 2, ended, peer_key=b"\2" * 33)
        side.udp.claim(first, side.port.base, PEER)
        with pytest.raises(NetworkError, match="the pipe of another peer"):
            side.udp.take_over(thief, side.port.base, PEER)
        assert side.udp.owner(side.port.base, PEER) is first
        assert ended == []
        side.udp.close()

    virtually(main)


def test_what_is_held_early_is_bounded_and_given_back() -> None:
    async def main() -> None:
        side = Side(MemoryInternet().host("one", "198.51.100.1"), controlling=False)
        sessions = [session(side, number, []) for number in range(1, 4)]
        for number, checks in enumerate(sessions):
            for port in range(2 * EXPECTED_LIMIT):
                checks.expect(side.port, (f"198.51.100.{number}", port))
        assert len(side.port.early) == 3 * EXPECTED_LIMIT
        for early in side.port.early.values():
            for _ in range(2 * EARLY_LIMIT):
                side.udp.hold(early, bytes(60000))
        held = sum(len(data) for early in side.port.early.values() for data in early)
        assert EARLY_BYTES - 60000 < held <= EARLY_BYTES
        for checks in sessions:
            checks.stop_expecting()
        assert side.port.early == {}
        sessions[0].expect(side.port, ("198.51.100.1", 1))
        side.udp.hold(side.port.early["198.51.100.1", 1], bytes(60000))
        assert side.udp.take_early(side.port, ("198.51.100.1", 1)) == deque([bytes(60000)])
        side.udp.close()

    virtually(main)


def test_a_port_that_is_closed_has_no_flows() -> None:
    async def main() -> None:
        side = Side(MemoryInternet().host("one", "198.51.100.1"), controlling=True)
        first = session(side, 1, [])
        base = side.port.base
        side.udp.close_port(base)
        side.udp.close_port(base)
        assert not side.udp.claim(first, base, PEER)
        with pytest.raises(NetworkError, match="is closed"):
            side.udp.take_over(first, base, PEER)
        with pytest.raises(NetworkError, match="is closed"):
            side.udp.port(base)
        assert side.udp.ports == ()
        side.udp.close()

    virtually(main)


def test_a_port_that_is_taken_is_refused() -> None:
    async def main() -> None:
        side = Side(MemoryInternet().host("one", "198.51.100.1"), controlling=True)
        with pytest.raises(NetworkError, match="in use"):
            side.udp.open(side.port.base)
        assert side.udp.port(side.port.base) is side.port
        side.udp.close()

    virtually(main)


def test_datagrams_without_a_pipe_go_nowhere() -> None:
    async def main() -> None:
        internet = MemoryInternet(path=PathSpec(delay=0.01))
        side = Side(internet.host("one", "198.51.100.1"), controlling=False)
        other = internet.host("other", "198.51.100.2")
        heard: list[bytes] = []
        sock = other.open_udp(Endpoint.of("198.51.100.2", 5), lambda data, _: heard.append(data))
        for data in (b"", b"hello", b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12), bytes(1400)):
            sock.send(data, side.port.base.sockaddr)
        await asyncio.sleep(1.0)
        assert heard == []
        assert side.introduced == []
        sock.close()
        side.udp.close()

    virtually(main)


def test_a_check_of_a_session_nobody_knows_is_an_introduction() -> None:
    async def main() -> None:
        internet = MemoryInternet(path=PathSpec(delay=0.01))
        side = Side(internet.host("one", "198.51.100.1"), controlling=False, session=b"x" * 16)
        other = internet.host("other", "198.51.100.2")
        sock = other.open_udp(Endpoint.of("198.51.100.2", 5), lambda *_: None)
        check = CheckCodec(True, SESSION, KEY, bytes(32), bytes(33)).request(
            bytes(12), "direct", side.port.base, introduce=True
        )
        sock.send(check, side.port.base.sockaddr)
        await asyncio.sleep(0.1)
        assert side.introduced == [check]
        sock.close()
        side.udp.close()

    virtually(main)


def test_forged_checks_of_a_session_are_told_and_do_not_touch_it() -> None:
    async def main() -> None:
        async with Datagrams() as pipes:
            other = pipes.internet.host("third", "198.51.100.3")
            sock = other.open_udp(Endpoint.of("198.51.100.3", 5), lambda *_: None)
            forged = CheckCodec(True, SESSION, bytes(32), bytes(32), bytes(33)).request(
                bytes(12), "direct", pipes.other.port.base, introduce=True
            )
            sock.send(forged, pipes.other.port.base.sockaddr)
            await asyncio.sleep(0.1)
            assert len(pipes.other.garbage) == 1
            assert pipes.other.introduced == []
            await pipes.a.send(b"still here")
            assert await pipes.b.recv(timeout=1.0) == b"still here"
            sock.close()

    virtually(main)


def test_what_is_remembered_of_the_past_is_bounded() -> None:
    async def main() -> None:
        side = Side(MemoryInternet().host("one", "198.51.100.1"), controlling=True)
        for number in range(2 * PAST_LIMIT):
            side.udp.retire(number.to_bytes(16, "big"))
        assert len(side.udp._past) == PAST_LIMIT
        side.udp.close()

    virtually(main)


def test_what_answers_a_client_ahead_is_given_out_once_by_the_flow_it_came_by() -> None:
    async def main() -> None:
        internet = MemoryInternet()
        side = Side(internet.host("one", "198.51.100.1"), controlling=True)
        client, flight = b"clientid", [b"\xe0\0\0\0\1\x08clientid" + bytes((number,)) for number in range(3)]
        other = Endpoint.of("198.51.100.9", 10)
        side.udp.expect_ahead(client)
        for data in flight:
            side.port.receive(data, PEER.sockaddr)
        side.port.receive(flight[0], other.sockaddr)
        assert side.udp.take_ahead(client, side.port, PEER.sockaddr) == flight
        assert side.udp.take_ahead(client, side.port, PEER.sockaddr) == []
        assert side.udp._held == len(flight[0])
        side.udp.end_ahead(client)
        assert side.udp._held == 0
        assert side.udp.strays == 0
        side.udp.close()

    virtually(main)


def test_what_arrives_together_is_handed_over_together_but_for_checks_and_other_connections() -> None:
    async def main() -> None:
        side = Side(MemoryInternet().host("one", "198.51.100.1"), controlling=True)
        port, key = side.port, PEER.sockaddr
        got: list[list[bytes]] = []
        port.route(key, [b"ours-id."], got.append)
        packets = [b"\x40ours-id." + bytes((number,)) * 30 for number in range(3)]
        assert port.take_run(packets, key)
        assert got == [packets]
        check = b"\0\1\0\x08" + COOKIE + bytes(31)
        other = b"\x40others-i" + bytes(30)
        for run in ([packets[0], check], [packets[0], other], [other, packets[0]]):
            assert not port.take_run(run, key)
        assert not port.take_run(packets, ("198.51.100.77", 5))
        assert got == [packets]
        port.unroute(key, [b"ours-id."], [].append)
        assert port.take_run(packets, key)
        port.unroute(key, [b"ours-id."], got.append)
        assert not port.take_run(packets, key)
        assert not port.in_use
        side.udp.close()

    virtually(main)
