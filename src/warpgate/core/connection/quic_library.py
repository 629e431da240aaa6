"""The QUIC library (qh3), loaded when first wanted, and set up the way our streams need it.

Importing it takes 25 ms of a processor, and its first random number another 25 ms: AWS-LC measures the jitter of the
processor for its seed, and qh3 holds the GIL meanwhile. So a thread is no help while there is something to compute;
it is spent while the node waits for its servers, or for the peer (`loaded`).
docs/decisions/quic-library.md tells why it is this one.
"""

from __future__ import annotations

import io
import logging
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from warpgate.errors import NetworkError
from warpgate.model.identity import Identity
from warpgate.net.threads import in_thread
from warpgate.proto.quic_frames import PacketOpener
from warpgate.proto.quic_wire import CONNECTION_ID_SIZE, FIRST_PACKET_SIZE

if TYPE_CHECKING:
    from qh3.quic.configuration import QuicConfiguration
    from qh3.quic.connection import QuicConnection

# The checks beneath notice a dead peer within 32 s; QUIC's own idle timeout (30 s in qh3) would end idle pipes.
# It cannot be switched off, but this is three years.
NO_IDLE_TIMEOUT = 1e8
# RFC 9002 section 6.2.2 says 333 ms for paths nobody has measured. Ours has just been used by checks; a first flight
# that is lost costs 0.2 s so, and a path of more than 0.2 s sees one needless repetition.
INITIAL_RTT = 0.1
# QUIC's own windows open when data arrives, read or not, in both libraries: they only keep the peer from
# outrunning the reassembly. What bounds the buffers is the credit in `byte_stream`, which must fit in here.
QUIC_WINDOW = 8 * 1024 * 1024
# The library keeps an address per path and would take a change for a migration; the udp has one flow per peer.
ANYWHERE = ("127.0.0.1", 1)

# Of the NSS key log format, which qh3 writes.
_CLIENT_SECRET = "CLIENT_TRAFFIC_SECRET_0 "
_SERVER_SECRET = "SERVER_TRAFFIC_SECRET_0 "


class SecretLog(io.TextIOBase):
    """A key log file that keeps the secret we bind the client's proof to (see `proto.quic_proof`), and its peer."""

    def __init__(self) -> None:
        self.client_secret: bytes | None = None
        self.server_secret: bytes | None = None

    def write(self, row: str) -> int:
        if row.startswith(_CLIENT_SECRET):
            self.client_secret = bytes.fromhex(row.split()[2])
        elif row.startswith(_SERVER_SECRET):
            self.server_secret = bytes.fromhex(row.split()[2])
        return len(row)


_is_loaded = threading.Event()
_loading = threading.Lock()


def load() -> None:
    """What it costs once in a process; blocks."""
    with _loading:
        if not _is_loaded.is_set():
            make_client(SecretLog(), "", CONNECTION_ID_SIZE).connect(ANYWHERE, 0.0)
            _is_loaded.set()


def is_loaded() -> bool:
    """Whether the rest of this module may be called on the loop."""
    return _is_loaded.is_set()


async def loaded() -> None:
    """Before anything else of this module is called on the loop: it is loaded in a thread, now if it was not."""
    if not is_loaded():
        await in_thread(load, daemon=False)


def make_client(secrets: SecretLog, alpn: str, id_size: int, *, datagrams: bool = False) -> QuicConnection:
    """Not yet started; the caller checks the server's certificate, so the library need not.

    `id_size`: bytes of our connection ids. `datagrams`: the peer may send such frames (RFC 9221).
    """
    from qh3.quic.connection import QuicConnection  # noqa: PLC0415 - see the module's docstring

    configuration = _configuration(secrets, alpn, id_size, is_client=True, datagrams=datagrams)
    configuration.verify_mode = ssl.CERT_NONE
    return QuicConnection(configuration=configuration)


