"""The contact book: which key each nickname stood for when it was first looked up, like ssh's known_hosts.

A nickname is trusted on first use; after that only records of the same key, and none older than the newest one seen,
are taken for it, until the user says otherwise (`warpgate name forget NAME`). The book is a text file with one line a
name (`model/contact.py`); comments and order survive. Several processes may use it: whoever changes it holds a lock
on the file beside it, reads it anew, and puts a whole new one in its place.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from warpgate.core.disk.identity_store import ELSEWHERE, data_directory
from warpgate.core.disk.whole_file import replace_file
from warpgate.errors import ConfigError
from warpgate.model.contact import Contact, key_changed
from warpgate.net.threads import in_thread
from warpgate.platform import FILES

FILE_NAME = "known_peers"
# A contact takes 150 bytes: 50,000 of them.
LARGEST_FILE = 8 * 1024 * 1024
# Whoever holds the lock needs it for a few milliseconds.
LOCK_PATIENCE = 5.0
LOCK_POLL = 0.01


class KnownPeers(Protocol):
    """Where a node keeps its contacts."""

    async def find(self, name: str) -> Contact | None:
        """What is known of a folded nickname. ConfigError when the book cannot be read."""

    async def remember(self, contact: Contact) -> bool:
        """Pin a new name, or note a newer sequence; whether it was new. PeerKeyChanged when pinned to another key."""


class MemoryKnownPeers:
    """Contacts for the life of one node."""

    def __init__(self) -> None:
        self._contacts: dict[str, Contact] = {}

    async def find(self, name: str) -> Contact | None:
        return self._contacts.get(name)

    async def remember(self, contact: Contact) -> bool:
        known = self._contacts.get(contact.name)
        self._contacts[contact.name] = merged(known, contact)
        return known is None


class ContactBook:
    """The file. Its methods block for as long as the disk takes: see `FileKnownPeers`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, name: str) -> Contact | None:
        """ConfigError naming the line when the file is damaged."""
        return _contacts(self._read(), self.path).get(name)

    def contacts(self) -> tuple[Contact, ...]:
        """ConfigError as `find`."""
        return tuple(_contacts(self._read(), self.path).values())

    def remember(self, contact: Contact) -> bool:
        """As `KnownPeers.remember`."""
        return self._change(contact.name, lambda known: merged(known, contact)) is None

    def forget(self, name: str) -> Contact | None:
        """The contact that is forgotten, None when there was none."""
        return None if self.find(name) is None else self._change(name, lambda _: None)

    def _change(self, name: str, change: Callable[[Contact | None], Contact | None]) -> Contact | None:
        """What was known before."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                lines = self._read()
                known = _contacts(lines, self.path).get(name)
                wanted = change(known)
                if wanted != known:
                    self._replace(_with(lines, name, wanted))
                return known
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"cannot write the contact book {self.path} ({reason}): {ELSEWHERE}") from error

    def _read(self) -> list[str]:
        try:
            with self.path.open("rb") as file:
                data = file.read(LARGEST_FILE + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"contact book {self.path}: {error.strerror or error}") from error
        if len(data) > LARGEST_FILE:
            raise ConfigError(f"contact book {self.path} is far too large for one")
        try:
            return data.decode().splitlines()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"contact book {self.path}, line {line}: this is not UTF-8 text") from None

    def _replace(self, lines: list[str]) -> None:
        target = Path(os.path.realpath(self.path))  # who keeps it elsewhere through a link goes on doing so
        replace_file(target, "".join(f"{line}\n" for line in lines).encode(), durable=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock is a file of its own, which stays: the book itself is replaced."""
        handle = FILES.open_lock(self.path.with_name(self.path.name + ".lock"))
        try:
            deadline = time.monotonic() + LOCK_PATIENCE
            while not FILES.try_lock(handle):
                if time.monotonic() >= deadline:
                    raise ConfigError(
                        f"contact book {self.path}: another process has held its lock for {LOCK_PATIENCE:g} s"
                    )
                time.sleep(LOCK_POLL)
            yield
        finally:
            os.close(handle)  # which gives up the lock


class FileKnownPeers:
    """A `ContactBook` for the loop: each call in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._book = ContactBook(path)

    async def find(self, name: str) -> Contact | None:
        return await in_thread(partial(self._book.find, name))

    async def remember(self, contact: Contact) -> bool:
        return await in_thread(partial(self._book.remember, contact))


def known_peers_at(path: str | None, *, own_identity: bool) -> KnownPeers:
    """`path` from the settings; without one, the user's own book if the identity is one of the user's, too.

    A program that brings its own identity, and gives no path, keeps its contacts in memory.
    """
    if path is not None:
        return FileKnownPeers(Path(path).expanduser())
    return MemoryKnownPeers() if own_identity else FileKnownPeers(default_path())


def default_path() -> Path:
    """In the user's data directory; ConfigError when there is none."""
    return data_directory() / FILE_NAME


def merged(known: Contact | None, seen: Contact) -> Contact:
    """What is to be kept. PeerKeyChanged when `seen` has another key than `known`."""
    if known is None:
        return seen
    if known.public_key != seen.public_key:
        raise key_changed(known, seen.public_key)
    return replace(known, sequence=max(known.sequence, seen.sequence))


def _contacts(lines: list[str], path: Path) -> dict[str, Contact]:
    found: dict[str, Contact] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            contact = Contact.from_line(line)
            if contact.name in found:
                raise ConfigError(f"{contact.name!r} was there before")
        except ConfigError as error:
            raise ConfigError(
                f"contact book {path}, line {number}: {error}. Correct or delete the line; nothing was changed"
            ) from None
        found[contact.name] = contact
    return found


def _with(lines: list[str], name: str, wanted: Contact | None) -> list[str]:
    """The line of `name` replaced, dropped (None) or added; the others as they were."""
    changed, done = [], False
    for line in lines:
        if line.split()[:1] != [name]:
            changed.append(line)
        elif wanted is not None:
            changed.append(wanted.to_line())
            done = True
    if wanted is not None and not done:
        changed.append(wanted.to_line())
    return changed
