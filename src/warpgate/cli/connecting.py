"""What `connect` and `explain` have in common: the target and how to get there."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from warpgate.cli.options import UsageError
from warpgate.cli.target import parse_target, split_service
from warpgate.config import Config
from warpgate.errors import ConfigError
from warpgate.lazy_dataclass import dataclass
from warpgate.model.address import NodeAddress
from warpgate.model.endpoint import Mode, Transport

if TYPE_CHECKING:
    from warpgate.core.node import Node
    from warpgate.core.pipes.base import Pipe


@dataclass(frozen=True, slots=True)
class Journey:
    """Where to, and by which means; None leaves the choice to the node."""

    target: NodeAddress | str | None  # None: not known yet
    mode: Mode = Mode.STREAM
    transport: Transport | None = None
    plugins: tuple[str, ...] | None = None
    timeout: float | None = None
    secure: bool = False
    service: str = ""
    durable: bool = False
    durable_datagrams: bool = False  # of those that programs here send, too

    @classmethod
    def of(cls, arguments: argparse.Namespace, config: Config) -> Journey:
        """Raises UsageError for contradictions and for names that are none; ServiceError as `parse_target`."""
        mode = Mode.DATAGRAM if arguments.datagram else Mode.STREAM
        transport = Transport(arguments.transport) if arguments.transport else None
        if mode is Mode.DATAGRAM and transport is Transport.TCP:
            raise UsageError("--datagram needs UDP, it cannot go with --transport tcp")
        if mode is Mode.DATAGRAM and arguments.tls:
            raise UsageError("--tls encrypts streams, it cannot go with --datagram")
        plugins = parse_via(arguments.via)
        text, service = (None, "") if arguments.target is None else split_service(arguments.target)
        target = None if text is None else parse_target(text, config)
        asked = arguments.durable
        if asked and transport is Transport.TCP:
            raise UsageError("--durable takes whatever path there is, it cannot go with --transport tcp")
        durable = mode is Mode.STREAM and transport is not Transport.TCP if asked is None else asked
        return cls(
            target,
            mode,
            transport,
            plugins,
            arguments.timeout,
            arguments.tls,
            service,
            durable,
            asked is True,
        )

    async def connect(self, node: Node, service: str = "") -> Pipe:
        """`service`: another one than the target's. Raises as `Node.connect`; UsageError when the target is the node
        itself.
        """
        if isinstance(self.target, NodeAddress) and self.target.node_id == node.node_id:
            raise UsageError(
                "TARGET is this node's own address: for two nodes on one machine give one of them another key "
                "with --identity NAME"
            )
        assert self.target is not None
        return await node.connect(
            self.target,
            mode=self.mode,
            transport=self.transport,
            plugins=self.plugins,
            timeout=self.timeout,
            secure=self.secure,
            service=service or self.service,
            durable=self.durable,
        )


def parse_via(given: list[str] | None) -> tuple[str, ...] | None:
    """`--via a,b --via c` as (a, b, c); UsageError for a strategy that does not exist."""
    if given is None:
        return None
    from warpgate.plugins.registry import registered_names  # noqa: PLC0415 - only for --via

    chosen = tuple(dict.fromkeys(name.strip() for text in given for name in text.split(",") if name.strip()))
    known = registered_names()
    for name in chosen:
        if name not in known:
            raise ConfigError(f"--via: there is no strategy {name!r} (there are: {', '.join(sorted(known))})")
    if not chosen:
        raise UsageError("--via: name at least one strategy")
    return chosen
