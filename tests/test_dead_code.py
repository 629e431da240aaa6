"""What nobody uses is deleted, also where a test uses it: vulture on the program and the tools that run it."""

from __future__ import annotations

import ast
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).parent.parent
USERS = ("src", "testing/src", "bench", "tools")
KINDS = ("function", "method", "class", "property", "import", "unreachable_code")

CALLED_FROM_OUTSIDE = {
    # by Python
    "__getattr__",
    "__dir__",
    # by users, and on no page of the command line
    "add_message_handler",
    "accept_datagrams",
    "connect_datagrams",
    "from_user",
    "is_serving",
    "add_name",  # of the lab
    # by asyncio's streams
    "set_protocol",
    "get_protocol",
    "is_reading",
    "can_write_eof",
    # by paho
    "_create_socket",
    # by amqtt
    "get_peer_info",
    "get_ssl_info",
    "topic_filtering",
}


def test_everything_is_used() -> None:
    vulture = Vulture()
    vulture.scavenge([str(ROOT / folder) for folder in USERS])
    unused = {
        f"{Path(item.filename).relative_to(ROOT)}: {item.name}"
        for item in vulture.get_unused_code(min_confidence=60)
        if item.typ in KINDS and item.name not in CALLED_FROM_OUTSIDE
    }
    assert {place for place in unused if place.startswith("src/")} == set()


def test_what_is_called_from_outside_exists() -> None:
    defined = {
        node.name
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert defined >= CALLED_FROM_OUTSIDE
