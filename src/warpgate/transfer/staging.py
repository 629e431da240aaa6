"""The receiver's files: what comes in waits in a hidden place beside its own until all of it is there and verified.

Everything is opened from directory to directory, and no symbolic link is followed on the way (`O_NOFOLLOW`), so that
nothing is written outside of the directory that the user gave. Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from warpgate.errors import TransferRefused
from warpgate.model.text import printable
from warpgate.proto.transfer_list import EntryList
from warpgate.proto.transfer_names import NameRules, check_harmless, partial_name
from warpgate.proto.transfer_wire import DIGEST_SIZE, Entry, Offer, Part, Reason

BLOCK = 1024 * 1024
# Files that an earlier try left unfinished and that are gone on with: there is one for each try that broke off.
MOST_PARTIAL = 256
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO in a file's place must not hold us up
CLOSED = -1
_LARGEST_TIME = 2**63 - 1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Staging:
    """One file or directory on its way in. All methods are called in one thread; `open` comes first."""

    def __init__(
        self, folder: Path, offer: Offer, peer: str, rules: NameRules, *, overwrite: bool, executable: bool
    ) -> None:
        """`executable`: whether files may be what they are at the sender."""
        self._place = folder
        self._offer = offer
        self._rules = rules
        self._overwrite = overwrite
        self._executable = executable
        self._partial = partial_name(offer.name, peer)
        self._folder = CLOSED
        self._entries = EntryList()
        # By index, and in bytes, as there may be 100,000 of each: SHA-256 of files that are complete already (of none
        # it is zeros), and which the sender left out.
        self._hashes = bytearray()
        self._omitted = bytearray()
        self._begun: dict[int, hashlib._Hash] = {}  # of files that are not complete
        self.comparing = False  # what is offered is in its place already, it seems: nothing is written
        self._file: IncomingFile | None = None

    def open(self, *, compare: bool) -> None:
        """TransferRefused when the directory cannot be used, or the name is taken.

        With `compare` what has the name may be what is offered, which its sender then learns.
        """
        with refused_by_the_system(str(self._place)):
            self._folder = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._take_place(compare=compare)

    def close(self) -> None:
        """What came so far stays, to be continued. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
        folder, self._folder = self._folder, CLOSED
        if folder != CLOSED:
            os.close(folder)

    # -- before the data -----------------------------------------------------------------------------------------

    def _take_place(self, *, compare: bool = False) -> bool:
        """Whether it goes into a directory that is there. TransferRefused when the name is taken otherwise."""
        name, shown = self._offer.name, printable(self._offer.name)
        with refused_by_the_system(name):
            there = _status(name, self._folder)
        if there is None:
            return False
        fits = stat.S_ISDIR if self._offer.directory else stat.S_ISREG
        if not self._overwrite:
            if compare and fits(there.st_mode):
                self.comparing = True
                return False
            raise self._exists()
        if not fits(there.st_mode):
            kind = "directory" if self._offer.directory else "file"
            raise TransferRefused(f"'{shown}' exists already, and is no {kind}", Reason.EXISTS)
        return self._offer.directory

    def _exists(self) -> TransferRefused:
        shown = printable(self._offer.name)
        return TransferRefused(f"'{shown}' exists already, and nothing is overwritten", Reason.EXISTS)

    def _check_merge(self) -> None:
        """What is harmless in a directory of its own need not be in one that the user works in."""
        for entry in self._entries:
            check_harmless(entry.path, self._rules)

    def prepare(self, entries: EntryList) -> Sequence[int]:
        """Make room; how much of each entry there is from an earlier try."""
        self._entries = entries
        self._hashes = bytearray(DIGEST_SIZE * len(entries))
        self._omitted = bytearray(len(entries))
        if self.comparing:
            return self._there_in_place()
        if self._take_place():
            self._check_merge()
        with refused_by_the_system(self._offer.name):
            self._keep_of_kind(directory=self._offer.directory)
            if self._offer.directory:
                self._make_folders()
            found = self._there_already()
            self._check_space(sum(found))
        return found

    def _keep_of_kind(self, *, directory: bool) -> None:
        """What an earlier try left is of no use if it is something else now."""
        there = _status(self._partial, self._folder)
        if there is None:
            return
        if stat.S_ISDIR(there.st_mode):
            if not directory:
                shutil.rmtree(self._partial, dir_fd=self._folder)
        elif directory or not stat.S_ISREG(there.st_mode):
            os.unlink(self._partial, dir_fd=self._folder)

    def _make_folders(self) -> None:
        with suppress(FileExistsError):
            os.mkdir(self._partial, dir_fd=self._folder)
        self._sweep()
        for entry in self._entries:
            if entry.directory:
                with self._parent(entry) as parent, suppress(FileExistsError):
                    os.mkdir(entry.path[-1], dir_fd=parent)

    def _sweep(self) -> None:
        """Remove what is not in the list, or is something else there: it would come out at the end with the rest."""
        walk = os.fwalk(self._partial, topdown=False, follow_symlinks=False, dir_fd=self._folder)
        for place, folders, files, descriptor in walk:
            above = tuple(place.split(os.sep))[1:]
            for name in files:
                regular = stat.S_ISREG(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode)
                if not regular or self._entries.kind_of((*above, name)) is not False:
                    os.unlink(name, dir_fd=descriptor)
            for name in folders:
                there = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISLNK(there.st_mode):
                    os.unlink(name, dir_fd=descriptor)
                elif self._entries.kind_of((*above, name)) is not True:
                    os.rmdir(name, dir_fd=descriptor)

    def _there_already(self) -> Sequence[int]:
        found = array("Q", bytes(8 * len(self._entries)))
        partial = 0
        for index, entry in enumerate(self._entries):
            if entry.directory:
                continue
            with self._parent(entry) as parent:
                there = _status(self._name_in_parent(entry), parent)
            size = 0 if there is None else min(there.st_size, entry.size)
            if 0 < size < entry.size:
                partial += 1
                size = size if partial <= MOST_PARTIAL else 0
            found[index] = size
        return found

    def _there_in_place(self) -> Sequence[int]:
        """The same for what may be there as a whole. TransferRefused when it is not."""
        for entry in self._entries:
            try:
                with self._parent(entry) as parent:
                    there = _status(self._name_in_parent(entry), parent)
            except OSError:  # a directory on the way is missing, or a link
                raise self._exists() from None
            fits = stat.S_ISDIR if entry.directory else stat.S_ISREG
            if (
                there is None
                or not fits(there.st_mode)
                or (not entry.directory and there.st_size != entry.size)
            ):
                raise self._exists()
        return array("Q", (0 if entry.directory else entry.size for entry in self._entries))

    def _check_space(self, there: int) -> None:
        system = os.fstatvfs(self._folder)
        free, missing = system.f_bavail * system.f_frsize, self._offer.size - there
        if missing > free:
            raise TransferRefused(f"{missing} bytes do not fit into the {free} that are free", Reason.SPACE)

    def hash_there(self, index: int, size: int) -> Iterator[Part | None]:
        """Hash the first bytes of a file, a block at a time: None while it goes on, then the part."""
        entry, digest, left = self._entries[index], hashlib.sha256(), size
        with refused_by_the_system(self._shown(entry)):
            with self._parent(entry) as parent:
                descriptor = os.open(self._name_in_parent(entry), os.O_RDONLY | _FILE, dir_fd=parent)
            try:
                while left and (data := os.read(descriptor, min(BLOCK, left))):
                    digest.update(data)
                    left -= len(data)
                    yield None
            finally:
                os.close(descriptor)
        if left:
            raise TransferRefused(
                f"'{self._shown(entry)}' is being changed by somebody else here", Reason.FILES
            )
        if size == entry.size:
            self._hashes[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE] = digest.digest()
        else:
            self._begun[index] = digest
        yield Part(index, size, digest.digest())

    # -- the data ------------------------------------------------------------------------------------------------

    def begin(self, index: int, offset: int) -> None:
        entry = self._entries[index]
        if self.comparing:
            if offset != entry.size:
                raise self._exists()
            return
        with refused_by_the_system(self._shown(entry)), self._parent(entry) as parent:
            whole = self._hash_of(index) if offset and offset == entry.size else None
            so_far = self._begun.pop(index, None) if offset and whole is None else None
            self._file = IncomingFile(
                self._name_in_parent(entry), parent, entry, offset, so_far or hashlib.sha256(), whole
            )
            self._file.executable = entry.executable and self._executable

    def omit(self, index: int) -> None:
        """The sender cannot send it: what came of it goes, and nothing takes its place."""
        if self.comparing:
            raise self._exists()
        entry, file, self._file = self._entries[index], self._file, None
        self._omitted[index] = True
        if file is not None:
            file.close()
        name = self._name_in_parent(entry)
        with (
            refused_by_the_system(self._shown(entry)),
            self._parent(entry) as parent,
            suppress(FileNotFoundError),
        ):
            os.unlink(name, dir_fd=parent)

    def write(self, pieces: Sequence[bytes]) -> None:
        assert self._file is not None
        with refused_by_the_system(self._shown(self._file.entry)):
            self._file.write(pieces)

    def end(self, index: int, digest: bytes) -> None:
        """TransferRefused (and the file is gone, if it was coming) when the hash is another."""
        if self.comparing:
            if digest != (self._hash_of(index) if self._entries.size(index) else hashlib.sha256().digest()):
                raise self._exists()
            return
        assert self._file is not None
        file, self._file = self._file, None
        shown = self._shown(file.entry)
        with refused_by_the_system(shown):
            try:
                right = file.finish(digest)
            finally:
                file.close()
            if not right:
                with self._parent(file.entry) as parent:
                    os.unlink(self._name_in_parent(file.entry), dir_fd=parent)
                raise TransferRefused(
                    f"'{shown}' arrived with another hash than it was sent with", Reason.MISMATCH
                )

    # -- after the data ------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Put it in its place, at once. TransferRefused when that is taken meanwhile."""
        name, folder = self._offer.name, self._folder
        if self.comparing:
            return
        with refused_by_the_system(name):
            merging = self._take_place()
            if merging:
                self._check_merge()
                self._merge()
            elif self._offer.directory:
                os.rename(self._partial, name, src_dir_fd=folder, dst_dir_fd=folder)
            elif self._overwrite:
                os.replace(self._partial, name, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                _move_where_nothing_is(self._partial, name, folder)

    def _merge(self) -> None:
        """Into a directory that is there (`overwrite`): files take the places of files, what else is there stays."""
        for index, entry in enumerate(self._entries):
            if self._omitted[index]:
                continue
            with _descend(self._folder, (self._offer.name, *entry.path[:-1])) as target:
                name = entry.path[-1]
                if entry.directory:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=target)
                    continue
                with self._parent(entry) as parent:
                    os.replace(name, name, src_dir_fd=parent, dst_dir_fd=target)
        shutil.rmtree(self._partial, dir_fd=self._folder)

    def _hash_of(self, index: int) -> bytes:
        return bytes(self._hashes[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE])

    # -- places --------------------------------------------------------------------------------------------------

    @contextmanager
    def _parent(self, entry: Entry) -> Iterator[int]:
        """The directory (below the hidden one, unless it is compared) that the entry is in, as a descriptor."""
        above = (self._root, *entry.path[:-1]) if self._offer.directory else ()
        with _descend(self._folder, above) as descriptor:
            yield descriptor

    def _name_in_parent(self, entry: Entry) -> str:
        return entry.path[-1] if self._offer.directory else self._root

    @property
    def _root(self) -> str:
        return self._offer.name if self.comparing else self._partial

    def _shown(self, entry: Entry) -> str:
        return printable("/".join((self._offer.name, *entry.path)))


