"""What of a peer an initiator wants: the running process that the address was of, and the service in it.

    wanted = length(1)=0|4  instance  length(1)=0..32  service (UTF-8)

It travels with whatever may begin a session (an offer, a HELLO, a first check), since any of them may come first.
"""

from __future__ import annotations

from warpgate.errors import ConfigError, DecodeError
from warpgate.lazy_dataclass import dataclass

# Random for each process that accepts peers. There are two of one key at most times; 32 bits tell them apart.
INSTANCE_SIZE = 4
MAX_SERVICE = 32  # bytes of UTF-8
# What `listen --relay` offers: where its relay is, and credentials for it.
RELAY_SERVICE = "relay"
# By which peers reach a receiver of files.
FILES_SERVICE = "files"
# What the command line puts around it: HOST/SERVICE, PORT:SERVICE, SERVICE=HOST:PORT, lists.
_MARKS = frozenset(" /:=,")


def is_service_name(name: str) -> bool:
    """1 to 32 bytes, all of them to be seen, without blanks and / : = ,"""
    return name.isprintable() and not _MARKS & set(name) and 1 <= len(name.encode()) <= MAX_SERVICE


def checked_service(name: object) -> str:
    """A name, or "" for the one service without a name. ConfigError for what cannot be either."""
    if not isinstance(name, str) or (name and not is_service_name(name)):
        raise ConfigError(
            f"{name!r} is no name of a service: 1 to {MAX_SERVICE} bytes, nothing invisible, no blanks, "
            "and none of / : = ,"
        )
    return name


@dataclass(frozen=True, slots=True)
class Wanted:
    """`instance` b"": any, as the address names none. `service` "": the one without a name."""

    instance: bytes = b""
    service: str = ""

    def encode(self) -> bytes:
        """b"" when nothing in particular is wanted."""
        if not self.instance and not self.service:
            return b""
        service = self.service.encode()
        return bytes((len(self.instance),)) + self.instance + bytes((len(service),)) + service

    @classmethod
    def decode(cls, data: bytes) -> Wanted:
        """DecodeError for what `encode` did not make."""
        if not data:
            return ANYTHING
        at = 1 + data[0]
        try:
            wanted = cls.of(data[1:at], data[at + 1 :].decode())
        except UnicodeDecodeError as error:
            raise DecodeError(f"the name of a service is not UTF-8: {error}") from None
        if wanted.encode() != data:
            raise DecodeError("what is wanted of the peer is not well-formed")
        return wanted

    @classmethod
    def of(cls, instance: bytes, service: str) -> Wanted:
        """From what a peer said: DecodeError when it is out of bounds."""
        if len(instance) not in (0, INSTANCE_SIZE):
            raise DecodeError(f"an instance has {INSTANCE_SIZE} bytes, not {len(instance)}")
        if service and not is_service_name(service):
            raise DecodeError(f"{service!r} is no name of a service")
        return cls(instance, service)


ANYTHING = Wanted()
LARGEST = 1 + INSTANCE_SIZE + 1 + MAX_SERVICE