def make_server(
    secrets: SecretLog,
    certificate: bytes,
    identity: Identity,
    first_id: bytes,
    alpn: str,
    id_size: int,
    *,
    datagrams: bool = False,
) -> QuicConnection:
    """`first_id`: the destination connection id of the client's first packet."""
    from qh3.quic.connection import QuicConnection  # noqa: PLC0415

    configuration = _configuration(secrets, alpn, id_size, is_client=False, datagrams=datagrams)
    configuration.load_cert_chain(certificate, identity.to_pem())
    return QuicConnection(configuration=configuration, original_destination_connection_id=first_id)


def hand_over(quic: QuicConnection, datagrams: list[bytes], now: float) -> int:
    """After the handshake. How many of the packets were the peer's and not seen before; `take_out` has the events.

    qh3 counts forged and repeated ones apart, but its `receive_many_datagrams` keeps that to itself (2.1).
    """
    core = quic._core
    assert core is not None
    report = quic._call_core(core.receive_many_datagrams, datagrams, ANYWHERE, now)
    return int(report[2])


class _Created(set[int]):
    """In the place of qh3's own set: of every stream that it forgets it takes the id out of it, there or not."""

    def __init__(self, gone: Callable[[int], None]) -> None:
        super().__init__()
        self._gone = gone

    def discard(self, stream: Any) -> None:
        super().discard(stream)
        self._gone(stream)


def tell_gone(quic: QuicConnection, gone: Callable[[int], None]) -> None:
    """Before it is used; `gone` is called with the id of each stream that is over in both directions, and forgotten."""
    quic._created_local_stream_ids = _Created(gone)


def let_go(quic: QuicConnection) -> None:
    """What is over is freed at once, its handshake above all, and not by the collector: it has circles."""
    quic._created_local_stream_ids = set()
    bridge, quic._tls = quic._tls, None
    if bridge is not None:
        bridge.tls.alpn_cb, bridge.tls.update_traffic_key_cb = None, lambda *_: None


def take_out(quic: QuicConnection) -> None:
    """Events, to where `next_event` finds them; with its last one a stream is forgotten."""
    if quic._core is not None:
        quic._drain_core()


def wake(quic: QuicConnection, now: float) -> bool:
    """Its timer. Whether it sends the oldest packets once more as a probe (RFC 9002 section 6.2.4)."""
    core = quic._core
    if core is None:
        return False
    probes = core.pto_total
    quic._call_core(core.handle_timer, now)
    return core.pto_total != probes


def to_send(quic: QuicConnection, now: float) -> list[bytes]:
    """As qh3's `datagrams_to_send`, which also looks into each packet for a log that we do not keep.

    ValueError: it has lost its books of the streams, and will send nothing more of some of them.
    """
    datagrams: list[bytes] = []
    if (core := quic._core) is not None:
        # qh3 raises it when the anti-amplification limit leaves less room than a packet needs: nothing more can be sent
        # before the client has been heard again (RFC 9000 section 8.1).
        with suppress(RuntimeError):
            while (transmit := core.poll_transmit(now)) is not None:
                datagrams.append(transmit[0])
    return datagrams


def in_flight(quic: QuicConnection) -> int:
    """Bytes that were sent and are neither acknowledged nor lost."""
    return 0 if quic._core is None else quic._core.bytes_in_flight


def losses(quic: QuicConnection) -> int:
    """How many packets were held to be lost."""
    return 0 if quic._core is None else quic._core.loss_total


def on_their_way(quic: QuicConnection) -> tuple[int, int]:
    """The lowest and the highest number of the packets that were sent and are neither acknowledged nor lost; when none
    of them asks for an acknowledgement the highest is -1, and the lowest beyond all.
    """
    packets = quic._core.outstanding_application_packets if quic._core is not None and in_flight(quic) else []
    return (packets[0][0], packets[-1][0]) if packets else (1 << 62, -1)


def largest_frame(quic: QuicConnection) -> int:
    """Bytes of the largest DATAGRAM frame that the peer takes (RFC 9221 section 3); 0 before the handshake."""
    return quic._remote_max_datagram_frame_size or 0


