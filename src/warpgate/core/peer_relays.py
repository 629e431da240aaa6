"""Another node's machine as a relay: what its owner offers by `listen --relay`, asked for over a pipe to that node.

The pipe has proved both keys and is encrypted; it brings what a provider's account would (`model/ice_servers.py`).
"""

from __future__ import annotations

from warpgate.core.pipes.base import Pipe
from warpgate.errors import ServiceError

LARGEST_ANSWER = 16 * 1024
_SHOWN = 24


def peer_name(target: str) -> str:
    """For events: a nickname, or the beginning of an address."""
    return f"peer {target if len(target) <= _SHOWN else target[:_SHOWN] + '...'}"


async def read_answer(pipe: Pipe) -> bytes:
    """All that the peer says; the pipe is closed. ServiceError when it is too long, PipeClosed when it breaks."""
    answer = b""
    async with pipe:
        while data := await pipe.recv():
            answer += data
            if len(answer) > LARGEST_ANSWER:
                pipe.abort()
                raise ServiceError(f"its answer has more than {LARGEST_ANSWER} bytes")
    return answer