class IncomingFile:
    """A file that is being written, with its SHA-256 so far. `whole`: its hash, when all of it was there before."""

    def __init__(
        self, name: str, parent: int, entry: Entry, offset: int, so_far: hashlib._Hash, whole: bytes | None
    ) -> None:
        self.entry = entry
        self.executable = False
        self._hash = so_far
        self._whole = whole
        self._descriptor = os.open(name, os.O_RDWR | os.O_CREAT | _FILE, 0o666, dir_fd=parent)
        try:
            os.ftruncate(self._descriptor, offset)
            os.lseek(self._descriptor, offset, os.SEEK_SET)
        except BaseException:
            os.close(self._descriptor)
            raise

    def write(self, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            self._hash.update(piece)

    def finish(self, digest: bytes) -> bool:
        """Whether it is what was sent; then it gets its permission and its time."""
        if (self._whole or self._hash.digest()) != digest:
            return False
        mode = stat.S_IMODE(os.fstat(self._descriptor).st_mode)
        readers = (mode & 0o444) >> 2  # whoever may read it may run it
        os.fchmod(self._descriptor, (mode & 0o666) | (readers if self.executable else 0))
        modified = max(-_LARGEST_TIME, min(_LARGEST_TIME, self.entry.modified))
        with suppress(
            OSError, OverflowError
        ):  # a time that the file system cannot hold is not worth a failure
            os.utime(self._descriptor, ns=(modified, modified))
        return True

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def refused_by_the_system(what: str) -> Iterator[None]:
    """An OSError becomes what the sender is told."""
    try:
        yield
    except OSError as error:
        reason = Reason.SPACE if error.errno in _FULL else Reason.FILES
        raise TransferRefused(f"'{printable(what)}': {error.strerror or error}", reason) from error
    except UnicodeEncodeError as error:  # the locale's encoding of file names is not UTF-8
        raise TransferRefused(
            f"'{printable(what)}' cannot be the name of a file here", Reason.UNSAFE
        ) from error


@contextmanager
def _descend(folder: int, path: Sequence[str]) -> Iterator[int]:
    descriptor = os.dup(folder)
    try:
        for name in path:
            below = os.open(name, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _status(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _move_where_nothing_is(partial: str, name: str, folder: int) -> None:
    """rename() would replace what somebody has put there in the last moment; link() does not."""
    try:
        os.link(partial, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise TransferRefused(
            f"'{printable(name)}' exists by now, and nothing is overwritten", Reason.EXISTS
        ) from None
    except OSError:  # a file system without hard links
        os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
    else:
        os.unlink(partial, dir_fd=folder)