def window_room(quic: QuicConnection) -> int:
    """Bytes that the congestion window has room for."""
    core = quic._core
    return 0 if core is None else core.congestion_window - core.bytes_in_flight


def has_prepared_nothing(quic: QuicConnection) -> bool:
    """Right after `to_send`: no frame of a stream waits for the congestion window, or it will never leave."""
    ends = closing(quic) is not None or quic._core is None or quic._core.state != "connected"
    return ends or window_room(quic) >= FIRST_PACKET_SIZE


def has_sent_all(quic: QuicConnection) -> bool:
    """Right after `to_send`: whether neither the congestion window nor pacing can have kept anything back."""
    core = quic._core
    if core is None:
        return False
    timer = core.get_timer()
    return window_room(quic) >= FIRST_PACKET_SIZE and (timer is None or timer[0] != "pacing")


def confirm(quic: QuicConnection) -> None:
    """At a client whose 1-RTT packet was acknowledged: the handshake is confirmed (RFC 9001 section 4.1.2), also where
    the server's HANDSHAKE_DONE is lost. qh3 (2.1) waits for that one: it says its last handshake packet over and over,
    to a server that has no keys for it any more, and what is never acknowledged fills the congestion window.
    """
    if quic._core is not None and not quic._handshake_confirmed:
        quic._handshake_confirmed = True
        quic._core.handshake_confirmed()


def closing(quic: QuicConnection) -> tuple[int, str] | None:
    """Error code and reason, as soon as either side has closed or an error has ended the connection.

    qh3 tells by an event only when its closing time (3 PTO) is over; a handshake that failed is over at once.
    """
    event = quic._close_event  # qh3 has no public way (2.1); a test notices when it goes
    return None if event is None else (event.error_code, event.reason_phrase)


def opener(quic: QuicConnection, secret: bytes) -> PacketOpener:
    """For the 1-RTT packets that are protected under this traffic secret."""
    from qh3.quic.crypto import derive_key_iv_hp  # noqa: PLC0415
    from qh3.quic.packet import QuicProtocolVersion  # noqa: PLC0415
    from qh3.tls import CipherSuite  # noqa: PLC0415

    suite = quic.get_cipher()
    if suite is None:
        raise NetworkError("the QUIC handshake chose no cipher")
    keys = derive_key_iv_hp(cipher_suite=suite, secret=secret, version=QuicProtocolVersion.VERSION_1)
    chacha = suite == CipherSuite.CHACHA20_POLY1305_SHA256
    return PacketOpener(*keys, chacha=chacha, id_size=len(quic.host_cid))


def _silence() -> None:
    """qh3 warns of every peer that closes. Programs that have set up its logger themselves hear it still."""
    logger = logging.getLogger("quic")
    if not logger.propagate:
        return  # done, or set up
    set_up = any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers)
    if not set_up and logger.level == logging.NOTSET:
        logger.addHandler(logging.NullHandler())
        logger.propagate = False


def _configuration(
    secrets: SecretLog, alpn: str, id_size: int, *, is_client: bool, datagrams: bool
) -> QuicConfiguration:
    from qh3.quic.configuration import QuicConfiguration  # noqa: PLC0415

    _silence()
    return QuicConfiguration(
        alpn_protocols=[alpn],
        connection_id_length=id_size,
        idle_timeout=NO_IDLE_TIMEOUT,
        initial_rtt=INITIAL_RTT,
        is_client=is_client,
        max_data=QUIC_WINDOW,
        max_datagram_frame_size=FIRST_PACKET_SIZE if datagrams else 0,
        # What every path carries, however it changes. qh3 (2.1) looks for more (RFC 8899), but never for less again: a
        # path that narrows later would be a black hole.
        max_datagram_size=FIRST_PACKET_SIZE,
        probe_datagram_size=False,
        max_stream_data=QUIC_WINDOW,
        secrets_log_file=cast(TextIO, secrets),
    )
