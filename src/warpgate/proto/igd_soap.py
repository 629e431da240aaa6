"""Calls to a UPnP service and their answers (SOAP 1.1 over HTTP, UPnP Device Architecture 1.1 section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

from warpgate.errors import DecodeError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.text import printable
from warpgate.proto.device_xml import Path, read_elements

LONGEST_REASON = 80
_ENVELOPE = (
    '<?xml version="1.0"?>\r\n'
    '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
    ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">'
    '<s:Body><u:{action} xmlns:u="{service}">{arguments}</u:{action}></s:Body></s:Envelope>\r\n'
)


@dataclass(frozen=True, slots=True)
class Fault:
    """The service refuses (section 3.2.6). `reason` is fit for a terminal; `code` 0: it gives none."""

    code: int
    reason: str


def encode_call(service: str, action: str, arguments: Mapping[str, object]) -> bytes:
    """The body of the POST. The order of the arguments is that of the specification: some routers go by it.

    The values are ours: numbers, addresses and words, with nothing in them to escape.
    """
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in arguments.items())
    return _ENVELOPE.format(action=action, service=service, arguments=inner).encode()


def call_fields(service: str, action: str) -> tuple[tuple[str, str], ...]:
    """The header fields that the POST has besides the usual ones (section 3.2.1)."""
    return ("Content-Type", 'text/xml; charset="utf-8"'), ("SOAPAction", f'"{service}#{action}"')


def decode_answer(document: bytes, action: str) -> dict[str, str] | Fault:
    """What the call returned, by name (section 3.2.2), or why not. DecodeError when it is neither."""
    reader = _Answer(action)
    read_elements(document, reader.visit)
    if reader.refused:
        return Fault(reader.code, printable(reader.reason, LONGEST_REASON))
    if not reader.answered:
        raise DecodeError(f"no answer to {action}")
    return reader.values


class _Answer:
    def __init__(self, action: str) -> None:
        self._response = f"{action}Response"
        self.values: dict[str, str] = {}
        self.answered = self.refused = False
        self.code = 0
        self.reason = ""

    def visit(self, path: Path, text: str) -> None:
        match path:
            case ("Envelope", "Body", self._response, name):
                self.values[name] = text
            case ("Envelope", "Body", self._response):
                self.answered = True
            case ("Envelope", "Body", "Fault", *_, "errorCode"):
                self.code = int(text) if text.isascii() and text.isdecimal() and len(text) < 5 else 0
            case ("Envelope", "Body", "Fault", *_, "errorDescription"):
                self.reason = text
            case ("Envelope", "Body", "Fault"):
                self.refused = True
