"""A client and a server of channels, joined by a path in memory; no sockets, no loop, no clock."""

from __future__ import annotations

from collections.abc import Callable

from quic_kit import DELAY, SESSION, A, B

from warpgate.core.connection.channel import Channel, DatagramChannel
from warpgate.core.connection.quic_bounds import Holdings
from warpgate.core.connection.quic_channels import QuicChannels
from warpgate.core.connection.quic_engine import State
from warpgate.proto.quic_wire import first_id_of, is_durable, is_first_packet


class Two:
    """A client and a server, joined by a path of DELAY that loses nothing."""

    def __init__(self, key: bytes = A.public_key, holdings: Holdings | None = None) -> None:
        """`holdings`: the server's."""
        self.now = 0.0
        self.lossy: Callable[[bytes], bool] = lambda data: False  # whether a packet is lost
        self.client = QuicChannels.client(A, B.public_key, SESSION, 0.0, Holdings())
        first = self.client.datagrams(0.0)
        assert is_first_packet(first[0])
        assert is_durable(first[0])
        self.server = QuicChannels.server(
            B,
            B.certificate(),
            first_id_of(first[0]),
            lambda _session: key,
            Holdings() if holdings is None else holdings,
        )
        self.opened: list[Channel] = []
        self.news: list[bytes] = []
        for end in (self.client, self.server):
            end.on_channel = self.opened.append
            end.on_news = self.news.append
        self._forth, self._back = first, list[bytes]()

    def step(self) -> None:
        self.now += DELAY
        forth, self._forth = [data for data in self._forth if not self.lossy(data)], []
        back, self._back = [data for data in self._back if not self.lossy(data)], []
        for end, flight in ((self.server, forth), (self.client, back)):
            if flight and end.state is not State.ENDED:
                end.receive(flight, self.now)
            if end.deadline is not None and end.deadline <= self.now:
                end.handle_timeout(self.now)
        self._forth, self._back = self.client.datagrams(self.now), self.server.datagrams(self.now)

    def steps(self, count: int = 8) -> None:
        for _ in range(count):
            self.step()

    def open(self) -> Two:
        self.steps()
        assert (self.client.state, self.server.state) == (State.OPEN, State.OPEN)
        return self

    def pipe(self, service: str = "") -> tuple[Channel, Channel]:
        near = self.client.open(service)
        self.steps(2)
        return near, self.opened[-1]

    def datagrams(self, service: str = "") -> tuple[DatagramChannel, DatagramChannel]:
        """A pipe of them, opened by the client."""
        near = self.client.open(service, datagrams=True)
        self.steps(2)
        far = self.opened[-1]
        assert isinstance(near, DatagramChannel)
        assert isinstance(far, DatagramChannel)
        far.take_pipe()
        self.steps(2)
        return near, far
