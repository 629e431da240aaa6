"""The sender's files: what there is to send, and reading it. Everything here blocks: call it in a thread."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

from warpgate.errors import TransferFailed, TransferRefused
from warpgate.lazy_dataclass import dataclass
from warpgate.model.text import printable
from warpgate.platform import FILES
from warpgate.proto.transfer_names import SENDABLE, check_name, check_path, check_totals
from warpgate.proto.transfer_wire import Entry, Reason

# One trip to the thread; read from the page cache and hashed in 1 to 2 ms.
BLOCK = 1024 * 1024
_EXECUTABLE = stat.S_IXUSR


@dataclass(frozen=True, slots=True)
class NotSent:
    """Something below the directory that is left out. `lost`: a file or directory, which the receiver will lack."""

    path: str
    reason: str
    lost: bool


@dataclass(frozen=True, slots=True)
class Source:
    """What is sent. `entries[i]` is the file at `places[i]`, and had the number `inodes[i]` when it was listed."""

    name: str
    directory: bool
    entries: tuple[Entry, ...]
    places: tuple[Path, ...]
    inodes: tuple[int, ...]
    not_sent: tuple[NotSent, ...]

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)

    @property
    def files(self) -> int:
        return sum(not entry.directory for entry in self.entries)


def scan(path: Path) -> Source:
    """List a file, or a directory with all below it, in order of names.

    A symbolic link is followed if it is `path` itself, and left out inside, like devices, sockets and FIFOs, and like
    what cannot be read or has a name that cannot be sent. TransferFailed when `path` itself cannot be read,
    TransferRefused when its name or numbers cannot be sent.
    """
    place = Path(os.path.abspath(path))
    _check_sendable(place.name)
    try:
        found = place.stat()
        if stat.S_ISDIR(found.st_mode):
            scanned = _Scan(place)
            scanned.walk(())
            return scanned.result()
    except OSError as error:
        raise TransferFailed(f"cannot read {_told(error, place)}") from error
    if not stat.S_ISREG(found.st_mode):
        raise TransferFailed(f"{printable(str(place))} is neither a file nor a directory")
    check_totals(1, found.st_size)
    return Source(place.name, False, (_entry((), found),), (place,), (found.st_ino,), ())


class _Scan:
    """A directory while it is being listed."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._entries: list[Entry] = []
        self._places: list[Path] = []
        self._inodes: list[int] = []
        self._not_sent: list[NotSent] = []
        self._cost = 0

    def walk(self, above: tuple[str, ...]) -> None:
        """Directories before what is in them. OSError when this one cannot be listed."""
        folder = self._place.joinpath(*above)
        with os.scandir(folder) as scanned:
            children = []
            for child in scanned:
                children.append(child)
                check_totals(len(children), 0)
        for child in sorted(children, key=lambda child: child.name):
            path = (*above, child.name)
            try:
                self._take(path, child)
            except OSError as error:
                self._leave_out(path, error.strerror or str(error))

    def result(self) -> Source:
        check_totals(len(self._entries), sum(entry.size for entry in self._entries))
        return Source(
            self._place.name,
            True,
            tuple(self._entries),
            tuple(self._places),
            tuple(self._inodes),
            tuple(self._not_sent),
        )

    def _take(self, path: tuple[str, ...], child: os.DirEntry[str]) -> None:
        found = os.lstat(child.path)  # Windows lists sizes and times that may be old ones
        directory = stat.S_ISDIR(found.st_mode)
        if not directory and not stat.S_ISREG(found.st_mode):
            self._leave_out(path, "it is neither a file nor a directory", lost=False)
            return
        try:
            _check_sendable(path[-1])
            cost = check_path(path, SENDABLE)
        except TransferRefused as refusal:
            self._leave_out(path, str(refusal))
            return
        if not os.access(child.path, os.R_OK | (os.X_OK if directory else 0)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        self._cost += cost
        self._entries.append(_entry(path, found))
        self._places.append(self._place.joinpath(*path))
        self._inodes.append(found.st_ino)
        check_totals(len(self._entries), 0, self._cost)
        if directory:
            self.walk(path)

    def _leave_out(self, path: tuple[str, ...], reason: str, *, lost: bool = True) -> None:
        self._not_sent.append(NotSent("/".join(path), reason, lost))


def _entry(path: tuple[str, ...], found: os.stat_result) -> Entry:
    directory = stat.S_ISDIR(found.st_mode)
    return Entry(
        path,
        directory,
        0 if directory else found.st_size,
        found.st_mtime_ns,
        not directory and bool(found.st_mode & _EXECUTABLE),
    )


class Reader:
    """The files of a source, one after the other; their SHA-256 comes along. All methods are called in one thread.

    TransferFailed when a file cannot be read, or is not as it was listed. One that grows is sent as long as it was.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._open: _OpenFile | None = None

    def next(self, index: int, count: int, *, last: bool) -> tuple[bytes, bytes | None]:
        """Exactly `count` bytes of that file from where it is at (the beginning, if it was not open); with `last`, its
        hash, and it is closed.
        """
        file = self._file(index)
        data = file.read(count)
        if not last:
            return data, None
        file.check_sent()
        self.close()
        return data, file.hash.digest()

    def skip(self, index: int, count: int) -> int:
        """Read so many bytes for the hash alone; returns their number."""
        return len(self._file(index).read(count))

    def is_behind(self, digest: bytes) -> bool:
        """Whether that is the hash of what was read so far; if not, the file is at its beginning again."""
        if self._open is None or self._open.hash.digest() == digest:
            return self._open is not None
        self.close()
        return False

    def check_not_grown(self, index: int) -> None:
        """For a file whose first bytes are not what was sent of it before: if it is longer than it was listed, too, it
        was written anew, and these bytes alone are none of its states.
        """
        self._file(index).check_not_grown()

    def close(self) -> None:
        """Idempotent."""
        file, self._open = self._open, None
        if file is not None:
            os.close(file.descriptor)

    def _file(self, index: int) -> _OpenFile:
        if self._open is None:
            source = self._source
            self._open = _OpenFile(source.places[index], source.entries[index], source.inodes[index])
        return self._open


class _OpenFile:
    """What is sent of it is one of its states: how it was at some moment, or, where it grows, how that began."""

    def __init__(self, place: Path, entry: Entry, inode: int) -> None:
        self.hash = hashlib.sha256()
        self._place = place
        self._entry = entry
        try:
            # A link that has taken the file's place meanwhile is not followed; a single file may be a link.
            self.descriptor = FILES.open_to_read(place, follow=not entry.path)
        except OSError as error:
            raise TransferFailed(f"cannot read {_told(error, place)}") from error
        try:
            self._found = found = os.fstat(self.descriptor)
            same = found.st_size == entry.size and found.st_mtime_ns == entry.modified
            # Another file of the same name, as editors and log rotation put there, has not grown out of the listed one.
            grown = found.st_size > entry.size and found.st_ino == inode
            if not stat.S_ISREG(found.st_mode) or not (grown or same):
                raise self._changed()
        except BaseException:
            os.close(self.descriptor)
            raise

    def check_not_grown(self) -> None:
        if os.fstat(self.descriptor).st_size > self._entry.size:
            raise self._changed()

    def check_sent(self) -> None:
        """When all was read: whether the file still is, or begins with, what was read. Read again if it was touched."""
        found, before = os.fstat(self.descriptor), self._found
        times = (found.st_mtime_ns, found.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
        if times and found.st_size == before.st_size:
            return
        sent, self.hash = self.hash, hashlib.sha256()
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        left = self._entry.size
        while left:
            left -= len(self.read(min(left, BLOCK)))
        if self.hash.digest() != sent.digest():
            raise self._changed()

    def _changed(self) -> TransferFailed:
        return TransferFailed(f"{printable(str(self._place))} was changed while it was being sent")

    def read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                piece = os.read(self.descriptor, count - len(data))
            except OSError as error:
                raise TransferFailed(f"cannot read {_told(error, self._place)}") from error
            if not piece:
                raise TransferFailed(f"{printable(str(self._place))} was cut while it was being sent")
            data += piece
        self.hash.update(data)
        return bytes(data)


def _check_sendable(*names: str) -> None:
    for name in names:
        if not _is_text(name):
            raise TransferRefused(f"'{printable(name)}' is not UTF-8, and cannot be sent", Reason.UNSAFE)
        check_name(name, SENDABLE)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are none stand in Python's names as surrogates
        return False
    return True


def _told(error: OSError, place: Path) -> str:
    return f"{printable(str(error.filename or place))}: {error.strerror or error}"
