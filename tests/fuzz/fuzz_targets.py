"""All of them, by name."""

from __future__ import annotations

from fuzz_decoders import DECODERS
from fuzz_machines import MACHINES
from fuzz_servers import SERVERS
from fuzz_services import SERVICES

TARGETS = {target.name: target for target in (*DECODERS, *MACHINES, *SERVERS, *SERVICES)}
