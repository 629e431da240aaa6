"""What `Node.start` does: everything that a node is made of is put together here, and loaded with this module.

That is most of warpgate: a quarter of a second on a small machine, which a program pays when it starts a node and not
when it imports `Node`.
"""

from __future__ import annotations

import random
from dataclasses import replace

from warpgate.config import Config
from warpgate.core.assembly import Assembly
from warpgate.core.context import Sources
from warpgate.core.disk.claim import REMEMBERED, UNCLAIMED, Claim, claim
from warpgate.core.disk.identity_store import load_or_create
from warpgate.core.disk.list_store import LIST_FILE, list_store
from warpgate.core.disk.pair_store import pair_store
from warpgate.core.disk.server_store import server_store
from warpgate.core.disk.store import kept_at
from warpgate.core.found_pairs import FoundPairs
from warpgate.core.names.known_peers import known_peers_at
from warpgate.core.offered import Services
from warpgate.core.server_lists import ServerLists
from warpgate.core.server_memory import ServerMemory
from warpgate.core.servers_in_use import ServersInUse
from warpgate.errors import IdentityInUse
from warpgate.events import Observer
from warpgate.lazy_dataclass import dataclass
from warpgate.model.identity import Identity
from warpgate.model.wanted import INSTANCE_SIZE
from warpgate.net.network import Network
from warpgate.net.remembered import RememberedNames
from warpgate.net.system import SystemNetwork
from warpgate.net.tls import Trust
from warpgate.net.translated import TranslatedNetwork
from warpgate.plugins.registry import REGISTRY, Registry
from warpgate.proto.instances import Instances
from warpgate.services.broker import BrokerConnector
from warpgate.services.mqtt import MqttConnector


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the processes of its identity this one is. `config` says now whether it accepts peers; `in_use`: why
    not, where that was left to us. `own`: this instance, and those of the node's earlier starts.
    """

    config: Config
    claim: Claim
    instances: Instances
    in_use: IdentityInUse | None
    own: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Launched:
    """A node that runs, and what it holds of the machine. `in_use`, `instances`: see `Place`."""

    assembly: Assembly
    names: RememberedNames
    place: Place

    @property
    def in_use(self) -> IdentityInUse | None:
        return self.place.in_use

    @property
    def instances(self) -> tuple[bytes, ...]:
        return self.place.own

    async def close(self) -> None:
        try:
            await self.assembly.close()
        finally:
            self.names.close()
            self.place.claim.release()


async def launch(
    given: Config,
    identity: Identity | None,
    network: Network | None,
    brokers: BrokerConnector | None,
    registry: Registry | None,
    sources: Sources | None,
    observer: Observer | None,
    services: Services,
    earlier: tuple[bytes, ...],
) -> Launched:
    """The node runs; None is for the usual ones. Errors as for `Node.start`. `earlier`: instances of earlier starts."""
    own_identity = identity is not None
    sources = Sources() if sources is None else sources
    key = load_or_create(given.identity) if identity is None else identity
    lists = ServerLists(given, list_store(kept_at(LIST_FILE, own_identity=own_identity)), sources.wall_clock)
    servers = ServersInUse(given, lists.newest())
    memory = ServerMemory(
        server_store(kept_at("servers.json", own_identity=own_identity)), sources.wall_clock, servers.known
    )
    outside = SystemNetwork() if network is None else network
    names = RememberedNames(servers.guarded(outside.resolve), memory.recall, memory.heard)
    translated = TranslatedNetwork(outside, names.resolve)
    place = _place(given, services, sources.random_bytes(INSTANCE_SIZE), earlier, own_identity=own_identity)
    trust = Trust(place.config.ca_file)
    assembly = Assembly(
        place.config,
        key,
        translated,
        trust,
        brokers or MqttConnector(translated, trust, logins=servers.login),
        observer,
        REGISTRY if registry is None else registry,
        services,
        known_peers_at(given.known_peers, own_identity=own_identity),
        sources,
        place.instances,
        servers,
        memory,
        FoundPairs(key.public_key, pair_store(kept_at("pairs.json", own_identity=own_identity)), sources.wall_clock),
    )
    launched = Launched(assembly, names, place)
    try:
        await assembly.start()
    except BaseException:
        await launched.close()
        raise
    fetching = lists.run(translated, assembly.context.emit, random.Random(), assembly.take_list)
    assembly.tasks.spawn("server list", fetching)
    return launched


def _place(
    config: Config, services: Services, instance: bytes, earlier: tuple[bytes, ...], *, own_identity: bool
) -> Place:
    claimed, in_use = UNCLAIMED, None
    accept = config.accept is not False
    if accept and not config.beside and not own_identity:
        try:
            claimed = claim(config.identity, instance)
        except IdentityInUse as error:
            if config.accept or services.wanted:
                raise
            accept, in_use = False, error
    beside = not accept if config.beside is None else config.beside
    instances = Instances(instance if accept else b"", (*claimed.earlier, *earlier), beside=beside)
    own = (instance, *earlier)[:REMEMBERED]
    return Place(replace(config, accept=accept, beside=beside), claimed, instances, in_use, own)
