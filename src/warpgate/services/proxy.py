"""The web proxy that the system names, for what looks like the web: WebSockets and https.

Who is behind one reaches nothing but that. The proxy sees which host is asked for; what passes is encrypted with that
host, unless the URL says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import field
from functools import partial

from warpgate.errors import ConfigError, NetworkError, ProtocolError, ServiceError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.servers import bracketed, host_and_port, split_login
from warpgate.net.network import TcpStream
from warpgate.net.threads import in_thread
from warpgate.platform import INTERFACES
from warpgate.proto.http_tunnel import ConnectReader, connect_request

CHUNK = 4096
# What curl takes where the URL of a proxy names none.
PROXY_PORT = 1080
# The URL of the proxy for a scheme ("https", "http") and a host; None: none. May take its time: called in a thread.
LookUp = Callable[[str, str], str | None]


@dataclass(frozen=True, slots=True)
class Proxy:
    """`host` is a name or a literal address without brackets."""

    host: str
    port: int
    login: tuple[str, str] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"the proxy {bracketed(self.host)}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """From `[http://][user:password@]host[:port][/]`; ConfigError, which does not show the credentials."""
        scheme, separator, rest = text.strip().partition("://")
        if not separator:
            scheme, rest = "http", text.strip()
        if scheme.lower() != "http":
            raise ConfigError(f"a proxy that is spoken to by {scheme[:20]!r} is of no use here, only by http")
        login, place = split_login(rest.rstrip("/"), text)
        return cls(*host_and_port(place, place, PROXY_PORT), login)


def system_proxy(scheme: str, host: str) -> str | None:
    """HTTPS_PROXY, HTTP_PROXY and NO_PROXY in either case; on macOS and Windows what the system is set to, too."""
    named = any(name.lower() == f"{scheme}_proxy" for name in os.environ)
    if not (named or INTERFACES.may_set_proxy):
        return None
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - 40 ms, and few have a proxy

    found = getproxies().get(scheme)
    return None if not found or proxy_bypass(host) else found


class Proxies:
    """Which proxy to take. `look_up` is asked each time: people log in to networks while programs run."""

    def __init__(self, look_up: LookUp = system_proxy) -> None:
        self._look_up = look_up

    async def find(self, host: str, *, tls: bool) -> Proxy | None:
        """NetworkError when the system names something that is none."""
        text = await in_thread(partial(self._look_up, "https" if tls else "http", host))
        try:
            return None if text is None else Proxy.parse(text)
        except ConfigError as error:
            raise NetworkError(f"the proxy that the system names: {error}") from None


async def tunnel(stream: TcpStream, proxy: Proxy, host: str, port: int) -> None:
    """Have the proxy at the other end connect the stream to that host. NetworkError, and the stream is aborted."""
    reader = ConnectReader()
    try:
        await stream.send(connect_request(f"{bracketed(host)}:{port}", proxy.login))
        while not reader.done:
            data = await stream.recv(CHUNK)
            if not data:
                raise NetworkError(f"{proxy} hung up on CONNECT")
            reader.receive(data)
    except (ProtocolError, ServiceError) as error:
        stream.abort()
        raise NetworkError(f"{proxy}: {error}") from None
    except BaseException:
        stream.abort()
        raise
