"""A UPnP gateway on any `Network`, for clients in virtual time and for tests: it counts what it saw, and can be told to
fail as routers of the field do. It maps nothing really: `table` says what it would. A real one is miniupnpd.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

import h11

from warpgate.errors import NetworkError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.endpoint import Endpoint, IPAddress, SockAddr
from warpgate.net.network import Network, TcpStream
from warpgate.proto.igd import IP_CONNECTION_1, IP_CONNECTION_2, IPV6_FIREWALL_1
from warpgate.proto.ssdp import PORT as SSDP_PORT

CHUNK = 65_536
DESCRIBED_AT = "/rootDesc.xml"
CONTROL = "/ctl/"

_DESCRIPTION = """<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>{base}
<device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<friendlyName>Little router</friendlyName><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType>
<controlURL>/ctl/L3F</controlURL><SCPDURL>/missing.xml</SCPDURL></service></serviceList>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList>{services}</serviceList>
</device></deviceList></device></deviceList></device></root>"""
_SERVICE = """<service><serviceType>{type}</serviceType><serviceId>urn:upnp-org:serviceId:{number}</serviceId>
<controlURL>{control}</controlURL><eventSubURL/><SCPDURL>/missing.xml</SCPDURL></service>"""
_ANSWER = """<?xml version="1.0"?>
<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>{body}</s:Body></s:Envelope>"""
_FAULT = """<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>
<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{code}</errorCode>
<errorDescription>{reason}</errorDescription></UPnPError></detail></s:Fault>"""
_ARGUMENT = re.compile(r"<(\w+)>([^<]*)</\1>")


@dataclass(frozen=True, slots=True)
class Entry:
    """`lease` in seconds, 0: until deleted."""

    internal: Endpoint
    lease: int


class Refused(Exception):
    """A UPnP error to be answered."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason


# What a request gets in place of the true answer: the pieces of a response, however wrong, without end perhaps. None:
# the true one.
Override = Callable[[str, str], Iterable[bytes] | None]


def _truth(_method: str, _path: str) -> None:
    """Nothing in place of the true answer."""


