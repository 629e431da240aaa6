"""Files on Windows.

The facts: learn.microsoft.com/windows/win32 on file management, security descriptors and SDDL; Known Folders
(FOLDERID_LocalAppData); CPython's documentation of `os`, which has no directory descriptors there.
"""

from __future__ import annotations

import sys

assert sys.platform == "win32"

import ctypes
import errno
import msvcrt
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from ctypes import byref, c_int, c_ulong, c_void_p, c_wchar_p
from pathlib import Path

from warpgate.platform.files import APPLICATION, Files, Folder
from warpgate.platform.windows_wire import others_in

_BYTES = os.O_BINARY | os.O_NOINHERIT
_FAR = 1 << 30  # a locked byte cannot be read by others, and they want to read who holds the lock
# Whoever else reads a file without letting it be replaced (a virus scanner, an indexer) is done soon.
_REPLACE_PATIENCE = 1.0
_REPLACE_PAUSE = 0.01

_advapi = ctypes.WinDLL("advapi32", use_last_error=True)
_kernel = ctypes.WinDLL("kernel32", use_last_error=True)
_DACL = 0x4  # DACL_SECURITY_INFORMATION
_PROTECTED = 0x80000000
_SDDL_REVISION = 1
_TOKEN_QUERY, _TOKEN_USER = 0x8, 1
_EPOCH = 116_444_736_000_000_000  # 1970 in FILETIME's 100 ns since 1601


