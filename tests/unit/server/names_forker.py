"""Starts name servers quickly, one after the other: everything is imported once, each server is a fork.

`python names_forker.py DATABASE PORT`: for each line on stdin a server, which says its process id when it is up.
"""

from __future__ import annotations

import asyncio
import os
import sys

from names_kit import UNLIMITED

from warpgate.server.name_server import Place, name_server


async def serve(database: str, port: int) -> None:
    async with name_server(database, UNLIMITED, Place("127.0.0.1", port)):
        os.write(1, f"{os.getpid()}\n".encode())
        await asyncio.get_running_loop().create_future()


def main() -> None:
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
