"""A self-hosted rendezvous as one word to paste: names, broker and STUN of one host.

`warpgate://HOST/names=8421,broker=1883,stun=3478`: each service with its port, those that are not there left out; of
STUN there may be two ports, `stun=3478+3479`. `warpgates://`: HTTP and MQTT are over TLS. It has no character that a
shell minds.
"""

from __future__ import annotations

from dataclasses import dataclass

from warpgate.errors import ConfigError
from warpgate.model.servers import bracketed, host_and_port

_SCHEMES = {"warpgate": False, "warpgates": True}
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """`host`: a name in lower case, or a literal address without brackets. Ports: None or () for what is not served."""

    host: str
    names_port: int | None = None
    broker_port: int | None = None
    stun_ports: tuple[int, ...] = ()
    tls: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """As `Config.names` takes them; so the others."""
        return () if self.names_port is None else (f"http{'s' * self.tls}://{self._at(self.names_port)}",)

    @property
    def brokers(self) -> tuple[str, ...]:
        return () if self.broker_port is None else (f"mqtt{'s' * self.tls}://{self._at(self.broker_port)}",)

    @property
    def stun(self) -> tuple[str, ...]:
        return tuple(self._at(port) for port in self.stun_ports)

    def __str__(self) -> str:
        services = [
            f"{name}={port}"
            for name, port in (("names", self.names_port), ("broker", self.broker_port))
            if port
        ]
        if self.stun_ports:
            services.append("stun=" + "+".join(map(str, self.stun_ports)))
        return f"warpgate{'s' * self.tls}://{bracketed(self.host)}/{','.join(services)}"

    def _at(self, port: int) -> str:
        return f"{bracketed(self.host)}:{port}"

    @classmethod
    def parse(cls, text: str) -> Rendezvous:
        """Raises ConfigError, with what is wrong."""
        scheme, separator, rest = text.strip().partition("://")
        tls = _SCHEMES.get(scheme.lower())
        if not separator or tls is None:
            raise ConfigError(
                f"{_shown(text)} is not a rendezvous: it starts with warpgate:// or warpgates://"
            )
        authority, _, listed = rest.partition("/")
        host, port = host_and_port(authority, text, default_port=0)
        if port:
            raise ConfigError(f"{_shown(text)}: ports come after the services, as in {host}/names=8421")
        found: dict[str, tuple[int, ...]] = {}
        for item in listed.rstrip("/").split(","):
            service, _, ports = item.partition("=")
            if service not in ("names", "broker", "stun") or service in found:
                raise ConfigError(
                    f"{_shown(text)}: {item[:_SHOWN]!r} is not one of names=, broker=, stun=, once each"
                )
            found[service] = _ports(ports, text, most=2 if service == "stun" else 1)
        names, broker = (next(iter(found.get(service, ())), None) for service in ("names", "broker"))
        return cls(host, names, broker, found.get("stun", ()), tls)


def _ports(listed: str, text: str, most: int) -> tuple[int, ...]:
    ports = listed.split("+")
    if len(ports) > most or not all(
        p.isascii() and p.isdigit() and len(p) <= 5 and 0 < int(p) < 65536 for p in ports
    ):
        raise ConfigError(
            f"{_shown(text)}: {listed[:_SHOWN]!r} is not a port (1 to 65535; of STUN up to two, 1+2)"
        )
    return tuple(map(int, ports))


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
