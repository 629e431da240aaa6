"""Brokers over MQTT: names, TCP, TLS, and then `mqtt_link`, which is imported while TCP connects."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from warpgate.errors import NetworkError
from warpgate.model.endpoint import Endpoint
from warpgate.model.servers import BrokerUrl
from warpgate.net.network import Network, TcpStream
from warpgate.net.race import RaceLost, first_of
from warpgate.net.reach import in_order, in_turn
from warpgate.net.threads import in_thread
from warpgate.net.uplinks import other_uplinks
from warpgate.services.broker import Judge, MessageReceiver, VersionRefused, no_matter

if TYPE_CHECKING:
    from warpgate.services.mqtt_link import MqttLink

# Of all pairs of an address and an uplink: bridges and the like can be many.
WAYS_TRIED = 8
REMEMBERED_BROKERS = 64


class MqttConnector:
    """Implements `services.broker.BrokerConnector`; `tls_context` makes what verifies `mqtts://` brokers."""

    def __init__(
        self, network: Network, tls_context: Callable[[], ssl.SSLContext] = ssl.create_default_context
    ) -> None:
        self._network = network
        self._make_tls_context = tls_context
        self._tls: ssl.SSLContext | None = None
        self._link_type: type[MqttLink] | None = None
        self._speak_old: set[BrokerUrl] = set()

    async def connect(
        self,
        url: str,
        topic: str,
        on_message: MessageReceiver,
        judge: Judge | None = None,
        on_step: Callable[[], None] = no_matter,
    ) -> MqttLink:
        """See `BrokerConnector.connect`. TCP, [TLS], CONNECT, SUBSCRIBE: a round trip each."""
        broker = BrokerUrl.parse(url)
        mqtt5 = broker not in self._speak_old
        try:
            return await self._connect(broker, topic, on_message, judge, on_step, mqtt5)
        except VersionRefused:
            if not mqtt5:
                raise
        link = await self._connect(broker, topic, on_message, judge, on_step, mqtt5=False)
        if len(self._speak_old) < REMEMBERED_BROKERS:
            self._speak_old.add(broker)
        return link

    async def _connect(
        self,
        broker: BrokerUrl,
        topic: str,
        on_message: MessageReceiver,
        judge: Judge | None,
        on_step: Callable[[], None],
        mqtt5: bool,
    ) -> MqttLink:
        loading = asyncio.ensure_future(self._load(broker.tls))
        try:
            stream = await self._dial(broker, judge, on_step)
        except BaseException:
            loading.cancel()
            raise
        on_step()
        try:
            link_type = await loading
        except BaseException:
            stream.abort()
            raise
        tls = self._tls if broker.tls else None
        return await link_type.open(
            stream.detach(), tls, broker.host, topic, on_message, on_step, mqtt5=mqtt5
        )

    async def _load(self, tls: bool) -> type[MqttLink]:
        """What takes long, once and in a thread: paho 23 to 130 ms, the authorities' certificates 20 ms."""
        if self._link_type is None:
            self._link_type = await in_thread(_import_link)
        if tls and self._tls is None:
            self._tls = await in_thread(self._make_tls_context)
        return self._link_type

    async def _dial(self, broker: BrokerUrl, judge: Judge | None, on_step: Callable[[], None]) -> TcpStream:
        """RFC 8305: the name's next address is tried when the last one has not answered for a moment; and so are the
        uplinks that the system would not choose, as the one it chooses may lead nowhere.
        """
        endpoints = in_order(await self._network.resolve(broker.host, broker.port))
        on_step()
        if judge is not None:
            endpoints = _admitted(endpoints, judge)
        ways: list[tuple[Endpoint, Endpoint | None]] = [(endpoint, None) for endpoint in endpoints]
        ways += [
            (endpoint, Endpoint(ip, 0))
            for endpoint in endpoints
            for ip in other_uplinks(self._network, endpoint)
        ]
        turns = {
            f"{endpoint} from {local or 'here'}": partial(
                in_turn, place, partial(self._network.dial_tcp, endpoint, local)
            )
            for place, (endpoint, local) in enumerate(ways[:WAYS_TRIED])
        }
        try:
            return await first_of(turns, discard=_abort)
        except RaceLost as lost:
            raise NetworkError("; ".join(str(error) for error in lost.failures.values())) from lost


def _admitted(endpoints: Sequence[Endpoint], judge: Judge) -> tuple[Endpoint, ...]:
    """Those that may be dialled on somebody else's word; NetworkError when there is none among some."""
    reasons = {endpoint: judge(endpoint) for endpoint in endpoints}
    admitted = tuple(endpoint for endpoint, reason in reasons.items() if reason is None)
    if reasons and not admitted:
        why = "; ".join(filter(None, reasons.values()))
        raise NetworkError(f"not called on a peer's word, only if our own settings name it: {why}")
    return admitted


def _import_link() -> type[MqttLink]:
    from warpgate.services.mqtt_link import MqttLink  # noqa: PLC0415 - see `MqttConnector._load`

    return MqttLink


def _abort(stream: TcpStream) -> None:
    stream.abort()
