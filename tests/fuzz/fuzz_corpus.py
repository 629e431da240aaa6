"""The worked examples of the documentation as seeds, and the keys that they were made with."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from warpgate.model.identity import Identity

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```hex (?P<name>[\w-]+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
VECTORS = {
    found["name"]: bytes.fromhex(re.sub(r"#.*", "", found["body"]))
    for page in sorted(DOCS.glob("*.md"))
    for found in BLOCK.finditer(page.read_text())
}
ALICE, BOB = (Identity(ec.derive_private_key(secret, ec.SECP256R1())) for secret in (1, 2))
SESSION = bytes(range(16))
SESSION_KEY = ALICE.session_key(BOB.public_key, SESSION, initiator=True)
