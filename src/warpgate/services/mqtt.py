"""Brokers over MQTT: names, TCP (through a web proxy, if it is MQTT over the web), TLS, and then `mqtt_link`, which is
imported while TCP connects.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from warpgate.errors import NetworkError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint
from warpgate.model.servers import BrokerUrl
from warpgate.net.network import Network, TcpStream
from warpgate.net.reach import dial_first, in_order
from warpgate.net.threads import in_thread
from warpgate.net.tls import Trust
from warpgate.net.uplinks import ways_to
from warpgate.services.broker import (
    BrokerLink,
    HasteRefused,
    Judge,
    MessageReceiver,
    VersionRefused,
    no_matter,
    not_before,
)
from warpgate.services.defaults import public_login
from warpgate.services.proxy import Proxies, Proxy, tunnel

if TYPE_CHECKING:
    from warpgate.services.mqtt_link import MqttLink

REMEMBERED_BROKERS = 64
# What a broker asks for, by its canonical URL: (user, password), or None.
LogIns = Callable[[str], tuple[str, str] | None]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a broker wants to be spoken to: `mqtt5`, else 3.1.1; `at_once`: without waiting for its first answer."""

    mqtt5: bool = True
    at_once: bool = True


class MqttConnector:
    """Implements `services.broker.BrokerConnector`."""

    def __init__(
        self,
        network: Network,
        trust: Trust | None = None,
        *,
        proxies: Proxies | None = None,
        logins: LogIns = public_login,
    ) -> None:
        """`trust`: whom to believe what broker this is, over TLS. None, as for `proxies`: the system's."""
        self._network = network
        self._proxies = Proxies() if proxies is None else proxies
        self._logins = logins
        self._trust = Trust() if trust is None else trust
        self._link_type: type[MqttLink] | None = None
        self._manners: dict[BrokerUrl, Manner] = {}

    async def connect(
        self,
        url: str,
        topic: str,
        on_message: MessageReceiver,
        judge: Judge | None = None,
        on_step: Callable[[], None] = no_matter,
        on_open: Callable[[BrokerLink], None] = not_before,
    ) -> MqttLink:
        """See `BrokerConnector.connect`. TCP, [TLS], CONNECT and SUBSCRIBE: a round trip each; messages leave with the
        last one. MQTT 5 section 3.1.4 lets a client go on before it is let in, but not all brokers do.
        """
        broker = BrokerUrl.parse(url)
        known = manner = self._manners.get(broker, Manner())
        while True:
            try:
                link = await self._connect(broker, topic, on_message, judge, on_step, on_open, manner)
            except HasteRefused:
                manner = replace(manner, at_once=False)
            except VersionRefused:
                if not manner.mqtt5:
                    raise
                manner = replace(manner, mqtt5=False)
            else:
                if manner != known and len(self._manners) < REMEMBERED_BROKERS:
                    self._manners[broker] = manner
                return link

    async def _connect(
        self,
        broker: BrokerUrl,
        topic: str,
        on_message: MessageReceiver,
        judge: Judge | None,
        on_step: Callable[[], None],
        on_open: Callable[[BrokerLink], None],
        manner: Manner,
    ) -> MqttLink:
        endpoints, proxy = await self._find(broker, judge)
        on_step()
        loading = asyncio.ensure_future(self._load(broker))  # not before: offline it would be for nothing
        try:
            stream = await self._dial(broker, endpoints, proxy)
        except BaseException:
            loading.cancel()
            raise
        on_step()
        try:
            link_type, tls, login = await loading
        except BaseException:
            stream.abort()
            raise
        broker = replace(broker, login=login)
        link = link_type(broker, topic, on_message, mqtt5=manner.mqtt5, at_once=manner.at_once)
        await link.open(stream.detach(), tls, on_step, partial(on_open, link))
        return link

    async def _load(self, broker: BrokerUrl) -> tuple[type[MqttLink], ssl.SSLContext | None, tuple[str, str] | None]:
        """What takes long, in a thread: paho 23 to 130 ms, the authorities' certificates 20 ms, and the file that has
        what everybody logs in with.
        """
        if self._link_type is None:
            self._link_type = await in_thread(_import_link)
        tls = await self._trust.context() if broker.tls else None
        return self._link_type, tls, broker.login or await in_thread(partial(self._logins, str(broker)))

    async def _find(self, broker: BrokerUrl, judge: Judge | None) -> tuple[tuple[Endpoint, ...], Proxy | None]:
        """Where to dial, and the proxy that is there, if it is one."""
        proxy = None if broker.path is None else await self._proxies.find(broker.host, tls=broker.tls)
        if proxy is None:
            endpoints = in_order(await self._network.resolve(broker.host, broker.port))
            return endpoints if judge is None else _admitted(endpoints, judge), None
        if judge is not None:
            # Where the proxy would lead on a peer's word has to be known here, too: it reaches what we must not.
            _admitted(await self._network.resolve(broker.host, broker.port), judge)
        return in_order(await self._network.resolve(proxy.host, proxy.port)), proxy

    async def _dial(self, broker: BrokerUrl, endpoints: Sequence[Endpoint], proxy: Proxy | None) -> TcpStream:
        """RFC 8305: the name's next address is tried when the last one has not answered for a moment; and so are the
        uplinks that the system would not choose, as the one it chooses may lead nowhere.
        """
        stream = await dial_first(self._network.dial_tcp, ways_to(endpoints, self._network))
        if proxy is not None:
            await tunnel(stream, proxy, broker.host, broker.port)
        return stream


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
