"""The values that a connect makes: their methods are compiled while a node waits for its servers, not in the connect.

They are some forty, and each costs a tenth of a millisecond the first time (`lazy_dataclass`): an offer would wait for
all.
"""

from __future__ import annotations

import asyncio

from warpgate import events
from warpgate.core.connection.errand import Errand
from warpgate.core.connection.paths import Origin
from warpgate.core.pipes.base import PipeInfo
from warpgate.core.pipes.tls import TlsEnds
from warpgate.core.search import hosted, report
from warpgate.lazy_dataclass import prepare
from warpgate.model.wanted import Wanted
from warpgate.plan import cascade, paths, targets
from warpgate.plugins import punching, turn
from warpgate.proto import check, check_wire, hello
from warpgate.proto.machine import Transmit
from warpgate.proto.quic_frames import QuicFrame
from warpgate.proto.stun import StunMessage

VALUES: tuple[type, ...] = (
    targets.Pair, cascade.Verdict, cascade.Skipped, cascade.Step, cascade.Plan, report._Row, check.CheckSettings,
    check._Pair, Wanted, Errand, punching.Punch, turn.Relayed, hosted.Claim,
    check_wire.OpenedCheck, check_wire.Introduction, StunMessage, Transmit, TlsEnds, QuicFrame, check.PeerHeard,
    check.PairVerified, check.Nominated, check.NominationConfirmed, check.PathValidated, check.CheckingEnded,
    hello.HelloReceived, hello.Authenticated, hello.Nominated, PipeInfo, Origin, paths.PathState, events.PeerPlaced,
    events.PluginSkipped, events.PluginStarted, events.PluginNoted, events.PluginEnded, events.PluginReport,
    events.SignalSent, events.SignalReceived, events.TargetsRefused, events.LinkVerified, events.PipeOpened,
    events.PipeEnded, events.PathOpened, events.PathChosen,
)  # fmt: skip


async def prepare_values() -> None:
    """In small steps, between which everything else goes on."""
    for value in VALUES:
        if prepare(value):
            await asyncio.sleep(0)
