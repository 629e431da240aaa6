"""What every system is asked to do with files: folders of the user, locks, whose a file is, and names in folders."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

APPLICATION = "warpgate"

# Where the system knows no limit of open files.
UNLIMITED = 1 << 20


class Folder(ABC):
    """An open directory, for names in it; no symbolic link is followed. All methods raise OSError."""

    @abstractmethod
    def below(self, *names: str) -> Folder:
        """A directory in this one, or in one of those in it; to be closed by itself."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def status(self, name: str) -> os.stat_result | None:
        """None when there is nothing; a link's is its own."""

    @abstractmethod
    def open_file(self, name: str, flags: int) -> int:
        """A descriptor of bytes, which the owner may read and write if it is made. A FIFO does not hold us up."""

    @abstractmethod
    def make(self, name: str) -> None: ...

    @abstractmethod
    def remove_file(self, name: str) -> None: ...

    @abstractmethod
    def remove_folder(self, name: str) -> None:
        """An empty one."""

    @abstractmethod
    def remove_tree(self, name: str) -> None: ...

    @abstractmethod
    def rename(self, name: str, new: str) -> None:
        """To a name that nothing has; where the system must be asked first, something may come between."""

    @abstractmethod
    def link(self, name: str, new: str) -> None:
        """A second name for a file. FileExistsError when it is taken."""

    @abstractmethod
    def replace(self, name: str, into: Folder, new: str) -> None:
        """Move a file to the place of another, or to a free one."""

    @abstractmethod
    def walk(self, name: str) -> Iterator[tuple[tuple[str, ...], list[str], list[str], Folder]]:
        """Of a directory here and all below it, the lowest first: its path below `name`, the directories and the
        other things in it, and itself, open until the next one.
        """

    @abstractmethod
    def free(self) -> int:
        """Bytes that fit."""


class Files(ABC):
    """Of this machine and this user."""

    reserved_names = False  # whether names as CON and characters as : are the system's

    @abstractmethod
    def data_folder(self, environ: Mapping[str, str]) -> Path | None:
        """Where programs keep what they need for themselves; None when nothing says where that is."""

    @abstractmethod
    def config_folder(self, environ: Mapping[str, str]) -> Path | None:
        """The same for what the user writes."""

    @abstractmethod
    def open_folder(self, path: Path) -> Folder:
        """OSError."""

    @abstractmethod
    def open_to_read(self, path: Path, *, follow: bool) -> int:
        """A descriptor of bytes; OSError, also for a link that is not to be followed. A FIFO does not hold us up."""

    @abstractmethod
    def open_lock(self, path: Path) -> int:
        """A file of this user alone that a lock can be put on; made if need be, and no link. OSError."""

    @abstractmethod
    def try_lock(self, descriptor: int) -> bool:
        """Lock an open file against other processes until it is closed; False when one of them has. OSError where the
        file system has no locks.
        """

    @abstractmethod
    def others_may_read(self, path: Path, descriptor: int) -> str:
        """How, and what to do against it, as a clause; "" if they may not."""

    @abstractmethod
    def protect(self, path: Path) -> None:
        """Keep others from a file of ours that was just made. OSError."""

    @abstractmethod
    def replace(self, draft: Path, path: Path) -> None:
        """Give a finished file the name, in place of one that has it. OSError."""

    @abstractmethod
    def let_run(self, descriptor: int, *, executable: bool) -> None:
        """Whether it is a program, for all who may read it."""

    @abstractmethod
    def set_modified(self, descriptor: int, nanoseconds: int) -> None:
        """OSError or OverflowError for a time that the file system cannot hold."""

    def open_files_limit(self) -> int:
        """How many files and sockets this process may have."""
        return UNLIMITED

    def ask_for_open_files(self, count: int | None) -> int:
        """Raise that limit, or go as far as may be with None; what it is now. ValueError or OSError."""
        return UNLIMITED

    @contextmanager
    def short_path(self, path: Path) -> Iterator[str]:
        """The path of a socket, as the kernel takes it."""
        yield str(path)
