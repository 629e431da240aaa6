"""One MQTT connection, over a transport of the loop. A published message reaches the kernel before `publish` returns.

MQTT 5 is asked for first, since there a client can tell the broker the largest packet it takes and that it
wants no retained messages: strangers can publish to our topic. Brokers that know only 3.1.1 get that.
Why not a library: docs/decisions/mqtt-client.md.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import time
from collections.abc import Callable

from warpgate.errors import ProtocolError, ServiceError
from warpgate.model.servers import BrokerUrl
from warpgate.platform import SOCKETS
from warpgate.proto import mqtt
from warpgate.proto.bucket import TokenBucket
from warpgate.services.broker import MessageReceiver, VersionRefused, no_matter
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


def _heed(answer: asyncio.Future[None]) -> None:
    """Or the loop would report that nobody has."""
    if not answer.cancelled():
        answer.exception()


def _refusal(reason: int) -> ServiceError:
    if reason == mqtt.UNSUPPORTED_VERSION:
        return VersionRefused("the broker speaks another version of MQTT")
    return ServiceError(f"the broker refused the connection: {mqtt.reason_text(reason)}")


class MqttLink:
    """Life: `open`, then `publish` and messages, until `closed` (the broker's doing) or `close` (ours)."""

    def __init__(self, broker: BrokerUrl, topic: str, on_message: MessageReceiver, *, mqtt5: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._broker = broker
        self._topic = topic
        self._on_message = on_message
        self._mqtt5 = mqtt5
        self._wire = Wire(self) if broker.path is None else WebWire(self, broker)
        self._packets = mqtt.PacketReader(mqtt5=mqtt5)
        self._answer: asyncio.Future[None] = self._loop.create_future()
        self._end: asyncio.Future[str] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._connected = False
        self._keep_alive = float(KEEPALIVE)
        self._sent_at = self._heard_at = time.monotonic()
        self._pinged_at: float | None = None  # without an answer yet
        self.rtt = 0.0
        self.dropped = 0  # messages that `publish` could not take
        self._ration = TokenBucket(READ_RATE, READ_BURST, time.monotonic())  # of what is read
        self._waking: asyncio.TimerHandle | None = None

    @classmethod
    async def open(
        cls,
        sock: socket.socket,
        tls: ssl.SSLContext | None,
        broker: BrokerUrl,
        topic: str,
        on_message: MessageReceiver,
        on_step: Callable[[], None] = no_matter,
        *,
        mqtt5: bool = True,
    ) -> MqttLink:
        """Takes over a connected, non-blocking socket: [TLS], [WebSocket], CONNECT and SUBSCRIBE, one round trip each.

        Raises VersionRefused, else ServiceError.
        """
        link = cls(broker, topic, on_message, mqtt5=mqtt5)
        try:
            await link._establish(sock, tls, on_step)
            SOCKETS.give_up_after(sock, max(USER_TIMEOUT, ROUND_TRIPS * link.rtt))
        except BaseException:
            link._answer.add_done_callback(_heed)  # nobody else may have got as far as to wait for it
            link._wire.abort()
            raise
        return link

    def publish(self, topic: str, data: bytes) -> None:
        if self._end.done() or self._wire.unsent > SEND_BOUND:
            self.dropped += 1
            return
        self._send(mqtt.publish(topic, data, mqtt5=self._mqtt5))

    async def closed(self) -> str:
        return await asyncio.shield(self._end)

    async def close(self) -> None:
        if not self._end.done():
            self._send(mqtt.LEAVING)
            self._finish("closed on this side")
        await self._wire.gone(GOODBYE)

    async def _establish(self, sock: socket.socket, tls: ssl.SSLContext | None, on_step: Callable[[], None]) -> None:
        try:
            await self._loop.create_connection(
                lambda: self._wire,
                sock=sock,
                ssl=tls,
                server_hostname=self._broker.host if tls else None,
                ssl_shutdown_timeout=GOODBYE if tls else None,
            )
        except OSError as error:  # ssl.SSLError is one
            raise ServiceError(f"TLS with {self._broker.host}: {error}") from error
        on_step()
        await self._wire.opened()
        on_step()
        started = time.monotonic()  # the loop's clock may be as coarse as a millisecond (uvloop)
        name = f"wg{secrets.token_hex(8)}"  # says nothing about the node
        self._send(mqtt.connect(name, self._broker.login, KEEPALIVE, mqtt5=self._mqtt5))
        await self._answer
        on_step()
        connected = time.monotonic()
        if self._end.done():  # with what came behind the answer
            raise ServiceError(self._end.result())
        self._answer = self._loop.create_future()
        self._send(mqtt.subscribe(self._topic, mqtt5=self._mqtt5))
        await self._answer
        self.rtt = min(connected - started, time.monotonic() - connected)
        self._look_after()

    def _send(self, packet: bytes) -> None:
        self._sent_at = time.monotonic()
        self._wire.send(packet)

    # -- what the wire reports -----------------------------------------------------------------------------------

    def received(self, data: bytes, pieces: int) -> None:
        self._packets.feed(data)
        self._heard_at = time.monotonic()
        self._ration.overdraw(pieces * SMALLEST)
        if self._waking is None:
            self._read_on()

    def _read_on(self) -> None:
        """Packet by packet, as far as the ration goes."""
        while not self._end.done():
            if delay := self._ration.wait(time.monotonic()):
                self._wire.pause(True)
                self._waking = self._loop.call_later(delay, self._go_on)
                return
            before = len(self._packets.held)
            try:
                packet = self._packets.next()
            except ProtocolError as error:
                self._finish(str(error))
                return
            if packet is None:
                return
            self._ration.overdraw(max(before - len(self._packets.held), SMALLEST))
            self._take(packet)

    def _go_on(self) -> None:
        self._waking = None
        self._wire.pause(False)
        self._read_on()

    def lost(self, reason: str) -> None:
        self._finish(reason)

    # -- what the broker says ------------------------------------------------------------------------------------

    def _take(self, packet: mqtt.Packet) -> None:
        match packet:
            case mqtt.Connected(reason=reason, keep_alive=wanted):
                if wanted:
                    self._keep_alive = min(self._keep_alive, wanted)
                self._connected = not reason
                self._settle(_refusal(reason) if reason else None)
            case mqtt.Subscribed(reason=reason):
                why = f"the broker refused the subscription: {mqtt.reason_text(reason)}"
                self._settle(ServiceError(why) if reason >= mqtt.FAILURE else None)
            case mqtt.Published(payload=payload, retained=False):
                self._loop.call_soon(self._on_message, payload)  # in a tick of its own, in case it raises
            case mqtt.Alive():
                self._pinged_at = None
            case mqtt.Dismissed(reason=reason):
                self._finish(f"the broker ended the connection: {mqtt.reason_text(reason)}")

    def _look_after(self) -> None:
        """A sign of life is asked for where either side has said nothing for too long."""
        self._timer = self._loop.call_later(min(HOUSEKEEPING, self._keep_alive / 4), self._look_after)
        now = time.monotonic()
        if self._pinged_at is not None:
            if now - self._pinged_at >= self._keep_alive:
                self._finish("the broker has gone silent")
        elif now - min(self._sent_at, self._heard_at) >= self._keep_alive:
            self._pinged_at = now
            self._send(mqtt.PING)

    def _settle(self, error: ServiceError | None) -> None:
        if self._answer.done():
            return
        if error is None:
            self._answer.set_result(None)
        else:
            self._answer.set_exception(error)

    def _finish(self, reason: str) -> None:
        if self._end.done():
            return
        self._end.set_result(reason)
        for timer in (self._timer, self._waking):
            if timer is not None:
                timer.cancel()
        # Old brokers may just hang up on a CONNECT of version 5.
        early = not self._connected and self._mqtt5
        self._settle((VersionRefused if early else ServiceError)(reason))
        self._wire.close()
