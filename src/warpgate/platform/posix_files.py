"""Files on Linux, macOS and the BSDs: POSIX.1-2024 (openat and its kind, flock where it is the BSDs'), the XDG base
directory specification 0.8, and on macOS the folders of Apple's File System Programming Guide.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import fcntl
import os
import resource
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from warpgate.platform.files import APPLICATION, UNLIMITED, Files, Folder

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO in a file's place must not hold us up
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class PosixFolder(Folder):
    def __init__(self, descriptor: int) -> None:
        """Takes it over."""
        self._descriptor = descriptor

    def below(self, *names: str) -> PosixFolder:
        descriptor = os.dup(self._descriptor)
        try:
            for name in names:
                below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
        except BaseException:
            os.close(descriptor)
            raise
        return PosixFolder(descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def status(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open_file(self, name: str, flags: int) -> int:
        return os.open(name, flags | _FILE | os.O_NOFOLLOW, 0o666, dir_fd=self._descriptor)

    def make(self, name: str) -> None:
        os.mkdir(name, dir_fd=self._descriptor)

    def remove_file(self, name: str) -> None:
        os.unlink(name, dir_fd=self._descriptor)

    def remove_folder(self, name: str) -> None:
        os.rmdir(name, dir_fd=self._descriptor)

    def remove_tree(self, name: str) -> None:
        import shutil  # noqa: PLC0415 - 0.6 MB with what it imports

        shutil.rmtree(name, dir_fd=self._descriptor)

    def rename(self, name: str, new: str) -> None:
        os.rename(name, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def link(self, name: str, new: str) -> None:
        os.link(name, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor, follow_symlinks=False)

    def replace(self, name: str, into: Folder, new: str) -> None:
        assert isinstance(into, PosixFolder)
        os.replace(name, new, src_dir_fd=self._descriptor, dst_dir_fd=into._descriptor)

    def walk(self, name: str) -> Iterator[tuple[tuple[str, ...], list[str], list[str], Folder]]:
        walk = os.fwalk(name, topdown=False, follow_symlinks=False, dir_fd=self._descriptor)
        for place, folders, files, descriptor in walk:
            here = PosixFolder(os.dup(descriptor))
            try:
                yield tuple(place.split(os.sep))[1:], folders, files, here
            finally:
                here.close()

    def free(self) -> int:
        system = os.fstatvfs(self._descriptor)
        return system.f_bavail * system.f_frsize


class PosixFiles(Files):
    def data_folder(self, environ: Mapping[str, str]) -> Path | None:
        return self._folder(environ, "XDG_DATA_HOME", _home(environ), ".local", "share")

    def config_folder(self, environ: Mapping[str, str]) -> Path | None:
        home = environ.get("HOME")
        return self._folder(environ, "XDG_CONFIG_HOME", Path(home) if home else None, ".config")

    def _folder(self, environ: Mapping[str, str], variable: str, home: Path | None, *usual: str) -> Path | None:
        shared = Path(environ.get(variable, ""))
        if shared.is_absolute():  # the XDG specification says to ignore relative paths
            return shared / APPLICATION
        return None if home is None else home.joinpath(*usual, APPLICATION)

    def open_folder(self, path: Path) -> PosixFolder:
        return PosixFolder(os.open(path, _FOLDER))

    def open_to_read(self, path: Path, *, follow: bool) -> int:
        return os.open(path, os.O_RDONLY | _FILE | (0 if follow else os.O_NOFOLLOW))

    def open_lock(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    def try_lock(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def others_may_read(self, path: Path, descriptor: int) -> str:
        mode = os.fstat(descriptor).st_mode
        return f"(mode {stat.S_IMODE(mode):04o}): run 'chmod 600 {path}'" if mode & _OTHERS else ""

    def protect(self, path: Path) -> None:
        """Files are made with mode 600 where this matters."""

    def replace(self, draft: Path, path: Path) -> None:
        draft.replace(path)

    def let_run(self, descriptor: int, *, executable: bool) -> None:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        readers = (mode & 0o444) >> 2  # whoever may read it may run it
        os.fchmod(descriptor, (mode & 0o666) | (readers if executable else 0))

    def set_modified(self, descriptor: int, nanoseconds: int) -> None:
        os.utime(descriptor, ns=(nanoseconds, nanoseconds))

    def open_files_limit(self) -> int:
        """RLIMIT_NOFILE."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return UNLIMITED if soft == resource.RLIM_INFINITY else soft

    def ask_for_open_files(self, count: int | None) -> int:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if count is None:
            count = hard
        elif hard != resource.RLIM_INFINITY:
            count = min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
        return self.open_files_limit()


class AppleFiles(PosixFiles):
    """One folder for both; the variables of XDG are still obeyed, for those who set them."""

    def _folder(self, environ: Mapping[str, str], variable: str, home: Path | None, *usual: str) -> Path | None:
        return super()._folder(environ, variable, home, "Library", "Application Support")


def _home(environ: Mapping[str, str]) -> Path | None:
    """An empty HOME is none: taken as a path it would be the root directory."""
    if environ.get("HOME"):
        return Path(environ["HOME"])
    if environ.get("HOME") is None:
        with suppress(RuntimeError):
            return Path.home()
    return None
