"""By what a receiver knows the envelopes of acquaintances before it opens them, and nobody else does.

Each envelope begins with a mark. That of a stranger is SHA-256("no mark" || message id), 16 bytes, and random to
whoever cannot open it. Two nodes between which a link was nominated both have the key of that session, and with it each
has MARKS tags that the other will recognise:

    tag   = HMAC(session key, "envelope tag" || role of the sender in that session (1) || number from 0 (1)), 8 bytes
    mark  = tag || HMAC(session key, "envelope mark" || tag || sealed), 8 bytes

A tag is used once, so on a broker one mark is as random as another and nothing links two of them. It is spent when the
envelope that it was made for arrives: whoever copies it gets nothing, with another content it does not fit, and with
the same one the envelope is a copy. Nothing is said to hand them out, and whoever has lost its memory is a stranger.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque

from warpgate.model.recent import Recent
from warpgate.proto.hello import Role

TAG_SIZE = 8
MARK_SIZE = 16
# An attempt sends its offer up to eight times, and acknowledges; with its link there are new ones.
MARKS = 12
# Sessions of a peer whose tags hold: two that begin at once may end in another order at the other side.
SESSIONS = 2
# Peers that a session was made with and that are no acquaintances yet: their pipe comes after it.
STRANGERS = 256


def _tags(key: bytes, sender: Role) -> list[bytes]:
    texts = (b"envelope tag" + bytes((sender, number)) for number in range(MARKS))
    return [hmac.digest(key, text, hashlib.sha256)[:TAG_SIZE] for text in texts]


def make_mark(key: bytes, tag: bytes, sealed: bytes) -> bytes:
    return tag + hmac.digest(key, b"envelope mark" + tag + sealed, hashlib.sha256)[: MARK_SIZE - TAG_SIZE]


class _Session:
    """What is left of the tags of one."""

    def __init__(self, key: bytes, role: Role) -> None:
        """`role`: ours."""
        self.key = key
        self.ours = deque(_tags(key, role))
        self.theirs = _tags(key, Role.RESPONDER if role is Role.INITIATOR else Role.INITIATOR)


class Marks:
    """Of all acquaintances of a node, by their names."""

    def __init__(self) -> None:
        self._sessions: dict[str, deque[_Session]] = {}  # the latest last
        self._expected: dict[bytes, tuple[str, bytes]] = {}  # tag -> whose, session key
        self._latest: Recent[str, tuple[bytes, Role]] = Recent(STRANGERS)  # of strangers

    def met(self, peer: str) -> None:
        """It is an acquaintance from now on; idempotent."""
        if peer not in self._sessions:
            self._sessions[peer] = deque()
            if (latest := self._latest.pop(peer, None)) is not None:
                self.renew(peer, *latest)

    def renew(self, peer: str, key: bytes, role: Role) -> None:
        """A link was nominated in this session; `role`: ours."""
        sessions = self._sessions.get(peer)
        if sessions is None:
            self._latest[peer] = key, role
            return
        if any(session.key == key for session in sessions):
            return
        sessions.append(_Session(key, role))
        self._expected.update(dict.fromkeys(sessions[-1].theirs, (peer, key)))
        if len(sessions) > SESSIONS:
            self._drop(sessions.popleft())

    def forget(self, peer: str) -> None:
        for session in self._sessions.pop(peer, ()):
            self._drop(session)

    def mark(self, peer: str, sealed: bytes) -> bytes | None:
        """For an envelope to this peer; None when there is no tag left."""
        sessions = self._sessions.get(peer, ())
        # The peer may have lost one of the sessions, so they take turns.
        session = max(reversed(sessions), key=lambda each: len(each.ours), default=None)
        if session is None or not session.ours:
            return None
        return make_mark(session.key, session.ours.popleft(), sealed)

    def take(self, envelope: bytes) -> str | None:
        """Which acquaintance has sent it, if it comes for the first time."""
        tag = envelope[:TAG_SIZE]
        if tag not in self._expected:
            return None
        peer, key = self._expected[tag]
        if not hmac.compare_digest(make_mark(key, tag, envelope[MARK_SIZE:]), envelope[:MARK_SIZE]):
            return None
        del self._expected[tag]
        return peer

    def _drop(self, session: _Session) -> None:
        for tag in session.theirs:
            self._expected.pop(tag, None)