class WindowsFolder(Folder):
    """By its path: between looking at a name and using it something else could get there, put by a program that may
    write to this folder.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def _at(self, name: str) -> str:
        if os.path.basename(name) != name or name in ("", ".", "..") or ":" in name:
            raise OSError(errno.EINVAL, "not a name in a directory", name)
        return os.path.join(self._path, name)

    def below(self, *names: str) -> WindowsFolder:
        here = self
        for name in names:
            path = here._at(name)
            if not _is_plain(os.lstat(path), folder=True):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
            here = WindowsFolder(path)
        return WindowsFolder(here._path)

    def close(self) -> None:
        """Nothing is held."""

    def status(self, name: str) -> os.stat_result | None:
        try:
            return os.lstat(self._at(name))
        except FileNotFoundError:
            return None

    def open_file(self, name: str, flags: int) -> int:
        there = self.status(name)
        if there is not None and not _is_plain(there, folder=False):
            raise OSError(errno.ELOOP, "not a file", name)
        return os.open(self._at(name), flags | _BYTES, 0o666)

    def make(self, name: str) -> None:
        os.mkdir(self._at(name))

    def remove_file(self, name: str) -> None:
        os.unlink(self._at(name))

    def remove_folder(self, name: str) -> None:
        os.rmdir(self._at(name))

    def remove_tree(self, name: str) -> None:
        shutil.rmtree(self._at(name))

    def rename(self, name: str, new: str) -> None:
        os.rename(self._at(name), self._at(new))

    def link(self, name: str, new: str) -> None:
        os.link(self._at(name), self._at(new))

    def replace(self, name: str, into: Folder, new: str) -> None:
        assert isinstance(into, WindowsFolder)
        os.replace(self._at(name), into._at(new))

    def walk(self, name: str) -> Iterator[tuple[tuple[str, ...], list[str], list[str], Folder]]:
        root = self._at(name)
        for place, folders, files in os.walk(root, topdown=False):
            above = () if place == root else tuple(os.path.relpath(place, root).split(os.sep))
            yield above, folders, files, WindowsFolder(place)

    def free(self) -> int:
        return shutil.disk_usage(self._path).free


def _is_plain(there: os.stat_result, *, folder: bool) -> bool:
    """No link, junction or the like."""
    if there.st_file_attributes & stat.FILE_ATTRIBUTE_REPARSE_POINT:
        return False
    return stat.S_ISDIR(there.st_mode) if folder else stat.S_ISREG(there.st_mode)


class WindowsFiles(Files):
    reserved_names = True

    def data_folder(self, environ: Mapping[str, str]) -> Path | None:
        local, home = environ.get("LOCALAPPDATA"), environ.get("USERPROFILE")
        if local:
            return Path(local, APPLICATION)
        return Path(home, "AppData", "Local", APPLICATION) if home else None

    def config_folder(self, environ: Mapping[str, str]) -> Path | None:
        return self.data_folder(environ)

    def open_folder(self, path: Path) -> WindowsFolder:
        if not path.is_dir():
            number = errno.ENOTDIR if path.exists() else errno.ENOENT
            raise OSError(number, os.strerror(number), str(path))
        return WindowsFolder(os.path.abspath(path))

    def open_to_read(self, path: Path, *, follow: bool) -> int:
        if not follow and not _is_plain(os.lstat(path), folder=False):
            raise OSError(errno.ELOOP, "not a file", str(path))
        return os.open(path, os.O_RDONLY | _BYTES)

    def open_lock(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | _BYTES, 0o600)

    def try_lock(self, descriptor: int) -> bool:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def others_may_read(self, path: Path, descriptor: int) -> str:
        if not others_in(_sddl(path)):
            return ""
        return f': run icacls "{path}" /inheritance:r /grant:r "%USERNAME%:F"'

    def protect(self, path: Path) -> None:
        """For the user, the system and administrators alone, whatever the folder's list says. A file system without
        lists (FAT) has none to change.
        """
        descriptor = c_void_p()
        sddl = f"D:P(A;;FA;;;{_own_sid()})(A;;FA;;;SY)(A;;FA;;;BA)"
        made = _advapi.ConvertStringSecurityDescriptorToSecurityDescriptorW(
            c_wchar_p(sddl), c_ulong(_SDDL_REVISION), byref(descriptor), None
        )
        if made:
            _advapi.SetFileSecurityW(c_wchar_p(str(path)), c_ulong(_DACL | _PROTECTED), descriptor)
            _kernel.LocalFree(descriptor)

    def replace(self, draft: Path, path: Path) -> None:
        deadline = time.monotonic() + _REPLACE_PATIENCE
        while True:
            try:
                draft.replace(path)
            except PermissionError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_REPLACE_PAUSE)
            else:
                return

    def let_run(self, descriptor: int, *, executable: bool) -> None:
        """What can be run is told by the name."""

    def set_modified(self, descriptor: int, nanoseconds: int) -> None:
        when = _EPOCH + nanoseconds // 100
        if when < 0:
            raise OverflowError("before 1601")
        handle = c_void_p(msvcrt.get_osfhandle(descriptor))
        if not _kernel.SetFileTime(handle, None, None, byref(ctypes.c_ulonglong(when))):
            raise ctypes.WinError(ctypes.get_last_error())


def _sddl(path: Path) -> str:
    """Of the file's access list; that of a list of nobody where there are no lists."""
    size = c_ulong(0)
    _advapi.GetFileSecurityW(c_wchar_p(str(path)), c_ulong(_DACL), None, c_ulong(0), byref(size))
    descriptor, text = ctypes.create_string_buffer(max(size.value, 1)), c_wchar_p()
    if not _advapi.GetFileSecurityW(c_wchar_p(str(path)), c_ulong(_DACL), descriptor, size, byref(size)):
        return "D:"
    if not _advapi.ConvertSecurityDescriptorToStringSecurityDescriptorW(
        descriptor, c_ulong(_SDDL_REVISION), c_ulong(_DACL), byref(text), None
    ):
        return "D:"
    try:
        return text.value or "D:"
    finally:
        _kernel.LocalFree(text)


def _own_sid() -> str:
    """This user's, or that of whoever owns what it makes."""
    token, size, text = c_void_p(), c_ulong(0), c_wchar_p()
    _kernel.GetCurrentProcess.restype = c_void_p
    if not _advapi.OpenProcessToken(c_void_p(_kernel.GetCurrentProcess()), c_ulong(_TOKEN_QUERY), byref(token)):
        return "OW"
    try:
        _advapi.GetTokenInformation(token, c_int(_TOKEN_USER), None, c_ulong(0), byref(size))
        user = ctypes.create_string_buffer(max(size.value, ctypes.sizeof(c_void_p)))
        if not _advapi.GetTokenInformation(token, c_int(_TOKEN_USER), user, size, byref(size)):
            return "OW"
        sid = c_void_p.from_buffer(user)
        if not _advapi.ConvertSidToStringSidW(sid, byref(text)):
            return "OW"
        with suppress(ValueError):
            return text.value or "OW"
        return "OW"
    finally:
        _kernel.CloseHandle(token)
        if text:
            _kernel.LocalFree(text)
