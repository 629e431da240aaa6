"""How long to wait for what a node learns of the NATs before it, for commands that tell of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from warpgate.model.nat import Filtering, Mapping

if TYPE_CHECKING:
    from warpgate.config import Config
    from warpgate.core.assembly import NodeStatus
    from warpgate.core.node import Node

# Two requests to a second server tell the filtering behaviour; each is given up after about 1.5 s.
FINGERPRINT_PATIENCE = 4.0
FINGERPRINT_POLL = 0.1


def fingerprinted(status: NodeStatus) -> bool:
    """Whether nothing more is to be learnt about the NATs."""
    return all(
        attachment.nat.mapping is not Mapping.UNKNOWN and attachment.nat.filtering is not Filtering.UNKNOWN
        for attachment in status.attachments
    )


async def nats_settled(node: Node, config: Config, others: Callable[[NodeStatus], bool] = lambda _: True) -> None:
    """Fingerprints need more time than start() gives them: a little longer. `others`: what is waited for, too."""

    def all_told(status: NodeStatus) -> bool:
        return (config.stun == () or fingerprinted(status)) and others(status)

    deadline = asyncio.get_running_loop().time() + FINGERPRINT_PATIENCE
    while not all_told(node.status()) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(FINGERPRINT_POLL)
