"""The relay's rules, from both sides: our own TURN client served, and what each kind of attacker gets."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay_kit import EPOCH, OTHER_OWN, OWN, Client, Relayed, RelayKit

from warpgate.model.endpoint import Endpoint, Family, Transport
from warpgate.proto.relay_limits import MEBIBYTE, RelayLimits
from warpgate.proto.relay_server import OVERHEAD, SOURCE_BURST, SWEEP
from warpgate.proto.relay_state import DropCall, JoinStreams, Path
from warpgate.proto.stun import Attribute, Method, StunClass, StunMessage, decode, encode
from warpgate.proto.turn_events import DataReceived
from warpgate.proto.turn_wire import pack_channel_data, pack_send

E = Endpoint.parse
PEER, SECOND = E("192.0.2.7:7000"), E("192.0.2.8:8000")
UDP = (Attribute.REQUESTED_TRANSPORT, 17)
TCP = (Attribute.REQUESTED_TRANSPORT, 6)
SWEPT = SWEEP + 1


def peer(endpoint: Endpoint) -> tuple[int, Endpoint]:
    return (Attribute.XOR_PEER_ADDRESS, endpoint)


def code(answer: StunMessage) -> int:
    """0 for a success."""
    return 0 if answer.error is None else answer.error.code


def allocated(kit: RelayKit, *attributes: tuple[int, object], **client: object) -> Client:
    made = Client(kit, **client)  # type: ignore[arg-type]
    assert code(made.ask(Method.ALLOCATE, *(attributes or (UDP,)))) == 0
    return made


class TestOurClient:
    def test_data_goes_both_ways_first_by_indication_then_by_channel(self) -> None:
        kit = RelayKit()
        client = Relayed(kit)
        assert client.relayed == Endpoint(OWN, 50000)
        client.send(b"hello", PEER)
        assert kit.to_peers == [(b"hello", PEER.sockaddr)]
        for data in (b"one", b"two"):
            kit.server.from_peer(client.allocation, data, PEER.sockaddr, kit.now)
            kit.drain()
            client.talk()
        assert [event for event in client.events if isinstance(event, DataReceived)] == [
            DataReceived(PEER, b"one"),
            DataReceived(PEER, b"two"),
        ]
        assert kit.inbox[client.path][-1][0] == 0x40
        client.send(b"there", PEER)
        assert kit.to_peers[-1] == (b"there", PEER.sockaddr)

    def test_a_peer_without_permission_is_not_heard(self) -> None:
        kit = RelayKit()
        client = Relayed(kit)
        client.send(b"hello", PEER)
        kit.server.from_peer(client.allocation, b"unasked", SECOND.sockaddr, kit.now)
        kit.drain()
        assert kit.server.counters.dropped_permission == 1

    def test_two_allocations_reach_each_other_inside(self) -> None:
        kit = RelayKit()
        a, b = Relayed(kit), Relayed(kit, port=4001)
        a.send(b"to b", b.relayed)  # b has not permitted it yet
        b.send(b"to a", a.relayed)
        a.send(b"to b", b.relayed)
        a.talk()
        b.talk()
        assert [event.data for event in a.events if isinstance(event, DataReceived)] == [b"to a"]
        assert [event.data for event in b.events if isinstance(event, DataReceived)] == [b"to b"]
        assert kit.to_peers == []

    def test_closing_gives_the_port_back(self) -> None:
        kit = RelayKit()
        client = Relayed(kit)
        client.machine.close(kit.now)
        client.talk()
        assert kit.server.allocations == {}
        assert kit.closed() == 1


class TestFloods:
    def test_an_unauthenticated_request_leaves_nothing_behind_and_is_not_amplified(self) -> None:
        """With IP and UDP headers of 28 bytes a forged address gets less than three times what was sent for it."""
        kit = RelayKit()
        request = encode(StunMessage(Method.ALLOCATE, StunClass.REQUEST, bytes(12), (UDP,)))
        (answer,) = kit.receive(request, Path(0, "203.0.113.9", 1))
        assert len(answer) + OVERHEAD < 3 * (len(request) + OVERHEAD)
        assert kit.server.allocations == {}
        assert kit.server.poll_timeout() is None

    def test_a_forged_address_gets_no_more_than_its_rate(self) -> None:
        kit = RelayKit()
        request = encode(StunMessage(Method.ALLOCATE, StunClass.REQUEST, bytes(12), (UDP,)))
        answers = [kit.receive(request, Path(0, "203.0.113.9", port)) for port in range(1, 1001)]
        assert sum(map(len, answers)) == SOURCE_BURST
        assert kit.receive(request, Path(0, "203.0.113.10", 1))
        assert kit.server.counters.limited == 1000 - SOURCE_BURST

    def test_a_connection_cannot_be_answered_more_often_either(self) -> None:
        kit = RelayKit()
        request = encode(StunMessage(Method.BINDING, StunClass.REQUEST, bytes(12)))
        answers = [kit.receive(request, Path(0, "203.0.113.9", 1, 7)) for _ in range(1000)]
        assert sum(map(len, answers)) == SOURCE_BURST

    @given(st.binary(max_size=120), st.booleans())
    def test_garbage_is_passed_over(self, data: bytes, known: bool) -> None:
        kit = RelayKit()
        path = Relayed(kit).path if known else Path(0, "203.0.113.77", 5)
        kit.receive(data, path)
        kit.receive(data[:1] + data[1:].ljust(20, b"\0"), path)
        assert len(kit.server.allocations) == known


class TestLoggingIn:
    def test_a_wrong_secret(self) -> None:
        assert code(Client(RelayKit(), secret="south").ask(Method.ALLOCATE, UDP)) == 401

    def test_an_md5_client_of_old_is_served(self) -> None:
        kit = RelayKit()
        client = Client(kit)
        challenge = client.ask_once(Method.ALLOCATE, UDP)
        old = StunMessage(
            challenge.method,
            challenge.cls,
            challenge.transaction_id,
            (
                (Attribute.REALM, challenge.text(Attribute.REALM)),
                (Attribute.NONCE, b"obMatJos2AAAA" + challenge.raw(Attribute.NONCE)[13:]),
            ),
        )
        client.auth.challenged(old)
        assert code(client.ask_once(Method.ALLOCATE, UDP)) == 0

    def test_expired_credentials(self) -> None:
        kit = RelayKit()
        client = Client(kit)
        kit.now += 86400 + 301
        assert code(client.ask(Method.ALLOCATE, UDP)) == 401

    def test_an_allocation_outlives_the_credentials_that_made_it(self) -> None:
        kit = RelayKit()
        client = allocated(kit)
        for _ in range(200):
            kit.pass_time(500)
            assert code(client.ask(Method.REFRESH)) == 0
        assert kit.now > 86400 + 301

    def test_a_user_name_without_a_time(self) -> None:
        kit = RelayKit()
        for user in ("", "warpgate", "99999999999999999999:x", "-5:x", "\u0664:x"):
            assert kit.admission.expired(user)
        assert not kit.admission.expired(f"{int(EPOCH) + 500}:anybody")

    @pytest.mark.parametrize("nonce", [b"x", b"obMatJos2AAAB", b"obMatJos2AAAB" + b"A" * 20, b"\xff" * 40])
    def test_an_invented_nonce_is_stale(self, nonce: bytes) -> None:
        kit = RelayKit()
        client = allocated(kit)
        client.auth.challenged(
            StunMessage(
                Method.ALLOCATE,
                StunClass.ERROR,
                bytes(12),
                (
                    (Attribute.REALM, "warpgate"),
                    (Attribute.NONCE, nonce),
                    (Attribute.PASSWORD_ALGORITHMS, (2, 1)),
                ),
            )
        )
        assert code(client.ask_once(Method.REFRESH)) == 438

    def test_a_nonce_is_good_at_its_address_and_for_its_time(self) -> None:
        kit = RelayKit()
        client, thief = allocated(kit), Client(kit, host="203.0.113.66")
        thief.auth = client.auth
        assert code(thief.ask_once(Method.ALLOCATE, UDP)) == 438
        kit.now += 500
        assert code(client.ask_once(Method.REFRESH, (Attribute.LIFETIME, 3600))) == 0
        kit.now += 1300
        assert code(client.ask_once(Method.REFRESH)) == 438
        assert code(client.ask(Method.REFRESH)) == 0

    def test_another_user_cannot_use_the_same_path(self) -> None:
        kit = RelayKit()
        client = allocated(kit)
        other = Client(kit, name="other")
        assert code(other.ask(Method.REFRESH, (Attribute.LIFETIME, 0))) == 441
        assert client.allocation.relayed

    def test_a_shortened_list_of_algorithms_is_refused(self) -> None:
        """Bid-down protection (RFC 8489 section 9.2.4)."""
        kit = RelayKit()
        client = Client(kit)
        challenge = client.ask_once(Method.ALLOCATE, UDP)
        cut = tuple(
            (number, (1,) if number == Attribute.PASSWORD_ALGORITHMS else value)
            for number, value in challenge.attributes
        )
        client.auth.challenged(StunMessage(challenge.method, challenge.cls, bytes(12), cut))
        assert code(client.ask_once(Method.ALLOCATE, UDP)) == 400

    def test_the_features_are_in_the_nonce(self) -> None:
        nonce = RelayKit().admission.nonce("192.0.2.1")
        assert nonce.startswith(b"obMatJos2")
        assert base64.b64decode(nonce[9:13])[2] & 1


class TestPeers:
    @pytest.mark.parametrize(
        "ip",
        [
            "10.0.0.1", "172.16.5.5", "192.168.1.1", "100.64.0.1", "127.0.0.1", "0.0.0.0", "169.254.169.254",
            "224.0.0.1", "255.255.255.255", "192.0.0.8", "198.18.0.1", str(OTHER_OWN),
        ],
    )  # fmt: skip
    def test_nobody_is_led_inside(self, ip: str) -> None:
        kit = RelayKit()
        client = allocated(kit)
        for port in (0, 22):
            assert code(client.ask(Method.CREATE_PERMISSION, peer(Endpoint.of(ip, port)))) == 403
        bind = (Attribute.CHANNEL_NUMBER, 0x4000), peer(Endpoint.of(ip, 22))
        assert code(client.ask(Method.CHANNEL_BIND, *bind)) == 403
        kit.receive(pack_send(bytes(12), Endpoint.of(ip, 22), b"x"), client.path)
        assert kit.to_peers == []
        assert client.allocation.permissions == {}

    @pytest.mark.parametrize(
        "ip",
        [
            "::1", "::", "fe80::1", "fc00::1", "ff02::1", "fec0::1",
            "64:ff9b::10.0.0.1", "64:ff9b::198.51.100.2", "64:ff9b:1::1",
            "2002:a00:1::1", "2002:c633:6402::1", "::10.0.0.1", "::ffff:0:10.0.0.1",
            "2001:0:a00:1::1",
        ],
    )  # fmt: skip
    def test_ipv4_inside_ipv6_leads_nowhere_else(self, ip: str) -> None:
        kit = RelayKit()
        client = allocated(kit, UDP, (Attribute.REQUESTED_ADDRESS_FAMILY, Family.V6))
        assert code(client.ask(Method.CREATE_PERMISSION, peer(Endpoint.of(ip, 22)))) == 403

    def test_its_own_ports_are_reached_nowhere_but_at_other_allocations(self) -> None:
        kit = RelayKit()
        client = allocated(kit)
        assert code(client.ask(Method.CREATE_PERMISSION, peer(Endpoint(OWN, 0)))) == 0
        for port in (22, 3478, 3480, 8421, 50001):
            kit.receive(pack_send(bytes(12), Endpoint(OWN, port), b"x"), client.path)
        assert kit.to_peers == []
        assert kit.inbox[client.path][-1][0] != 0x17

    def test_a_datagram_to_oneself_comes_back_once(self) -> None:
        kit = RelayKit()
        client = Relayed(kit)
        client.send(b"echo", client.relayed)
        assert [event.data for event in client.events if isinstance(event, DataReceived)] == [b"echo"]
        assert kit.server.counters.bytes_to_peers == 4

    def test_networks_that_the_owner_named(self) -> None:
        kit = RelayKit(allowed=("10.1.0.0/16",))
        client = allocated(kit)
        assert code(client.ask(Method.CREATE_PERMISSION, peer(E("10.1.2.3:0")))) == 0
        assert code(client.ask(Method.CREATE_PERMISSION, peer(E("10.2.2.3:0")))) == 403

    def test_all_peers_of_a_request_or_none(self) -> None:
        kit = RelayKit()
        client = allocated(kit)
        assert code(client.ask(Method.CREATE_PERMISSION, peer(PEER), peer(E("10.0.0.1:1")))) == 403
        assert client.allocation.permissions == {}


class TestBounds:
    def test_allocations_of_a_user_and_in_all(self) -> None:
        limits = RelayLimits(allocations_per_user=2, allocations=3)
        kit = RelayKit(limits=limits)
        for port in (1, 2):
            allocated(kit, port=port)
        assert code(Client(kit, port=3).ask(Method.ALLOCATE, UDP)) == 486
        assert code(Client(kit, port=4, name="another-name").ask(Method.ALLOCATE, UDP)) == 486
        third = allocated(kit, host="203.0.113.10")
        assert code(Client(kit, host="203.0.113.11").ask(Method.ALLOCATE, UDP)) == 508
        assert code(third.ask(Method.REFRESH, (Attribute.LIFETIME, 0))) == 0
        allocated(kit, host="203.0.113.11")

    def test_an_ipv6_customer_is_one_user(self) -> None:
        kit = RelayKit(limits=RelayLimits(allocations_per_user=1))
        allocated(kit, host="2001:db8:7:100::1")
        assert code(Client(kit, host="2001:db8:7:1ff::2").ask(Method.ALLOCATE, UDP)) == 486
        allocated(kit, host="2001:db8:7:200::1")

    def test_permissions_and_channels(self) -> None:
        kit = RelayKit(limits=RelayLimits(permissions=3, channels=2))
        client = allocated(kit)
        for last in (1, 2, 3):
            assert code(client.ask(Method.CREATE_PERMISSION, peer(E(f"192.0.2.{last}:0")))) == 0
        assert code(client.ask(Method.CREATE_PERMISSION, peer(E("192.0.2.4:0")))) == 508
        for number in (0, 1):
            bind = (Attribute.CHANNEL_NUMBER, 0x4000 + number), peer(E(f"192.0.2.1:{7000 + number}"))
            assert code(client.ask(Method.CHANNEL_BIND, *bind)) == 0
        bind = (Attribute.CHANNEL_NUMBER, 0x4002), peer(E("192.0.2.1:7002"))
        assert code(client.ask(Method.CHANNEL_BIND, *bind)) == 508
        kit.now += 301
        assert code(client.ask(Method.CREATE_PERMISSION, peer(E("192.0.2.4:0")))) == 0
        client.ask(Method.REFRESH)
        kit.now += 301
        client.ask(Method.REFRESH)
        assert code(client.ask(Method.CHANNEL_BIND, *bind)) == 0

    def test_over_its_rate_a_user_loses_datagrams_and_others_do_not(self) -> None:
        kit = RelayKit(limits=RelayLimits(bytes_per_second_per_user=10_000.0, bytes_per_second=MEBIBYTE))
        flooder, other = Relayed(kit), Relayed(kit, host="203.0.113.10")
        for client in (flooder, other):
            client.send(b"first", PEER)
        kit.to_peers.clear()
        for _ in range(100):
            flooder.send(bytes(1000 - OVERHEAD), PEER)
        assert len(kit.to_peers) == 10
        other.send(b"unharmed", PEER)
        assert kit.to_peers[-1][0] == b"unharmed"
        kit.now += 0.5
        for _ in range(100):
            flooder.send(bytes(1000 - OVERHEAD), PEER)
        assert len(kit.to_peers) in (15, 16)
        assert kit.server.counters.dropped_rate > 180

    def test_users_together_have_the_rate_of_all(self) -> None:
        limits = RelayLimits(bytes_per_second_per_user=10_000.0, bytes_per_second=20_000.0)
        kit = RelayKit(limits=limits)
        users = [Relayed(kit, host=f"203.0.113.{number}") for number in range(10, 16)]
        for _ in range(10):
            for user in users:
                user.send(bytes(1000 - OVERHEAD), PEER)
        assert len(kit.to_peers) in (20, 21)

    def test_empty_datagrams_are_not_free(self) -> None:
        kit = RelayKit(limits=RelayLimits(bytes_per_second_per_user=2800.0))
        client = Relayed(kit)
        for _ in range(500):
            client.send(b"", PEER)
        assert len(kit.to_peers) <= 101

    def test_a_days_amount_is_not_had_again_by_giving_back(self) -> None:
        kit = RelayKit(limits=RelayLimits(bytes_per_day_per_user=5000.0))
        for port in range(1, 6):
            client = Relayed(kit, port=port)
            for _ in range(10):
                client.send(bytes(1000 - OVERHEAD), PEER)
            client.machine.close(kit.now)
            client.talk()
            kit.pass_time(60)
        assert 5 <= len(kit.to_peers) <= 6
        kit.pass_time(2 * 86400)
        assert kit.server.poll_timeout() is None

    def test_no_port_left(self) -> None:
        kit = RelayKit()
        kit.ports = False
        assert code(Client(kit).ask(Method.ALLOCATE, UDP)) == 508
        assert kit.server.allocations == {}

    def test_the_largest_datagrams_that_fit_no_indication_are_lost(self) -> None:
        kit = RelayKit()
        client = Relayed(kit)
        client.send(b"x", PEER)
        kit.server.from_peer(client.allocation, bytes(65_527), PEER.sockaddr, kit.now)
        assert kit.server.counters.ignored == 1


class TestLifetimes:
    def test_permissions_channels_and_allocations_end_by_themselves(self) -> None:
        kit = RelayKit()
        client = allocated(kit, UDP, (Attribute.LIFETIME, 3600))
        bind = (Attribute.CHANNEL_NUMBER, 0x4000), peer(PEER)
        assert code(client.ask(Method.CHANNEL_BIND, *bind)) == 0
        frame = pack_channel_data(0x4000, b"x", padded=False)
        for passed, through in ((299, 1), (2, 1)):
            kit.now += passed
            kit.receive(frame, client.path)
            assert len(kit.to_peers) == through
        assert code(client.ask(Method.CREATE_PERMISSION, peer(PEER))) == 0
        kit.receive(frame, client.path)
        assert len(kit.to_peers) == 2
        kit.now += 299.5
        kit.receive(frame, client.path)
        assert len(kit.to_peers) == 2  # the channel is over, whatever permits the peer
        kit.now += 3600
        assert code(client.ask(Method.CREATE_PERMISSION, peer(PEER))) == 437
        assert kit.closed() == 1

    @pytest.mark.parametrize(("wanted", "given"), [(None, 600), (1, 600), (2000, 2000), (10**6, 3600)])
    def test_lifetimes_are_bounded(self, wanted: int | None, given: int) -> None:
        lifetime = () if wanted is None else ((Attribute.LIFETIME, wanted),)
        kit = RelayKit()
        client = Client(kit)
        assert client.ask(Method.ALLOCATE, UDP, *lifetime).number(Attribute.LIFETIME) == given
        kit.pass_time(given - 1)
        assert kit.server.allocations
        kit.pass_time(SWEPT)
        assert not kit.server.allocations

    def test_a_stream_takes_its_allocation_along(self) -> None:
        kit = RelayKit()
        client = allocated(kit, stream=3)
        kit.server.gone(client.path)
        kit.drain()
        assert kit.closed() == 1


class TestRequests:
    def test_a_repetition_gets_the_same_answer(self) -> None:
        kit = RelayKit()
        client = allocated(kit)
        first = kit.inbox[client.path][-1]
        made = client.allocation.asked.message
        again = StunMessage(made.method, made.cls, made.transaction_id, (UDP,))
        assert kit.receive(client.auth.seal(again), client.path) == [first]
        assert code(client.ask(Method.ALLOCATE, UDP)) == 437

    @pytest.mark.parametrize(
        ("attributes", "expected"),
        [
            ((), 400),
            (((Attribute.REQUESTED_TRANSPORT, 33),), 442),
            ((TCP,), 400),  # over datagrams
            ((UDP, (Attribute.EVEN_PORT, True)), 508),
            ((UDP, (Attribute.RESERVATION_TOKEN, bytes(8))), 508),
            ((UDP, (Attribute.DONT_FRAGMENT, True)), 420),
            ((UDP, (0x7001, b"")), 420),
            (
                (
                    UDP,
                    (Attribute.REQUESTED_ADDRESS_FAMILY, Family.V4),
                    (Attribute.ADDITIONAL_ADDRESS_FAMILY, Family.V6),
                ),
                400,
            ),
            ((UDP, (Attribute.ADDITIONAL_ADDRESS_FAMILY, Family.V4)), 400),
        ],
    )
    def test_allocations_that_cannot_be(self, attributes: tuple, expected: int) -> None:
        kit = RelayKit()
        assert code(Client(kit).ask(Method.ALLOCATE, *attributes)) == expected
        assert kit.server.allocations == {}

    def test_both_families_and_one_given_back(self) -> None:
        kit = RelayKit()
        client = allocated(kit, UDP, (Attribute.ADDITIONAL_ADDRESS_FAMILY, Family.V6))
        assert set(client.allocation.relayed) == {Family.V4, Family.V6}
        end = (Attribute.LIFETIME, 0), (Attribute.REQUESTED_ADDRESS_FAMILY, Family.V6)
        assert code(client.ask(Method.REFRESH, *end)) == 0
        assert set(client.allocation.relayed) == {Family.V4}
        assert code(client.ask(Method.CREATE_PERMISSION, peer(E("[2001:db8:9::1]:1")))) == 443
        assert code(client.ask(Method.REFRESH, *end)) == 443

    @pytest.mark.parametrize("number", [0x3FFF, 0x5000, 0x7FFF, None])
    def test_channel_numbers(self, number: int | None) -> None:
        client = allocated(RelayKit())
        given = () if number is None else ((Attribute.CHANNEL_NUMBER, number),)
        assert code(client.ask(Method.CHANNEL_BIND, *given, peer(PEER))) == 400

    def test_a_channel_belongs_to_one_peer_and_a_peer_to_one_channel(self) -> None:
        client = allocated(RelayKit())
        for number, whom, expected in (
            (0x4000, PEER, 0),
            (0x4000, PEER, 0),
            (0x4000, SECOND, 400),
            (0x4001, PEER, 400),
            (0x4001, SECOND, 0),
            (0x4001, PEER, 400),
        ):
            bind = (Attribute.CHANNEL_NUMBER, number), peer(whom)
            assert code(client.ask(Method.CHANNEL_BIND, *bind)) == expected

    def test_a_channel_of_another_client_is_of_no_use(self) -> None:
        kit = RelayKit()
        client, other = allocated(kit), allocated(kit, port=4001)
        bind = (Attribute.CHANNEL_NUMBER, 0x4000), peer(PEER)
        assert code(client.ask(Method.CHANNEL_BIND, *bind)) == 0
        kit.receive(pack_channel_data(0x4000, b"x", padded=False), other.path)
        kit.receive(b"\x40\x00\x00\x09x", client.path)  # announces more than it has
        assert kit.to_peers == []


class TestStreamsOfPeers:
    def test_a_call_is_bound_once_by_the_user_who_was_called(self) -> None:
        kit = RelayKit()
        client = allocated(kit, TCP, stream=1)
        assert code(client.ask(Method.CREATE_PERMISSION, peer(PEER))) == 0
        assert kit.server.called(client.allocation, SECOND, kit.now) is None
        call = kit.server.called(client.allocation, PEER, kit.now)
        assert call is not None
        kit.drain()
        told = decode(kit.inbox[client.path][-1])
        number = (Attribute.CONNECTION_ID, told.number(Attribute.CONNECTION_ID))
        assert (told.endpoint(Attribute.XOR_PEER_ADDRESS), number[1]) == (PEER, call.number)
        thief = Client(kit, host="203.0.113.66", stream=2, name="thief")
        assert code(thief.ask(Method.CONNECTION_BIND, number)) == 400
        assert code(Client(kit, port=9).ask(Method.CONNECTION_BIND, number)) == 400  # datagrams
        data, again = Client(kit, port=4001, stream=3), Client(kit, port=4002, stream=4)
        assert code(data.ask(Method.CONNECTION_BIND, number)) == 0
        assert JoinStreams(data.path, call) in kit.events
        assert code(again.ask(Method.CONNECTION_BIND, number)) == 400

    @pytest.mark.parametrize(
        ("target", "expected"),
        [("10.0.0.1:80", 403), (f"{OWN}:22", 403), (f"{OTHER_OWN}:22", 403), ("192.0.2.7:0", 400)],
    )
    def test_whom_it_does_not_dial(self, target: str, expected: int) -> None:
        kit = RelayKit()
        client = allocated(kit, TCP, stream=1)
        assert code(client.ask(Method.CONNECT, peer(E(target)))) == expected

    def test_dialling_a_peer(self) -> None:
        kit = RelayKit()
        client = Relayed(kit, stream=1, transport=Transport.TCP)
        client.machine.connect(PEER, kit.now)
        client.talk()
        kit.dialled(connected=True)
        client.talk()
        client.machine.connect(PEER, kit.now)
        client.talk()
        client.machine.connect(SECOND, kit.now)
        client.talk()
        kit.dialled(connected=False)
        client.talk()
        said = [type(event).__name__ for event in client.events]
        assert said == ["Allocated", "PeerConnected", "ConnectRefused", "ConnectRefused"]
        assert "446" in client.events[2].reason
        assert "447" in client.events[3].reason

    def test_what_nobody_takes_is_dropped_in_time(self) -> None:
        kit = RelayKit(limits=RelayLimits(calls=2))
        client = allocated(kit, TCP, stream=1)
        client.ask(Method.CREATE_PERMISSION, peer(PEER))
        calls = [kit.server.called(client.allocation, Endpoint(PEER.ip, port), kit.now) for port in (1, 2, 3)]
        assert [call is not None for call in calls] == [True, True, False]
        kit.pass_time(31)
        assert [event.call for event in kit.events if isinstance(event, DropCall)] == calls[:2]
        assert kit.server.calls == {}
        assert client.allocation.calls == {}

    def test_streams_of_an_allocation_are_bounded_joined_ones_too(self) -> None:
        kit = RelayKit(limits=RelayLimits(streams=3))
        client = allocated(kit, TCP, stream=1)
        client.ask(Method.CREATE_PERMISSION, peer(PEER))
        for port in (1, 2, 3):
            call = kit.server.called(client.allocation, Endpoint(PEER.ip, port), kit.now)
            assert call is not None
            data = Client(kit, port=4000 + port, stream=1 + port)
            assert code(data.ask(Method.CONNECTION_BIND, (Attribute.CONNECTION_ID, call.number))) == 0
        assert kit.server.called(client.allocation, Endpoint(PEER.ip, 4), kit.now) is None

    def test_a_stream_waits_where_a_datagram_is_lost(self) -> None:
        kit = RelayKit(limits=RelayLimits(bytes_per_second_per_user=1000.0))
        client = allocated(kit, TCP, stream=1)
        client.ask(Method.CREATE_PERMISSION, peer(PEER))
        call = kit.server.called(client.allocation, PEER, kit.now)
        assert kit.server.stream_wait(call, 500, kit.now, to_peer=True) == 0
        assert kit.server.stream_wait(call, 2500, kit.now, to_peer=False) == pytest.approx(2.0, abs=0.01)
