"""One MQTT connection: paho's protocol engine between an asyncio transport and the signal channel.

paho-mqtt is the client inside `aiomqtt`; it is driven directly, over a transport of the loop instead of a
socket of its own (why: docs/decisions/mqtt-client.md). So nothing here blocks or needs a thread, TLS is the
loop's, and a published message reaches the kernel before `publish` returns.

MQTT 5 is asked for first, since there a client can tell the broker the largest packet it takes and that it
wants no retained messages: strangers can publish to our topic. Brokers that know only 3.1.1 get that.

Import this module in the background: paho takes 23 ms, and 130 ms where dnspython is installed (it loads that).
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from warpgate.errors import ServiceError
from warpgate.model.servers import BrokerUrl
from warpgate.net.race import heed
from warpgate.platform import SOCKETS
from warpgate.proto.bucket import TokenBucket
from warpgate.proto.mqtt_framing import LARGEST_PACKET
from warpgate.services.broker import HasteRefused, MessageReceiver, VersionRefused, no_matter
from warpgate.services.mqtt_wire import SEND_BOUND, WebWire, Wire

# Seconds of silence after which the broker is asked for a sign of life; without one it is dead after as many
# again. NATs must keep established TCP mappings for 2 h (RFC 5382 REQ-5), many keep them for minutes only.
KEEPALIVE = 30
HOUSEKEEPING = 5.0
# What is taken from a broker, octets a second and at once: the 200 envelopes that are opened each second at their
# largest. Each packet, and each arrival, counts as SMALLEST at least, about what it costs to look at.
READ_RATE = 1024 * 1024
READ_BURST = 1024 * 1024
SMALLEST = 512
# How long an orderly end may take before the connection is aborted.
GOODBYE = 0.03
# Seconds for which what was sent may stay unacknowledged, then the link is dead: the kernel has repeated it four times
# by then, and would do so for 15 minutes; on slow paths so many round trips. Linux.
USER_TIMEOUT = 3.0
ROUND_TRIPS = 5.0
NO_RETAINED = 2  # MQTT 5 section 3.8.3.1: "Do not send retained messages at the time of the subscribe"


# After the broker has let us in: it may have dropped what came before.
SUBSCRIBED_WITHIN = 0.5


def _settle(answer: asyncio.Future[None], error: ServiceError | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(None)
    else:
        answer.set_exception(error)


class MqttLink:
    """Life: made, `open`, then `publish` and messages, until `closed` (the broker's doing) or `close` (ours)."""

    def __init__(
        self, broker: BrokerUrl, topic: str, on_message: MessageReceiver, *, mqtt5: bool, at_once: bool
    ) -> None:
        """`at_once`: go on without waiting to be let in."""
        self._loop = asyncio.get_running_loop()
        self._host = broker.host
        self._topic = topic
        self._on_message = on_message
        self._version = version = MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311
        self._at_once = at_once
        self._wire = Wire(self) if broker.path is None else WebWire(self, broker)
        self._client = _Client(self._wire, version)
        if broker.login is not None:
            self._client.username_pw_set(*broker.login)
        self._client.on_connect = self._connack
        self._client.on_subscribe = self._suback
        self._client.on_message = self._message
        self._client.on_disconnect = self._disconnected
        self._let_in: asyncio.Future[None] = self._loop.create_future()
        self._subscribed: asyncio.Future[None] = self._loop.create_future()
        for answer in (self._let_in, self._subscribed):  # nobody may get as far as to wait for it
            answer.add_done_callback(heed)
        self._end: asyncio.Future[str] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self.rtt = 0.0
        self.dropped = 0  # messages that `publish` could not take
        self._ration = TokenBucket(READ_RATE, READ_BURST, time.monotonic())  # of what is read
        self._waking: asyncio.TimerHandle | None = None

    async def open(
        self,
        sock: socket.socket,
        tls: ssl.SSLContext | None,
        on_step: Callable[[], None] = no_matter,
        on_open: Callable[[], None] = no_matter,
    ) -> None:
        """Takes over a connected, non-blocking socket: [TLS], [WebSocket], CONNECT and SUBSCRIBE, one round trip each,
        or one for these two. `on_open`: from now on there may be messages, behind those.

        Raises VersionRefused, HasteRefused, else ServiceError.
        """
        try:
            await self._establish(sock, tls, on_step, on_open)
            SOCKETS.give_up_after(sock, max(USER_TIMEOUT, ROUND_TRIPS * self.rtt))
        except BaseException:
            self._wire.abort()
            raise

    def publish(self, topic: str, data: bytes) -> None:
        if self._end.done() or self._wire.unsent > SEND_BOUND:
            self.dropped += 1
            return
        self._client.publish(topic, data)

    async def closed(self) -> str:
        return await asyncio.shield(self._end)

    async def close(self) -> None:
        if not self._end.done():
            self._client.disconnect()
            self._finish("closed on this side")
        await self._wire.gone(GOODBYE)

    async def _establish(
        self,
        sock: socket.socket,
        tls: ssl.SSLContext | None,
        on_step: Callable[[], None],
        on_open: Callable[[], None],
    ) -> None:
        try:
            await self._loop.create_connection(
                lambda: self._wire,
                sock=sock,
                ssl=tls,
                server_hostname=self._host if tls else None,
                ssl_shutdown_timeout=GOODBYE if tls else None,
            )
        except OSError as error:  # ssl.SSLError is one
            raise ServiceError(f"TLS with {self._host}: {error}") from error
        on_step()
        await self._wire.opened()
        on_step()
        started = time.monotonic()  # the loop's clock may be as coarse as a millisecond (uvloop)
        self._send_connect()
        if not self._at_once:
            await self._let_in
        asked = time.monotonic()
        self._send_subscribe()
        on_open()
        await self._let_in
        on_step()
        connected = time.monotonic()
        if self._end.done():  # with what came behind the answer
            raise self._early_end(self._end.result())
        await asyncio.wait([self._subscribed], timeout=max(SUBSCRIBED_WITHIN, ROUND_TRIPS * (connected - started)))
        if not self._subscribed.done():
            self._send_subscribe()
        await self._subscribed
        self.rtt = min(connected - started, time.monotonic() - asked)
        self._timer = self._loop.call_later(HOUSEKEEPING, self._keep_alive)

    def _send_connect(self) -> None:
        properties = None
        if self._version is MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = LARGEST_PACKET
        self._client.connect(self._host, keepalive=KEEPALIVE, properties=properties)  # over the wire it has already

    def _send_subscribe(self) -> None:
        options = None
        if self._version is MQTTProtocolVersion.MQTTv5:
            options = SubscribeOptions(qos=0, retainHandling=NO_RETAINED)
        self._client.subscribe(self._topic, options=options)

    # What the transport reports.

    def received(self, pieces: int) -> None:
        self._ration.overdraw(pieces * SMALLEST)
        if self._waking is None:
            self._read_on()

    def _read_on(self) -> None:
        """paho takes one packet a call, and gives up the wire when it does not like it."""
        while not self._end.done():
            if delay := self._ration.wait(time.monotonic()):
                self._wire.pause(True)
                self._waking = self._loop.call_later(delay, self._go_on)
                return
            if not self._wire.inbound:
                return
            before = len(self._wire.inbound)
            self._client.loop_read()
            self._ration.overdraw(max(before - len(self._wire.inbound), SMALLEST))

    def _go_on(self) -> None:
        self._waking = None
        self._wire.pause(False)
        self._read_on()

    def lost(self, reason: str) -> None:
        self._finish(reason)

    # What paho reports.

    def _connack(self, _c: paho.Client, _u: Any, _f: Any, reason: ReasonCode, _p: Any) -> None:
        if not reason.is_failure:
            _settle(self._let_in, None)
        elif reason.getName() == "Unsupported protocol version":
            _settle(self._let_in, VersionRefused("the broker speaks another version of MQTT"))
        else:
            _settle(self._let_in, ServiceError(f"the broker refused the connection: {reason}"))

    def _suback(self, _c: paho.Client, _u: Any, _m: int, reasons: list[ReasonCode], _p: Any) -> None:
        refusal = next((reason for reason in reasons if reason.is_failure), None)
        error = ServiceError(f"the broker refused the subscription: {refusal}") if refusal else None
        _settle(self._subscribed, error)

    def _message(self, _c: paho.Client, _u: Any, message: paho.MQTTMessage) -> None:
        # In a tick of its own: what the receiver raises must not make paho lose its place in the stream.
        if not message.retain:
            self._loop.call_soon(self._on_message, bytes(message.payload))

    def _disconnected(self, _c: paho.Client, _u: Any, flags: Any, reason: ReasonCode, _p: Any) -> None:
        teller = "the broker ended the connection" if flags.is_disconnect_packet_from_server else "gave up"
        self._finish(f"{teller}: {reason}")

    def _keep_alive(self) -> None:
        self._timer = self._loop.call_later(HOUSEKEEPING, self._keep_alive)
        if self._client.loop_misc() != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._finish("the broker has gone silent")

    def _finish(self, reason: str) -> None:
        if self._end.done():
            return
        self._end.set_result(reason)
        for timer in (self._timer, self._waking):
            if timer is not None:
                timer.cancel()
        error = self._early_end(reason)
        _settle(self._let_in, error)
        _settle(self._subscribed, error)
        self._wire.close()

    def _early_end(self, reason: str) -> ServiceError:
        """Before we are subscribed: there are brokers that just hang up on what they do not like."""
        if self._at_once:
            return HasteRefused(reason)
        old = not self._let_in.done() and self._version is MQTTProtocolVersion.MQTTv5
        return (VersionRefused if old else ServiceError)(reason)


class _Client(paho.Client):
    """paho without its own connecting, which blocks."""

    def __init__(self, wire: Wire, version: MQTTProtocolVersion) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=f"wg{secrets.token_hex(8)}",  # says nothing about the node
            protocol=version,
            reconnect_on_failure=False,
        )
        self._wire = wire

    def _create_socket(self) -> Wire:
        return self._wire
