"""The sessions of a node that are going on, by id: those it began and those it hosts."""

from __future__ import annotations

from collections.abc import Iterator

from warpgate.core.search.session import Session
from warpgate.model.endpoint import Endpoint, Mode


class Sessions:
    """In order of their beginning; whoever begins one adds it, and it leaves when it is closed."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._by_id.values()))

    @property
    def ids(self) -> tuple[bytes, ...]:
        return tuple(self._by_id)

    def __contains__(self, session_id: bytes) -> bool:
        return session_id in self._by_id

    def get(self, session_id: bytes) -> Session | None:
        return self._by_id.get(session_id)

    def hosted_from(self, base: Endpoint, remote: Endpoint, mode: Mode) -> Session | None:
        """One in this mode whose peer began it and has proved itself from `remote` to our socket `base`."""
        return next(
            (
                session
                for session in self._by_id.values()
                if session.mode is mode and not session.initiator and session.knows(base, remote)
            ),
            None,
        )

    def add(self, session: Session) -> None:
        self._by_id[session.id] = session
        session.stack.callback(self._by_id.pop, session.id, None)
