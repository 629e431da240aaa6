"""A self-hosted rendezvous as one word to paste: names, broker, STUN and relay of one host.

`warpgate://HOST/names=8421,broker=1883,stun=3478,relay=3480,secret=...`: each service with its port, those that are not
there left out; of STUN there may be two ports, `stun=3478+3479`. `relay` comes with the group's `secret`, or it is for
node ids that the server knows, and these get their log-ins where `names` is. `warpgates://`:
HTTP and MQTT are over TLS; then `door=443` may say where broker and relay are to be had on one port, over TLS as well.
It has no character that a shell minds.
"""

from __future__ import annotations

import re
from dataclasses import field
from urllib.parse import quote

from warpgate.errors import ConfigError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.servers import bracketed, host_and_port

_SCHEMES = {"warpgate": False, "warpgates": True}
_SHOWN = 80
_MOST = {"names": 1, "broker": 1, "stun": 2, "relay": 1, "door": 1}
# Of 24 characters, 6 bits each, `serve` makes one; what people choose is to be long as well.
SECRET = re.compile(r"[A-Za-z0-9_-]{16,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """`host`: a name in lower case, or a literal address without brackets. Ports: None or () for what is not served."""

    host: str
    names_port: int | None = None
    broker_port: int | None = None
    stun_ports: tuple[int, ...] = ()
    tls: bool = False
    relay_port: int | None = None
    door_port: int | None = None
    secret: str = field(default="", repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """As `Config.names` takes them; so the others."""
        return () if self.names_port is None else (f"http{'s' * self.tls}://{self._at(self.names_port)}",)

    @property
    def brokers(self) -> tuple[str, ...]:
        if self.broker_port is None:
            return ()
        url = f"mqtt{'s' * self.tls}://{self._at(self.broker_port)}"
        return (url,) if self.door_port is None else (url, f"mqtts://{self._at(self.door_port)}")

    @property
    def stun(self) -> tuple[str, ...]:
        return tuple(self._at(port) for port in self.stun_ports)

    @property
    def turn(self) -> tuple[str, ...]:
        """With the secret in them, if there is one."""
        if self.relay_port is None:
            return ()
        relay = f"{self._login(self.names_port)}@{self._at(self.relay_port)}"
        if self.door_port is None:
            return (relay,)
        return relay, f"{self._login(self.door_port)}@{self._at(self.door_port)}?transport=tls"

    def _login(self, desk: int | None) -> str:
        """For the relay; without a secret it is to be had at the HTTP port `desk`."""
        if self.secret:
            return f"turn-secret:{self.secret}"
        url = f"http{'s' * self.tls}://{self._at(desk or 0)}"
        return f"turn-key:{quote(url, safe='')}"

    def __str__(self) -> str:
        """With the secret in it: this is for those who are to have it."""
        services = [
            f"{name}={'+'.join(map(str, ports))}"
            for name, ports in (
                ("names", (self.names_port,)),
                ("broker", (self.broker_port,)),
                ("stun", self.stun_ports),
                ("relay", (self.relay_port,)),
                ("door", (self.door_port,)),
            )
            if any(ports)
        ]
        if self.secret:
            services.append(f"secret={self.secret}")
        return f"warpgate{'s' * self.tls}://{bracketed(self.host)}/{','.join(services)}"

    def _at(self, port: int) -> str:
        return f"{bracketed(self.host)}:{port}"

    @classmethod
    def parse(cls, text: str) -> Rendezvous:
        """Raises ConfigError, with what is wrong."""
        scheme, separator, rest = text.strip().partition("://")
        tls = _SCHEMES.get(scheme.lower())
        if not separator or tls is None:
            raise ConfigError(f"{_shown(text)} is not a rendezvous: it starts with warpgate:// or warpgates://")
        authority, _, listed = rest.partition("/")
        host, port = host_and_port(authority, text, default_port=0)
        if port:
            raise ConfigError(f"{_shown(text)}: ports come after the services, as in {host}/names=8421")
        found: dict[str, tuple[int, ...]] = {}
        secret = ""
        for item in listed.rstrip("/").split(","):
            service, _, value = item.partition("=")
            if service == "secret" and not secret:
                secret = _secret(value, text)
            elif service in _MOST and service not in found:
                found[service] = _ports(value, text, _MOST[service])
            else:
                known = ", ".join(f"{each}=" for each in (*_MOST, "secret"))
                raise ConfigError(f"{_shown(text)}: {service[:_SHOWN]!r} is not one of {known}, once each")
        if secret and "relay" not in found:
            raise ConfigError(f"{_shown(text)}: a secret= belongs to a relay=")
        if "relay" in found and not (secret or "names" in found):
            raise ConfigError(f"{_shown(text)}: a relay= comes with a secret=, or with names=, where nodes log in")
        if "door" in found and not tls:
            raise ConfigError(f"{_shown(text)}: door= is over TLS: such a line begins with warpgates://")
        names, broker, relay, door = (
            next(iter(found.get(service, ())), None) for service in ("names", "broker", "relay", "door")
        )
        return cls(host, names, broker, found.get("stun", ()), tls, relay, door, secret)


def _secret(text: str, line: str) -> str:
    if SECRET.fullmatch(text) is None:
        raise ConfigError(f"{_shown(line)}: a secret has 16 to 128 letters, digits, - and _")
    return text


def _ports(listed: str, text: str, most: int) -> tuple[int, ...]:
    ports = listed.split("+")
    if len(ports) > most or not all(p.isascii() and p.isdigit() and len(p) <= 5 and 0 < int(p) < 65536 for p in ports):
        raise ConfigError(f"{_shown(text)}: {listed[:_SHOWN]!r} is not a port (1 to 65535; of STUN up to two, 1+2)")
    return tuple(map(int, ports))


def _shown(text: str) -> str:
    """Secrets do not belong into error messages and logs."""
    text = re.sub(r"(?<=secret=)[^,/]+", "...", text)
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
