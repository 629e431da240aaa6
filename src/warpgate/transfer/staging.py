"""The receiver's files: what comes in waits in a hidden place beside its own until all of it is there and verified.

Everything is opened from directory to directory, and no symbolic link is followed on the way (`Folder`), so that
nothing is written outside of the directory that the user gave. Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from warpgate.errors import TransferRefused
from warpgate.model.text import printable
from warpgate.platform import FILES
from warpgate.platform.files import Folder
from warpgate.proto.transfer_list import EntryList
from warpgate.proto.transfer_names import NameRules, check_harmless, partial_name
from warpgate.proto.transfer_wire import DIGEST_SIZE, Entry, Offer, Part, Reason

BLOCK = 1024 * 1024
# Files that an earlier try left unfinished and that are gone on with: there is one for each try that broke off.
MOST_PARTIAL = 256
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
        self._folder: Folder | None = None
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
            self._folder = FILES.open_folder(self._place)
        self._take_place(compare=compare)

    def close(self) -> None:
        """What came so far stays, to be continued. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.close()

    # -- before the data -----------------------------------------------------------------------------------------

    def _take_place(self, *, compare: bool = False) -> bool:
        """Whether it goes into a directory that is there. TransferRefused when the name is taken otherwise."""
        name, shown = self._offer.name, printable(self._offer.name)
        with refused_by_the_system(name):
            there = self._here.status(name)
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
        there = self._here.status(self._partial)
        if there is None:
            return
        if stat.S_ISDIR(there.st_mode):
            if not directory:
                self._here.remove_tree(self._partial)
        elif directory or not stat.S_ISREG(there.st_mode):
            self._here.remove_file(self._partial)

    def _make_folders(self) -> None:
        with suppress(FileExistsError):
            self._here.make(self._partial)
        self._sweep()
        for entry in self._entries:
            if entry.directory:
                with self._parent(entry) as parent, suppress(FileExistsError):
                    parent.make(entry.path[-1])

    def _sweep(self) -> None:
        """Remove what is not in the list, or is something else there: it would come out at the end with the rest."""
        for above, folders, files, folder in self._here.walk(self._partial):
            for name in files:
                there = folder.status(name)
                regular = there is not None and stat.S_ISREG(there.st_mode)
                if not regular or self._entries.kind_of((*above, name)) is not False:
                    folder.remove_file(name)
            for name in folders:
                there = folder.status(name)
                if there is not None and stat.S_ISLNK(there.st_mode):
                    folder.remove_file(name)
                elif self._entries.kind_of((*above, name)) is not True:
                    folder.remove_folder(name)

    def _there_already(self) -> Sequence[int]:
        found = array("Q", bytes(8 * len(self._entries)))
        partial = 0
        for index, entry in enumerate(self._entries):
            if entry.directory:
                continue
            with self._parent(entry) as parent:
                there = parent.status(self._name_in_parent(entry))
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
                    there = parent.status(self._name_in_parent(entry))
            except OSError:  # a directory on the way is missing, or a link
                raise self._exists() from None
            fits = stat.S_ISDIR if entry.directory else stat.S_ISREG
            if there is None or not fits(there.st_mode) or (not entry.directory and there.st_size != entry.size):
                raise self._exists()
        return array("Q", (0 if entry.directory else entry.size for entry in self._entries))

    def _check_space(self, there: int) -> None:
        free, missing = self._here.free(), self._offer.size - there
        if missing > free:
            raise TransferRefused(f"{missing} bytes do not fit into the {free} that are free", Reason.SPACE)

    def hash_there(self, index: int, size: int) -> Iterator[Part | None]:
        """Hash the first bytes of a file, a block at a time: None while it goes on, then the part."""
        entry, digest, left = self._entries[index], hashlib.sha256(), size
        with refused_by_the_system(self._shown(entry)):
            with self._parent(entry) as parent:
                descriptor = parent.open_file(self._name_in_parent(entry), os.O_RDONLY)
            try:
                while left and (data := os.read(descriptor, min(BLOCK, left))):
                    digest.update(data)
                    left -= len(data)
                    yield None
            finally:
                os.close(descriptor)
        if left:
            raise TransferRefused(f"'{self._shown(entry)}' is being changed by somebody else here", Reason.FILES)
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
            parent.remove_file(name)

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
                    parent.remove_file(self._name_in_parent(file.entry))
                raise TransferRefused(f"'{shown}' arrived with another hash than it was sent with", Reason.MISMATCH)

    # -- after the data ------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Put it in its place, at once. TransferRefused when that is taken meanwhile."""
        name = self._offer.name
        if self.comparing:
            return
        with refused_by_the_system(name):
            merging = self._take_place()
            if merging:
                self._check_merge()
                self._merge()
            elif self._offer.directory:
                self._here.rename(self._partial, name)
            elif self._overwrite:
                self._here.replace(self._partial, self._here, name)
            else:
                _move_where_nothing_is(self._partial, name, self._here)

    def _merge(self) -> None:
        """Into a directory that is there (`overwrite`): files take the places of files, what else is there stays."""
        for index, entry in enumerate(self._entries):
            if self._omitted[index]:
                continue
            with self._here.below(self._offer.name, *entry.path[:-1]) as target:
                name = entry.path[-1]
                if entry.directory:
                    with suppress(FileExistsError):
                        target.make(name)
                    continue
                with self._parent(entry) as parent:
                    parent.replace(name, target, name)
        self._here.remove_tree(self._partial)

    def _hash_of(self, index: int) -> bytes:
        return bytes(self._hashes[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE])

    # -- places --------------------------------------------------------------------------------------------------

    @property
    def _here(self) -> Folder:
        assert self._folder is not None, "not open"
        return self._folder

    def _parent(self, entry: Entry) -> Folder:
        """The directory (below the hidden one, unless it is compared) that the entry is in; to be closed."""
        above = (self._root, *entry.path[:-1]) if self._offer.directory else ()
        return self._here.below(*above)

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
        self, name: str, parent: Folder, entry: Entry, offset: int, so_far: hashlib._Hash, whole: bytes | None
    ) -> None:
        self.entry = entry
        self.executable = False
        self._hash = so_far
        self._whole = whole
        self._descriptor = parent.open_file(name, os.O_RDWR | os.O_CREAT)
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
        FILES.let_run(self._descriptor, executable=self.executable)
        modified = max(-_LARGEST_TIME, min(_LARGEST_TIME, self.entry.modified))
        with suppress(OSError, OverflowError):  # a time that the file system cannot hold is not worth a failure
            FILES.set_modified(self._descriptor, modified)
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
        raise TransferRefused(f"'{printable(what)}' cannot be the name of a file here", Reason.UNSAFE) from error


def _move_where_nothing_is(partial: str, name: str, folder: Folder) -> None:
    """rename() would replace what somebody has put there in the last moment; link() does not."""
    try:
        folder.link(partial, name)
    except FileExistsError:
        raise TransferRefused(f"'{printable(name)}' exists by now, and nothing is overwritten", Reason.EXISTS) from None
    except OSError:  # a file system without hard links
        folder.rename(partial, name)
    else:
        folder.remove_file(partial)
