"""The TURN client against a scripted server: logging in, staying alive, and believing nothing unproved."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpgate.model.endpoint import Endpoint, Family, Transport
from warpgate.model.turn_server import Credentials
from warpgate.proto.stun import (
    Attribute,
    ErrorCode,
    Integrity,
    Method,
    PasswordAlgorithm,
    StunClass,
    StunMessage,
    decode,
    encode,
    verify,
)
from warpgate.proto.turn import State, TurnClient
from warpgate.proto.turn_auth import opaque_string
from warpgate.proto.turn_events import (
    Allocated,
    AllocationEnded,
    AllocationFailed,
    ConnectRefused,
    DataReceived,
    PeerConnected,
    PeerRefused,
    TurnEvent,
)
from warpgate.proto.turn_wire import RelayRequest, pack_channel_data, unpack_channel_data

E = Endpoint.parse
RELAYED, RELAYED6 = E("198.51.100.9:50000"), E("[2001:db8::9]:50001")
PEER, OTHER = E("203.0.113.7:7000"), E("203.0.113.8:8000")
MD5_KEY = hashlib.md5(b"user:lab:password").digest()
SHA_KEY = hashlib.sha256(b"user:lab:password").digest()


class Server:
    """Holds a client and answers it: each method is one thing that the server says."""

    def __init__(self, wanted: RelayRequest | None = None, *, reliable: bool = False) -> None:
        numbers: Iterator[int] = count(1)
        self.now = 0.0
        self.key, self.integrity = MD5_KEY, Integrity.SHA1
        self.client = TurnClient(
            Credentials("user", "password"),
            wanted or RelayRequest(),
            0.0,
            reliable=reliable,
            new_transaction_id=lambda: next(numbers).to_bytes(12, "big"),
        )

    def sent(self) -> list[bytes]:
        return list(iter(self.client.poll_transmit, None))

    def requests(self) -> list[StunMessage]:
        return [decode(data) for data in self.sent() if data[0] < 0x40]

    def events(self) -> list[TurnEvent]:
        return list(iter(self.client.poll_event, None))

    def wait(self, until: float) -> list[tuple[float, StunMessage]]:
        """Let time pass in silence: what is asked, and when."""
        found = []
        while (due := self.client.poll_timeout()) is not None and due <= until:
            self.now = max(due, self.now)
            self.client.handle_timeout(self.now)
            found += [(self.now, request) for request in self.requests()]
        self.now = until
        return found

    def say(self, data: bytes) -> None:
        self.client.receive(data, self.now)

    def succeed(self, request: StunMessage, *attributes: tuple[int, object], key: bytes | None = None) -> None:
        message = StunMessage(request.method, StunClass.SUCCESS, request.transaction_id, attributes)
        self.say(encode(message, key=key or self.key, integrity=self.integrity))

    def refuse(self, request: StunMessage, code: int, *more: tuple[int, object], signed: bool = False) -> None:
        attributes = ((Attribute.ERROR_CODE, ErrorCode(code, "no")), *more)
        message = StunMessage(request.method, StunClass.ERROR, request.transaction_id, attributes)
        self.say(encode(message, key=self.key if signed else None, integrity=self.integrity))

    def challenge(self, request: StunMessage, nonce: bytes = b"n1", code: int = 401, **more: object) -> None:
        attributes = [(Attribute.REALM, "lab"), (Attribute.NONCE, nonce)]
        attributes += [(Attribute[name], value) for name, value in more.items()]
        self.refuse(request, code, *attributes)

    def allocate(self, lifetime: int = 600, *relayed: Endpoint) -> StunMessage:
        """Through the log-in to READY; the request that was granted."""
        self.challenge(self.requests()[-1])
        request = self.requests()[-1]
        addresses = [(Attribute.XOR_RELAYED_ADDRESS, endpoint) for endpoint in relayed or (RELAYED,)]
        self.succeed(request, *addresses, (Attribute.LIFETIME, lifetime))
        return request

    def grant_all(self) -> list[int]:
        """Say yes to whatever is asked; the methods."""
        requests = self.requests()
        for request in requests:
            more = ((Attribute.LIFETIME, 600),) if request.method == Method.REFRESH else ()
            self.succeed(request, *more)
        return [request.method for request in requests]


@pytest.fixture
def ready() -> Server:
    server = Server()
    server.allocate()
    server.events()
    return server


def relayed_from(peer: Endpoint, data: bytes) -> bytes:
    attributes = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data))
    return encode(StunMessage(Method.DATA, StunClass.INDICATION, bytes(12), attributes))


class TestLoggingIn:
    def test_the_first_request_is_bare_and_the_second_proves_the_password(self) -> None:
        server = Server()
        (first,) = server.requests()
        assert first.attributes == ((Attribute.REQUESTED_TRANSPORT, 17),)
        server.challenge(first)
        (data,) = server.sent()
        verify(data, MD5_KEY, Integrity.SHA1)
        second = decode(data)
        assert second.transaction_id != first.transaction_id
        assert [second.get(at) for at in (Attribute.USERNAME, Attribute.REALM, Attribute.NONCE)] == [
            "user",
            "lab",
            b"n1",
        ]

    def test_a_server_that_offers_sha_256_gets_it(self) -> None:
        server = Server()
        offered = (PasswordAlgorithm.MD5, PasswordAlgorithm.SHA256)
        server.challenge(server.requests()[0], b"obMatJos2AAABx", PASSWORD_ALGORITHMS=offered)
        (data,) = server.sent()
        verify(data, SHA_KEY, Integrity.SHA256)
        request = decode(data)
        assert request.get(Attribute.PASSWORD_ALGORITHM) == PasswordAlgorithm.SHA256
        assert request.get(Attribute.PASSWORD_ALGORITHMS) == offered
        server.key, server.integrity = SHA_KEY, Integrity.SHA256
        server.succeed(request, (Attribute.XOR_RELAYED_ADDRESS, RELAYED), (Attribute.LIFETIME, 600))
        assert server.client.state is State.READY

    @pytest.mark.parametrize(
        ("nonce", "more"),
        [
            (b"obMatJos2AAABx", {}),  # says that there are algorithms: somebody took them out
            (b"n", {"PASSWORD_ALGORITHMS": (77,)}),
            (b"", {}),
        ],
    )
    def test_a_challenge_that_cannot_be_answered_is_an_answer(self, nonce: bytes, more: dict[str, object]) -> None:
        server = Server()
        server.challenge(server.requests()[0], nonce, **more)
        assert server.sent() == []
        (failed,) = server.events()
        assert isinstance(failed, AllocationFailed)
        assert failed.code == 401

    def test_the_same_nonce_again_means_that_the_password_is_wrong(self) -> None:
        server = Server()
        server.challenge(server.requests()[0])
        server.challenge(server.requests()[0])
        assert server.sent() == []
        assert "user name or password" in server.events()[0].reason

    def test_a_server_that_never_has_enough_is_left(self) -> None:
        server = Server()
        for number in range(9):
            requests = server.requests()
            if requests:
                server.challenge(requests[0], f"n{number}".encode(), code=438)
        assert "nonce" in server.events()[0].reason

    def test_a_stale_nonce_costs_one_more_round_trip_and_nothing_else(self, ready: Server) -> None:
        ((_, refresh),) = [entry for entry in ready.wait(300) if entry[1].method == Method.REFRESH][:1]
        ready.challenge(refresh, b"n2", code=438)
        (again,) = ready.requests()
        assert (again.method, again.get(Attribute.NONCE)) == (Method.REFRESH, b"n2")
        ready.succeed(again, (Attribute.LIFETIME, 600))
        assert (ready.client.state, ready.events()) == (State.READY, [])

    def test_passwords_are_prepared_as_rfc_8265_says(self) -> None:
        assert opaque_string("p\u00a0a\u0308") == "p \u00e4"


class TestAllocating:
    @pytest.mark.parametrize(
        ("wanted", "attributes"),
        [
            (RelayRequest(), {Attribute.REQUESTED_TRANSPORT: 17}),
            (RelayRequest(Transport.TCP), {Attribute.REQUESTED_TRANSPORT: 6}),
            (
                RelayRequest(families=frozenset({Family.V6})),
                {Attribute.REQUESTED_TRANSPORT: 17, Attribute.REQUESTED_ADDRESS_FAMILY: Family.V6},
            ),
            (
                RelayRequest(families=frozenset(Family)),
                {Attribute.REQUESTED_TRANSPORT: 17, Attribute.ADDITIONAL_ADDRESS_FAMILY: Family.V6},
            ),
        ],
    )
    def test_what_is_asked_for(self, wanted: RelayRequest, attributes: dict[int, object]) -> None:
        (request,) = Server(wanted).requests()
        assert dict(request.attributes) == attributes

    def test_both_families_are_told(self) -> None:
        server = Server(RelayRequest(families=frozenset(Family)))
        server.allocate(600, RELAYED, RELAYED6)
        assert server.events() == [Allocated((RELAYED, RELAYED6), None, 600)]

    def test_an_address_of_a_family_that_nobody_asked_for_is_no_relay(self) -> None:
        server = Server()
        server.allocate(600, RELAYED6)
        assert isinstance(server.events()[0], AllocationFailed)

    @pytest.mark.parametrize("code", [400, 403, 437, 440, 441, 442, 486, 500, 508, 699])
    def test_errors_have_reasons(self, code: int) -> None:
        server = Server()
        server.challenge(server.requests()[0])
        server.refuse(server.requests()[0], code, signed=True)
        (failed,) = server.events()
        assert isinstance(failed, AllocationFailed)
        assert failed.code == code
        assert f"error {code}: no" in failed.reason
        assert server.client.poll_timeout() is None

    def test_another_server_is_named(self) -> None:
        server = Server()
        more = ((Attribute.ALTERNATE_SERVER, OTHER), (Attribute.ALTERNATE_DOMAIN, "b.example"))
        server.refuse(server.requests()[0], 300, *more)
        (failed,) = server.events()
        assert (failed.alternate, failed.domain) == (OTHER, "b.example")

    def test_silence_over_udp_is_repeated_into_and_over_a_stream_waited_for(self) -> None:
        udp, stream = Server(), Server(reliable=True)
        assert len(udp.wait(60)) == 4  # the first one, and three repetitions
        assert len(stream.wait(60)) == 1
        for server in (udp, stream):
            assert server.events() == [AllocationFailed("the server does not answer")]


class TestBelieving:
    def test_an_unsigned_or_wrongly_signed_success_is_nobodys(self) -> None:
        server = Server()
        server.challenge(server.requests()[0])
        (request,) = server.requests()
        granted = ((Attribute.XOR_RELAYED_ADDRESS, RELAYED), (Attribute.LIFETIME, 600))
        server.say(encode(StunMessage(request.method, StunClass.SUCCESS, request.transaction_id, granted)))
        server.succeed(request, *granted, key=b"another")
        assert (server.client.state, server.events()) == (State.ALLOCATING, [])
        server.succeed(request, *granted)
        assert server.client.state is State.READY

    def test_an_error_with_a_wrong_signature_is_nobodys(self, ready: Server) -> None:
        ((_, refresh),) = [entry for entry in ready.wait(300) if entry[1].method == Method.REFRESH][:1]
        error = ((Attribute.ERROR_CODE, ErrorCode(437)),)
        forged = StunMessage(refresh.method, StunClass.ERROR, refresh.transaction_id, error)
        ready.say(encode(forged, key=b"another", integrity=Integrity.SHA1))
        assert ready.client.state is State.READY

    def test_another_id_method_or_cookie_is_nobodys(self, ready: Server) -> None:
        ready.client.permit(PEER.ip, 0.0)
        (request,) = ready.requests()
        for method, tid in ((request.method, b"x" * 12), (Method.REFRESH, request.transaction_id)):
            message = StunMessage(method, StunClass.SUCCESS, tid, ((Attribute.LIFETIME, 0),))
            ready.say(encode(message, key=ready.key, integrity=ready.integrity))
        right = encode(
            StunMessage(
                request.method,
                StunClass.ERROR,
                request.transaction_id,
                ((Attribute.ERROR_CODE, ErrorCode(403)),),
            )
        )
        ready.say(right[:4] + b"\x00\x00\x00\x00" + right[8:])
        assert ready.events() == []

    def test_nothing_is_taken_for_a_peer_without_a_permission_of_ours(self, ready: Server) -> None:
        ready.say(relayed_from(PEER, b"data"))
        ready.say(pack_channel_data(0x4000, b"data", padded=False))
        assert ready.events() == []
        ready.client.permit(PEER.ip, 0.0)
        ready.say(relayed_from(PEER, b"data"))
        assert ready.events() == [DataReceived(PEER, b"data")]

    @given(st.lists(st.binary(max_size=120), max_size=5), st.integers(0, 3), st.booleans())
    def test_garbage_changes_nothing(self, garbage: list[bytes], start: int, reliable: bool) -> None:
        server = Server(reliable=reliable)
        if start:
            server.allocate()
            server.client.send(b"x", PEER, 0.0)
        server.events()
        state = server.client.state
        prefix = (b"", b"\x01\x01", b"\x40\x00", b"\x00\x17")[start]
        for data in garbage:
            server.say(prefix + data)
            server.say(prefix + len(data).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + data)
        assert server.client.state is state
        assert all(isinstance(event, DataReceived) for event in server.events())


class TestPeers:
    def test_the_permission_is_asked_for_in_front_of_the_first_datagram(self, ready: Server) -> None:
        ready.client.send(b"one", PEER, 0.0)
        ready.client.send(b"two", PEER, 0.0)
        methods = [decode(data).method for data in ready.sent()]
        assert methods == [Method.CREATE_PERMISSION, Method.SEND, Method.SEND]

    def test_a_peer_that_was_heard_gets_a_channel(self, ready: Server) -> None:
        ready.client.send(b"hello", PEER, 0.0)
        ready.grant_all()
        ready.say(relayed_from(PEER, b"hi"))
        (bind,) = ready.requests()
        assert (bind.method, bind.get(Attribute.CHANNEL_NUMBER)) == (Method.CHANNEL_BIND, 0x4000)
        ready.client.send(b"not yet", PEER, 0.0)
        assert decode(ready.sent()[0]).method == Method.SEND
        ready.succeed(bind)
        ready.client.send(b"now", PEER, 0.0)
        assert unpack_channel_data(ready.sent()[0]) == (0x4000, b"now")
        ready.events()
        ready.say(pack_channel_data(0x4000, b"back", padded=True))
        assert ready.events() == [DataReceived(PEER, b"back")]

    def test_on_streams_channel_data_is_padded(self) -> None:
        server = Server(reliable=True)
        server.allocate()
        server.client.send(b"x", PEER, 0.0)
        server.grant_all()
        server.say(relayed_from(PEER, b"hi"))
        server.grant_all()
        server.client.send(b"12345", PEER, 0.0)
        assert len(server.sent()[0]) == 12

    def test_a_forbidden_peer_is_told_once_and_not_asked_for_again_at_once(self, ready: Server) -> None:
        ready.client.send(b"x", PEER, 0.0)
        (request, _) = ready.requests()
        ready.refuse(request, 403, signed=True)
        (refused,) = ready.events()
        assert isinstance(refused, PeerRefused)
        assert "forbids" in refused.reason
        ready.client.send(b"y", PEER, 1.0)
        assert [request.method for request in ready.requests()] == [Method.SEND]

    def test_a_server_that_is_full_at_the_moment_is_asked_for_the_permission_again_soon(self, ready: Server) -> None:
        ready.client.send(b"x", PEER, 0.0)
        (request, _) = ready.requests()
        ready.refuse(request, 508, signed=True)
        assert ready.events() == []
        assert [(at, again.method) for at, again in ready.wait(2.1)] == [(2.0, Method.CREATE_PERMISSION)]

    def test_channels_do_not_run_out_by_a_peers_will(self, ready: Server) -> None:
        ready.client.permit(PEER.ip, 0.0)
        for port in range(1, 500):
            ready.say(relayed_from(Endpoint(PEER.ip, port), b"x"))
        assert sum(request.method == Method.CHANNEL_BIND for request in ready.requests()) == 64


class TestStaying:
    def test_renewal_may_be_asked_for_at_any_time_and_once(self, ready: Server) -> None:
        ready.client.renew(ready.now)
        ready.client.renew(ready.now)
        (request,) = ready.requests()
        assert request.method == Method.REFRESH
        assert ready.client.asking
        ready.succeed(request, (Attribute.LIFETIME, 600))
        assert (ready.client.asking, ready.events()) == (False, [])

    def test_everything_is_renewed_in_time_for_hours(self, ready: Server) -> None:
        """A second peer was only tried: its permission is left to expire."""
        client = ready.client
        client.send(b"x", PEER, 0.0)
        client.send(b"x", OTHER, 0.0)
        ready.grant_all()
        ready.say(relayed_from(PEER, b"x"))
        ready.grant_all()
        last: dict[tuple[int, object], float] = {}
        gaps: dict[tuple[int, object], float] = {}
        while ready.now < 6 * 3600:
            due = min(client.poll_timeout() or 1e9, ready.now + 15)
            ready.now = due
            client.handle_timeout(due)
            ready.say(pack_channel_data(0x4000, b"only the peer speaks", padded=False))
            for request in ready.requests():
                if request.cls is StunClass.INDICATION:
                    continue
                key = request.method, request.endpoint(Attribute.XOR_PEER_ADDRESS)
                gaps[key] = max(gaps.get(key, 0.0), ready.now - last.get(key, 0.0))
                last[key] = ready.now
                ready.succeed(request, (Attribute.LIFETIME, 600))
            assert all(isinstance(event, DataReceived) for event in ready.events())
        assert gaps.pop((Method.REFRESH, None)) <= 300
        assert gaps.pop((Method.CREATE_PERMISSION, Endpoint(PEER.ip, 0))) < 300
        assert gaps.pop((Method.CHANNEL_BIND, PEER)) < 600
        assert gaps.pop((Method.CREATE_PERMISSION, Endpoint(OTHER.ip, 0))) < 300
        assert gaps == {}
        assert last[Method.CREATE_PERMISSION, Endpoint(OTHER.ip, 0)] < 400

    def test_the_nats_on_the_way_to_the_server_see_traffic(self, ready: Server) -> None:
        kept = [at for at, message in ready.wait(100) if message.method == Method.BINDING]
        assert kept == [20.0, 40.0, 60.0, 80.0, 100.0]

    def test_a_server_that_has_trouble_is_asked_again_until_the_allocation_is_over(self, ready: Server) -> None:
        refreshes = []
        while ready.client.state is State.READY:
            for at, message in ready.wait(ready.now + 1):
                if message.method == Method.REFRESH:
                    refreshes.append(at)
                    ready.refuse(message, 500, signed=True)
        assert refreshes[0] == 300
        assert len(refreshes) > 10
        assert ready.now == pytest.approx(600, abs=1)
        (ended,) = ready.events()
        assert isinstance(ended, AllocationEnded)
        assert ended.lost

    @pytest.mark.parametrize(("code", "word"), [(437, "mismatch"), (441, "credentials")])
    def test_an_allocation_that_the_server_does_not_know_is_lost_at_once(
        self, ready: Server, code: int, word: str
    ) -> None:
        ((_, refresh),) = [entry for entry in ready.wait(300) if entry[1].method == Method.REFRESH][:1]
        ready.refuse(refresh, code, signed=True)
        (ended,) = ready.events()
        assert ended.lost
        assert word in ended.reason

    @pytest.mark.parametrize("method", [Method.CREATE_PERMISSION, Method.CHANNEL_BIND, Method.REFRESH])
    def test_a_server_that_has_forgotten_it_says_so_to_whatever_is_asked(self, ready: Server, method: Method) -> None:
        ready.client.permit(PEER.ip, 0.0)
        if method != Method.CREATE_PERMISSION:
            assert ready.grant_all() == [Method.CREATE_PERMISSION]
            ready.say(relayed_from(PEER, b"x"))
            ready.client.renew(0.0)
        (request,) = [request for request in ready.requests() if request.method == method]
        ready.events()
        ready.refuse(request, 437)
        (ended,) = ready.events()
        assert isinstance(ended, AllocationEnded)
        assert ended.lost
        assert (ready.client.state, ready.client.asking) == (State.ENDED, False)

    def test_coturn_is_asked_again_when_it_finds_fault_with_a_permission(self, ready: Server) -> None:
        """That is its 437. What a server that always finds fault can have of us is a question a second."""
        for number in range(9):
            ready.client.permit(Endpoint(PEER.ip + number, 1).ip, 0.0)
        asked = ready.requests()
        for request in asked:
            ready.refuse(request, 400)
        (refresh,) = ready.requests()
        assert (len(asked), refresh.method) == (9, Method.REFRESH)
        ready.events()
        ready.refuse(refresh, 437)
        assert [type(event) for event in ready.events()] == [AllocationEnded]

    def test_a_call_by_an_allocation_that_is_over_is_refused(self) -> None:
        tcp = Server(RelayRequest(Transport.TCP), reliable=True)
        tcp.allocate()
        tcp.client.connect(PEER, 0.0)
        permission, _ = tcp.requests()
        tcp.events()
        tcp.refuse(permission, 437)
        refused, ended = tcp.events()
        assert isinstance(refused, ConnectRefused)
        assert (refused.peer, isinstance(ended, AllocationEnded)) == (PEER, True)

    def test_closing_gives_it_back_and_is_repeated_until_answered(self, ready: Server) -> None:
        ready.client.close(1.0)
        (release,) = ready.requests()
        assert (release.method, release.number(Attribute.LIFETIME)) == (Method.REFRESH, 0)
        ready.client.send(b"late", PEER, 1.0)
        assert ready.sent() == []
        ready.succeed(release, (Attribute.LIFETIME, 0))
        assert ready.events() == [AllocationEnded("closed", lost=False)]
        assert ready.client.poll_timeout() is None

    def test_closing_while_allocating_gives_back_what_may_be_on_its_way(self) -> None:
        server = Server()
        server.challenge(server.requests()[0])
        server.requests()
        server.client.close(0.1)
        (release,) = server.requests()
        assert release.number(Attribute.LIFETIME) == 0
        before = Server()
        before.sent()
        before.client.close(0.1)
        assert (before.sent(), before.events()) == ([], [AllocationEnded("closed", lost=False)])


class TestStreams:
    @pytest.fixture
    def tcp(self) -> Server:
        server = Server(RelayRequest(Transport.TCP), reliable=True)
        server.allocate()
        server.events()
        return server

    def test_the_server_connects_when_asked(self, tcp: Server) -> None:
        tcp.client.connect(PEER, 0.0)
        permission, connect = tcp.requests()
        assert (permission.method, connect.method) == (Method.CREATE_PERMISSION, Method.CONNECT)
        tcp.succeed(connect, (Attribute.CONNECTION_ID, 7))
        assert tcp.events() == [PeerConnected(PEER, 7, asked=True)]

    @pytest.mark.parametrize("answer", [lambda s, r: s.refuse(r, 447, signed=True), lambda s, r: s.succeed(r)])
    def test_or_says_why_not(self, tcp: Server, answer: Callable[[Server, StunMessage], None]) -> None:
        tcp.client.connect(PEER, 0.0)
        answer(tcp, tcp.requests()[1])
        assert isinstance(tcp.events()[0], ConnectRefused)

    def test_calls_come_from_permitted_peers_only(self, tcp: Server) -> None:
        def call(peer: Endpoint) -> bytes:
            attributes = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.CONNECTION_ID, 9))
            return encode(StunMessage(Method.CONNECTION_ATTEMPT, StunClass.INDICATION, bytes(12), attributes))

        tcp.client.permit(PEER.ip, 0.0)
        tcp.say(call(OTHER))
        tcp.say(call(PEER))
        assert tcp.events() == [PeerConnected(PEER, 9, asked=False)]

    def test_a_udp_relay_connects_nobody(self, ready: Server) -> None:
        ready.client.connect(PEER, 0.0)
        assert isinstance(ready.events()[0], ConnectRefused)


# -- what the server's machine says ------------------------------------------------------------------------------


def test_a_server_that_is_gone_is_over_within_four_seconds() -> None:
    server = Server()
    server.allocate()
    server.events()
    server.client.refused(0.0)
    for _ in server.requests():
        server.client.refused(0.0)
    while server.client.state is not State.ENDED:
        if server.wait(server.now + 0.05):
            server.client.refused(server.now)
    assert 3.0 <= server.now < 4.0
    assert server.events() == [AllocationEnded("nobody listens there any more", lost=True)]


def test_silence_without_refusals_is_borne_until_the_allocation_expires() -> None:
    server = Server()
    server.allocate()
    server.client.refused(0.0)
    server.wait(500.0)
    assert server.client.state is State.READY


def test_a_server_that_answers_is_not_gone_whatever_is_forged() -> None:
    server = Server()
    server.allocate()
    questions = 0
    for _ in range(6_000):
        server.client.refused(server.now)
        server.now += 0.01
        for request in server.requests():
            questions += 1
            server.succeed(request, (Attribute.LIFETIME, 600))
    assert server.client.state is State.READY
    assert questions <= 61
