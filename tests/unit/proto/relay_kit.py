"""A relay without sockets, and our own TURN clients at it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import count

from warpgate.model.endpoint import Endpoint, Family, Transport
from warpgate.model.turn_server import time_limited
from warpgate.proto.relay_admission import Admission
from warpgate.proto.relay_limits import PeerPolicy, RelayLimits
from warpgate.proto.relay_server import RelayServer
from warpgate.proto.relay_state import (
    Allocation,
    Call,
    ClosePorts,
    DialPeer,
    OpenPorts,
    Path,
    RelayEvent,
    ToClient,
    ToPeer,
)
from warpgate.proto.stun import Method, StunClass, StunMessage, decode
from warpgate.proto.turn import TurnClient
from warpgate.proto.turn_auth import LongTermAuth
from warpgate.proto.turn_events import Allocated, TurnEvent
from warpgate.proto.turn_wire import RelayRequest

SECRET = "north"
OWN = ip_address("198.51.100.1")
OWN6 = ip_address("2001:db8::1")
OTHER_OWN = ip_address("198.51.100.2")
EPOCH = 1_800_000_000.0


class RelayKit:
    """`clock` moves by hand; ports are 50000, 50001, ... unless `ports` says there are none."""

    def __init__(self, *, allowed: tuple[str, ...] = (), limits: RelayLimits | None = None) -> None:
        self.now = 100.0
        self.ports = True
        self._port = count(50000)
        self.events: list[RelayEvent] = []
        self.to_peers: list[tuple[bytes, tuple]] = []
        self.inbox: dict[Path, list[bytes]] = {}
        self.admission = Admission(SECRET, salt=b"salt", wall_clock=lambda: EPOCH + self.now)
        self.server = RelayServer(
            self.admission,
            {Family.V4: OWN, Family.V6: OWN6},
            PeerPolicy({OWN, OWN6, OTHER_OWN}, map(ip_network, allowed)),
            self.now,
            salt=b"salt",
            limits=limits,
        )

    def receive(self, data: bytes, path: Path) -> list[bytes]:
        """What that path is sent for it."""
        before = len(self.inbox.get(path, []))
        self.server.receive(data, path, self.now)
        self.drain()
        return self.inbox.get(path, [])[before:]

    def drain(self) -> None:
        while True:
            if (event := self.server.poll_event()) is not None:
                self.events.append(event)
                if isinstance(event, OpenPorts):
                    families = event.allocation.families if self.ports else ()
                    self.server.opened(event.allocation, {family: next(self._port) for family in families})
            elif (output := self.server.poll_transmit()) is None:
                return
            elif isinstance(output, ToPeer):
                self.to_peers.append((output.data, output.peer))
            else:
                assert isinstance(output, ToClient)
                self.inbox.setdefault(output.path, []).append(output.data)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.server.handle_timeout(self.now)
        self.drain()

    def dialled(self, *, connected: bool) -> Call:
        call = next(event.call for event in reversed(self.events) if isinstance(event, DialPeer))
        self.server.dialled(call, self.now, connected=connected)
        self.drain()
        return call

    def closed(self) -> int:
        return sum(isinstance(event, ClosePorts) for event in self.events)


class Client:
    """One path, with a log-in of its own for requests that the test makes up."""

    def __init__(
        self, kit: RelayKit, host: str = "203.0.113.9", port: int = 4000, *, stream: int = 0, **user: str
    ) -> None:
        self.kit = kit
        self.path = Path(0, host, port, stream)
        credentials = time_limited(user.get("secret", SECRET), int(EPOCH) + 86400, user.get("name", "warpgate"))
        self.auth = LongTermAuth(credentials)
        self._numbers = count(port * 1000)

    def ask(self, method: Method, *attributes: tuple[int, object]) -> StunMessage:
        """The answer, after logging in where that is asked for."""
        for _ in range(3):
            answer = self.ask_once(method, *attributes)
            if answer.error is None or answer.error.code not in (401, 438):
                return answer
            if self.auth.nonce == answer.raw(0x0015):
                return answer
            self.auth.challenged(answer)
        return answer

    def ask_once(self, method: Method, *attributes: tuple[int, object]) -> StunMessage:
        tid = next(self._numbers).to_bytes(12, "big")
        sent = self.auth.seal(StunMessage(method, StunClass.REQUEST, tid, attributes))
        (answer,) = [
            data for data in self.kit.receive(sent, self.path) if data[0] < 0x40 and decode(data).transaction_id == tid
        ]
        return decode(answer)

    @property
    def allocation(self) -> Allocation:
        return self.kit.server.allocations[self.path]


class Relayed:
    """`TurnClient` at the kit: what it sends arrives at once, and so do the answers."""

    def __init__(
        self,
        kit: RelayKit,
        host: str = "203.0.113.9",
        port: int = 4000,
        *,
        stream: int = 0,
        transport: Transport = Transport.UDP,
    ) -> None:
        self.kit = kit
        self.path = Path(0, host, port, stream)
        numbers = count(1)
        self.events: list[TurnEvent] = []
        self._taken = 0
        self.machine = TurnClient(
            time_limited(SECRET, int(EPOCH) + 86400, "warpgate"),
            RelayRequest(transport),
            kit.now,
            reliable=bool(stream),
            new_transaction_id=lambda: (port << 32 | next(numbers)).to_bytes(12, "big"),
        )
        self.talk()

    def talk(self) -> None:
        """Until neither has anything to say."""
        while True:
            waiting = self.kit.inbox.get(self.path, [])[self._taken :]
            self._taken += len(waiting)
            for data in waiting:
                self.machine.receive(data, self.kit.now)
            sent = list(iter(self.machine.poll_transmit, None))
            self.events += list(iter(self.machine.poll_event, None))
            if not (waiting or sent):
                return
            for data in sent:
                self.kit.receive(data, self.path)

    def send(self, data: bytes, peer: Endpoint) -> None:
        self.machine.send(data, peer, self.kit.now)
        self.talk()

    @property
    def relayed(self) -> Endpoint:
        return next(event.relayed[0] for event in self.events if isinstance(event, Allocated))

    @property
    def allocation(self) -> Allocation:
        return self.kit.server.allocations[self.path]