class UpnpRouter:
    """Up when made; `close` in the end.

    Set at any time: `external` ("" where it has none), `refusals` (error codes by action, one a call), `conditions`
    (an action's error code for these arguments, 0: none), `override` (by method and path), `location` (in SSDP
    answers), `others` (of further devices), `base` (URLBase), `controls` (service types and where each is
    controlled), `silent` to searches, `pause` (seconds after each piece of an answer).
    """

    def __init__(self, network: Network, ip: IPAddress, *, version: int = 1, port: int = 5000) -> None:
        self.external = "203.0.113.1"
        self.table: dict[tuple[str, int], Entry] = {}
        self.pinholes: dict[int, Endpoint] = {}
        self.refusals: defaultdict[str, deque[int]] = defaultdict(deque)
        self.conditions: dict[str, Callable[[dict[str, str]], int]] = {}
        self.reason = "no reason"
        self.override: Override = _truth
        self.location = f"http://{Endpoint(ip, port)}{DESCRIBED_AT}"
        self.others: tuple[str, ...] = ()
        self.base = ""
        kind = IP_CONNECTION_2 if version == 2 else IP_CONNECTION_1
        self.controls = [(kind, f"{CONTROL}IPConn"), (IPV6_FIREWALL_1, f"{CONTROL}Firewall")]
        self.silent = False
        self.pause = 0.0
        self.sent = 0  # bytes that its connections took
        self.cut_off = 0  # answers that were not wanted to their end
        self.searches: list[str] = []
        self.requests: list[tuple[str, str]] = []  # method and path
        self.calls: list[tuple[str, dict[str, str]]] = []  # action and arguments
        self.version = version
        self._streams: set[TcpStream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        anywhere = IPv4Address(0) if ip.version == 4 else ip
        self._ssdp = network.open_udp(Endpoint(anywhere, SSDP_PORT), self._searched)
        self._listener = network.listen_tcp(Endpoint(ip, port), self._accepted)

    @property
    def counts(self) -> Counter[str]:
        """How often each action was called."""
        return Counter(action for action, _ in self.calls)

    async def close(self) -> None:
        self._ssdp.close()
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # -- SSDP ------------------------------------------------------------------------------------------------

    def _searched(self, data: bytes, source: SockAddr) -> None:
        text = data.decode("latin-1")
        self.searches.append(text)
        if not self.silent:
            for location in (self.location, *self.others):
                self._ssdp.send(ssdp_answer(location), source)

    # -- HTTP ------------------------------------------------------------------------------------------------

    def _accepted(self, stream: TcpStream) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: TcpStream) -> None:
        """One request a connection, as many routers do."""
        http = h11.Connection(h11.SERVER)
        head: h11.Request | None = None
        body = b""
        try:
            while not isinstance(event := http.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.ConnectionClosed):
                    return
                if isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    http.receive_data(await stream.recv(CHUNK))
            if head is not None:
                await self._answer(stream, self._respond(head, body))
        except (NetworkError, h11.RemoteProtocolError):
            self.cut_off += 1
        finally:
            stream.close()

    async def _answer(self, stream: TcpStream, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            await stream.send(piece)
            self.sent += len(piece)
            await asyncio.sleep(self.pause)

    def _respond(self, head: h11.Request, body: bytes) -> Iterable[bytes]:
        method, path = head.method.decode(), head.target.decode()
        self.requests.append((method, path))
        instead = self.override(method, path)
        if instead is not None:
            return instead
        if method == "GET" and path == DESCRIBED_AT:
            return [http_response(200, self.description())]
        if method != "POST" or not path.startswith(CONTROL):
            return [http_response(404, "")]
        action = dict(head.headers).get(b"soapaction", b"").decode().strip('"').rpartition("#")[2]
        return [self._called(action, dict(_ARGUMENT.findall(body.decode())))]

    def description(self) -> str:
        """The document at `DESCRIBED_AT`."""
        services = "".join(
            _SERVICE.format(type=kind, control=control, number=number)
            for number, (kind, control) in enumerate(self.controls)
        )
        base = f"<URLBase>{self.base}</URLBase>" if self.base else ""
        return _DESCRIPTION.format(services=services, base=base)

    # -- SOAP ------------------------------------------------------------------------------------------------

    def _called(self, action: str, arguments: dict[str, str]) -> bytes:
        self.calls.append((action, arguments))
        try:
            if self.refusals[action]:
                raise Refused(self.refusals[action].popleft(), self.reason)
            condition = self.conditions.get(action)
            if condition is not None and (code := condition(arguments)):
                raise Refused(code, self.reason)
            perform: Callable[[dict[str, str]], dict[str, object]] | None
            perform = getattr(self, f"_do_{action}", None)
            if perform is None:
                raise Refused(401, "Invalid Action")
            answer = perform(arguments)
        except Refused as refused:
            fault = _FAULT.format(code=refused.code, reason=refused.reason)
            return http_response(500, _ANSWER.format(body=fault))
        values = "".join(f"<{name}>{value}</{name}>" for name, value in answer.items())
        return http_response(200, _ANSWER.format(body=f'<u:{action}Response xmlns:u="x">{values}</u:{action}Response>'))

    def _do_GetExternalIPAddress(self, _: dict[str, str]) -> dict[str, object]:  # noqa: N802 - UPnP's names
        return {"NewExternalIPAddress": self.external}

    def _do_AddPortMapping(self, arguments: dict[str, str]) -> dict[str, object]:  # noqa: N802
        internal = Endpoint.of(arguments["NewInternalClient"], int(arguments["NewInternalPort"]))
        key = arguments["NewProtocol"], int(arguments["NewExternalPort"])
        if key in self.table and self.table[key].internal != internal:
            raise Refused(718, "ConflictInMappingEntry")
        self.table[key] = Entry(internal, int(arguments["NewLeaseDuration"]))
        return {}

    def _do_AddAnyPortMapping(self, arguments: dict[str, str]) -> dict[str, object]:  # noqa: N802
        if self.version < 2:
            raise Refused(401, "Invalid Action")
        port = int(arguments["NewExternalPort"])
        while (arguments["NewProtocol"], port) in self.table:
            port += 1
        self._do_AddPortMapping({**arguments, "NewExternalPort": str(port)})
        return {"NewReservedPort": port}

    def _do_GetSpecificPortMappingEntry(self, arguments: dict[str, str]) -> dict[str, object]:  # noqa: N802
        entry = self.table.get((arguments["NewProtocol"], int(arguments["NewExternalPort"])))
        if entry is None:
            raise Refused(714, "NoSuchEntryInArray")
        return {
            "NewInternalPort": entry.internal.port,
            "NewInternalClient": entry.internal.ip,
            "NewEnabled": 1,
            "NewPortMappingDescription": "",
            "NewLeaseDuration": entry.lease,
        }

    def _do_DeletePortMapping(self, arguments: dict[str, str]) -> dict[str, object]:  # noqa: N802
        if self.table.pop((arguments["NewProtocol"], int(arguments["NewExternalPort"])), None) is None:
            raise Refused(714, "NoSuchEntryInArray")
        return {}

    def _do_AddPinhole(self, arguments: dict[str, str]) -> dict[str, object]:  # noqa: N802
        number = len(self.pinholes) + 1
        self.pinholes[number] = Endpoint.of(arguments["InternalClient"], int(arguments["InternalPort"]))
        return {"UniqueID": number}

    def _do_UpdatePinhole(self, arguments: dict[str, str]) -> dict[str, object]:  # noqa: N802
        if int(arguments["UniqueID"]) not in self.pinholes:
            raise Refused(704, "NoSuchEntry")
        return {}

    def _do_DeletePinhole(self, arguments: dict[str, str]) -> dict[str, object]:  # noqa: N802
        if self.pinholes.pop(int(arguments["UniqueID"]), None) is None:
            raise Refused(704, "NoSuchEntry")
        return {}


def ssdp_answer(location: str) -> bytes:
    """As UPnP Device Architecture 1.1 section 1.3.3 has it."""
    return (
        "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\n"
        "ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nEXT:\r\n"
        f"SERVER: lab UPnP/1.1 lab/1\r\nLOCATION: {location}\r\n\r\n"
    ).encode()


def http_response(status: int, body: str | bytes, *fields: str) -> bytes:
    """HTTP/1.1 with a length; `fields` are lines of the head."""
    content = body.encode() if isinstance(body, str) else body
    head = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(content)}", "Content-Type: text/xml", *fields]
    return "\r\n".join([*head, "", ""]).encode() + content
