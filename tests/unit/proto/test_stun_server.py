"""The STUN server's answers, by the words of RFC 8489 and RFC 5780, and what they may cost a victim."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from warpgate.model.endpoint import Endpoint
from warpgate.proto.stun import (
    Attribute,
    ChangeRequest,
    ErrorCode,
    Method,
    StunClass,
    StunMessage,
    decode,
    encode,
)
from warpgate.proto.stun_server import SOURCE_BURST, SOURCE_RATE, Answer, SourceLimiter, StunServer

FIRST, FIRST_OTHER = Endpoint.of("198.51.100.1", 3478), Endpoint.of("198.51.100.1", 3479)
SECOND, SECOND_OTHER = Endpoint.of("198.51.100.2", 3478), Endpoint.of("198.51.100.2", 3479)
PAIR = {FIRST: SECOND_OTHER, FIRST_OTHER: SECOND, SECOND: FIRST_OTHER, SECOND_OTHER: FIRST}
SINGLE = {FIRST: None, FIRST_OTHER: None}
CLIENT = Endpoint.of("203.0.113.9", 40000)
TID = bytes(range(12))


def server(places: dict[Endpoint, Endpoint | None] | None = None) -> StunServer:
    return StunServer(PAIR if places is None else places, 0.0, salt=b"salt")


def request(*attributes: tuple[int, object], **options: bool) -> bytes:
    return encode(StunMessage(1, StunClass.REQUEST, TID, attributes), **options)


def asked(machine: StunServer, data: bytes, local: Endpoint = FIRST) -> tuple[Answer, StunMessage]:
    answer = machine.receive(data, local, CLIENT, 0.0)
    assert answer is not None
    message = decode(answer.data)
    assert message.transaction_id == TID
    return answer, message


class TestBinding:
    def test_one_address_gives_the_reflexive_endpoint_and_no_more(self) -> None:
        answer, message = asked(server(SINGLE), request())
        assert (answer.origin, answer.remote, message.cls) == (FIRST, CLIENT, StunClass.SUCCESS)
        assert message.attributes == ((Attribute.XOR_MAPPED_ADDRESS, CLIENT),)

    def test_two_addresses_tell_of_each_other(self) -> None:
        for local, other in PAIR.items():
            answer, message = asked(server(), request(), local)
            assert answer.origin == local
            assert dict(message.attributes) == {
                Attribute.XOR_MAPPED_ADDRESS: CLIENT,
                Attribute.MAPPED_ADDRESS: CLIENT,
                Attribute.RESPONSE_ORIGIN: local,
                Attribute.OTHER_ADDRESS: other,
            }

    def test_ipv6(self) -> None:
        places = {Endpoint.of("2001:db8::1", 3478): None}
        client = Endpoint.of("2001:db8::9", 5)
        answer = server(places).receive(request(), *places, client, 0.0)
        assert answer is not None
        assert decode(answer.data).mapped == client

    @pytest.mark.parametrize("wanted", [True, False])
    def test_a_fingerprint_when_asked_with_one(self, wanted: bool) -> None:
        answer, _ = asked(server(), request(fingerprint=wanted))
        assert (answer.data[-8:-4] == b"\x80\x28\x00\x04") is wanted

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            encode(StunMessage(1, StunClass.INDICATION, TID)),
            encode(StunMessage(1, StunClass.SUCCESS, TID)),
            encode(StunMessage(Method.ALLOCATE, StunClass.REQUEST, TID)),
            request(fingerprint=True)[:-1] + b"\0",
        ],
    )
    def test_what_is_no_binding_request_gets_no_answer(self, data: bytes) -> None:
        machine = server()
        assert machine.receive(data, FIRST, CLIENT, 0.0) is None
        assert machine.receive_frame(data, FIRST, CLIENT, 0.0) is None
        assert (machine.counters.ignored, machine.counters.answered) == (2, 0)

    def test_credentials_that_nobody_asked_for_do_no_harm(self) -> None:
        data = encode(
            StunMessage(1, StunClass.REQUEST, TID, ((Attribute.USERNAME, "a:b"), (Attribute.PRIORITY, 1))),
            key=b"k",
            fingerprint=True,
        )
        assert asked(server(), data)[1].cls is StunClass.SUCCESS


class TestChangeRequest:
    @pytest.mark.parametrize(
        ("change", "origin"),
        [
            (ChangeRequest.NOTHING, FIRST),
            (ChangeRequest.PORT, FIRST_OTHER),
            (ChangeRequest.IP, SECOND),
            (ChangeRequest.IP | ChangeRequest.PORT, SECOND_OTHER),
        ],
    )
    def test_the_answer_comes_from_where_it_was_asked_to(self, change: ChangeRequest, origin: Endpoint) -> None:
        """RFC 5780 section 6.1, table 1."""
        answer, message = asked(server(), request((Attribute.CHANGE_REQUEST, change)))
        assert (answer.origin, answer.remote) == (origin, CLIENT)
        assert message.endpoint(Attribute.RESPONSE_ORIGIN) == origin
        assert message.endpoint(Attribute.OTHER_ADDRESS) == SECOND_OTHER

    def test_with_one_address_it_is_refused(self) -> None:
        """Section 6: "MUST respond with a 420 (Unknown Attribute) to any Request with a CHANGE-REQUEST"."""
        answer, message = asked(server(SINGLE), request((Attribute.CHANGE_REQUEST, ChangeRequest.PORT)))
        assert answer.origin == FIRST
        assert message.error == ErrorCode(420, "Unknown Attribute")
        assert message.get(Attribute.UNKNOWN_ATTRIBUTES) == (Attribute.CHANGE_REQUEST,)


class TestPaddingAndResponsePort:
    @pytest.mark.parametrize(("sent", "received"), [(0, 0), (1500, 1500), (60000, 2048)])
    def test_padding_comes_back_no_longer_than_it_came(self, sent: int, received: int) -> None:
        _, message = asked(server(), request((Attribute.PADDING, bytes(sent))))
        assert message.raw(Attribute.PADDING) == bytes(received)

    def test_the_answer_goes_to_the_port_that_was_asked_for_and_no_other_address(self) -> None:
        answer, message = asked(server(SINGLE), request((Attribute.RESPONSE_PORT, 5555)))
        assert answer.remote == Endpoint(CLIENT.ip, 5555)
        assert message.mapped == CLIENT

    @pytest.mark.parametrize(
        "attributes",
        [
            ((Attribute.RESPONSE_PORT, 53),),
            ((Attribute.RESPONSE_PORT, 0),),
            ((Attribute.RESPONSE_PORT, 5555), (Attribute.PADDING, bytes(100))),
        ],
    )
    def test_abuse_is_refused_to_the_sender(self, attributes: tuple[tuple[int, object], ...]) -> None:
        machine = server()
        answer, message = asked(machine, request(*attributes))
        assert answer.remote == CLIENT
        assert message.error == ErrorCode(400, "Bad Request")
        assert (machine.counters.refused, machine.counters.answered) == (1, 0)


class TestUnknownAttributes:
    def test_they_are_listed_once_each(self) -> None:
        data = request((0x7FFE, b""), (0x7FFE, b"x"), (0x0033, b""), (0xC123, b"optional"))
        _, message = asked(server(), data)
        assert message.error == ErrorCode(420, "Unknown Attribute")
        assert message.get(Attribute.UNKNOWN_ATTRIBUTES) == (0x7FFE, 0x0033)

    def test_those_of_other_methods_are_unknown_here(self) -> None:
        _, message = asked(server(), request((Attribute.LIFETIME, 600)))
        assert message.get(Attribute.UNKNOWN_ATTRIBUTES) == (Attribute.LIFETIME,)

    @pytest.mark.parametrize(
        "attribute",
        [
            (Attribute.CHANGE_REQUEST, ChangeRequest.PORT),
            (Attribute.RESPONSE_PORT, 5555),
            (Attribute.PADDING, b""),
        ],
    )
    def test_on_a_connection_nothing_can_be_changed(self, attribute: tuple[int, object]) -> None:
        data = server().receive_frame(request(attribute), FIRST, CLIENT, 0.0)
        assert data is not None
        assert decode(data).get(Attribute.UNKNOWN_ATTRIBUTES) == (attribute[0],)

    def test_on_a_connection_a_plain_request_is_answered(self) -> None:
        data = server().receive_frame(request(), FIRST, CLIENT, 0.0)
        assert data is not None
        assert decode(data).mapped == CLIENT


class TestRate:
    def test_a_source_gets_its_rate_and_others_theirs(self) -> None:
        machine, data = server(), request()
        got = [machine.receive(data, FIRST, CLIENT, 1.0) for _ in range(int(SOURCE_BURST) + 50)]
        assert sum(answer is not None for answer in got) == SOURCE_BURST
        assert machine.counters.limited == 50
        assert machine.receive(data, FIRST, Endpoint(CLIENT.ip, 1), 1.0) is None, "another port is the same source"
        assert machine.receive(data, FIRST, Endpoint.of("203.0.113.10", 1), 1.0) is not None
        later = [machine.receive(data, FIRST, CLIENT, 2.0) for _ in range(int(SOURCE_BURST))]
        assert sum(answer is not None for answer in later) == SOURCE_RATE

    def test_refusals_cost_as_much_as_answers(self) -> None:
        machine, data = server(SINGLE), request((0x0033, b""))
        got = [machine.receive(data, FIRST, CLIENT, 1.0) for _ in range(int(SOURCE_BURST) + 1)]
        assert got[-1] is None

    def test_of_ipv6_a_64_is_one_source(self) -> None:
        limiter = SourceLimiter(1.0, 1.0, 0.0, salt=b"s", places=65536)
        assert limiter.take(ip_address("2001:db8::1"), 0.0)
        assert not limiter.take(ip_address("2001:db8::ffff:2"), 0.0)
        assert limiter.take(ip_address("2001:db8:0:1::1"), 0.0)

    def test_a_clock_that_steps_back_gives_nothing_away(self) -> None:
        limiter = SourceLimiter(1.0, 1.0, 10.0, salt=b"s", places=16)
        assert limiter.take(ip_address("192.0.2.1"), 10.0)
        assert not limiter.take(ip_address("192.0.2.1"), 5.0)
