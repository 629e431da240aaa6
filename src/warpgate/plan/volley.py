"""The ports of one volley: ours, the peer's, and who connects to whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warpgate.model.endpoint import Endpoint

# In one message; what a prediction names.
ENDPOINTS = 8

Route = tuple[Endpoint, Endpoint]  # our local port and where to connect from it


@dataclass(frozen=True, slots=True)
class Face:
    """A fresh port of ours, and where the peer will see it: one endpoint, or several that were foretold."""

    local: Endpoint
    seen: tuple[Endpoint, ...]


def as_text(faces: Sequence[Face]) -> tuple[str, ...]:
    """What the peer is told of them."""
    return tuple([str(endpoint) for face in faces for endpoint in face.seen][:ENDPOINTS])


def parse_endpoints(texts: Sequence[str]) -> list[Endpoint]:
    """What the peer told, as far as it is listened to; AddressError."""
    return [Endpoint.parse(text) for text in texts[:ENDPOINTS]]


def routes_between(faces: Sequence[Face], peers: Sequence[Endpoint]) -> list[Route]:
    return [(face.local, peer) for face in faces for peer in peers if peer.family is face.local.family]
