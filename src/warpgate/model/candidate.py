"""Candidates, in the terms of RFC 8445 section 4."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from warpgate.model.endpoint import Endpoint, Transport


class CandidateKind(enum.Enum):
    """RFC 8445 section 5.1.1; the values are those of SDP's candidate-type (RFC 8839 section 5.1)."""

    HOST = "host"
    SRFLX = "srflx"
    PRFLX = "prflx"
    RELAYED = "relay"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint where a peer can be reached; `base` is the local endpoint it is sent from."""

    endpoint: Endpoint
    kind: CandidateKind
    transport: Transport
    base: Endpoint
