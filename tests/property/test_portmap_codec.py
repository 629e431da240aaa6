"""PCP and NAT-PMP: what was encoded comes back, garbage is a DecodeError, and no datagram upsets the client."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from strategies import endpoints, fixed, mutated, only, ports, v4, v6

from warpgate.errors import DecodeError
from warpgate.model.endpoint import Endpoint, Transport
from warpgate.proto.portmap import PortMapClient
from warpgate.proto.portmap_events import Wish
from warpgate.proto.portmap_wire import (
    PcpMapping,
    PcpRequest,
    PcpResponse,
    PmpAddress,
    PmpMapped,
    PmpRefused,
    Response,
    decode_response,
    encode_request,
)
from warpgate_testing.portmap import decode_request, encode_response

words = st.integers(0, 2**32 - 1)
nonces = st.binary(min_size=12, max_size=12)
transports = st.sampled_from(Transport)
mappings = st.builds(PcpMapping, nonces, transports, ports, endpoints)
requests = st.builds(PcpRequest, v4 | v6, words, mappings)
responses = st.one_of(
    st.builds(PcpResponse, st.integers(0, 255), words, words, mappings),
    st.builds(PcpResponse, st.integers(1, 255), words, words, st.none()),
    st.builds(PmpAddress, st.integers(0, 65535), words, v4),
    st.builds(PmpAddress, st.integers(1, 65535), words, st.none()),
    st.builds(PmpMapped, st.integers(0, 65535), words, transports, ports, ports, words),
    st.builds(PmpRefused, st.integers(1, 65535), words),
)
garbage = st.binary(max_size=80)
SERVER = Endpoint(ip_address("192.168.1.1"), 5351)


@fixed
@given(requests)
def test_requests_come_back(request: PcpRequest) -> None:
    data = encode_request(request)
    assert len(data) == 60
    assert decode_request(data) == request


@fixed
@given(responses)
def test_responses_come_back(response: Response) -> None:
    assert decode_response(encode_response(response)) == response


@fixed
@given(garbage | mutated(responses.map(encode_response)) | mutated(requests.map(encode_request)))
def test_garbage_is_a_decode_error(data: bytes) -> None:
    response = only(decode_response, data, DecodeError)
    if response is not None:
        assert decode_response(encode_response(response)) == response
    only(decode_request, data, DecodeError)


@fixed
@given(st.lists(st.tuples(st.floats(0, 600), responses.map(encode_response) | garbage), max_size=12))
def test_no_datagram_upsets_the_client(heard: list[tuple[float, bytes]]) -> None:
    wishes = [Wish(transport, 5000, bytes(12)) for transport in Transport]
    client = PortMapClient(Endpoint(ip_address("192.168.1.2"), 4000), SERVER, wishes, 1200, 0.5, 0.0)
    now = 0.0
    for pause, data in heard:
        now += pause
        client.handle_timeout(now)
        client.receive(data, SERVER, now)
        while client.poll_transmit() or client.poll_event():
            pass
        due = client.poll_timeout()
        assert due is not None
    client.release(now)
    for _ in range(4):
        now += 0.3
        client.handle_timeout(now)
    assert client.poll_timeout() is None
