"""The one place that asks which system this is: whatever differs is behind the names here.

    SOCKETS      options, errors, and what the system tells of a connection
    INTERFACES   addresses, default routes, and signs that they have changed
    FILES        folders of the user, locks, permissions, names in directories
    PROCESSES    groups of programs, being told to end, rights
    TERMINAL     stdin and stdout, and who sits there

Each system has files of its own, which say where their facts come from. A subject's file (`sockets.py`,
`interfaces.py`, `files.py`, `processes.py`) says what there is to ask. docs/platforms.md says what was run where.
"""

from __future__ import annotations

import sys

from warpgate.platform.files import Files
from warpgate.platform.interfaces import Interfaces
from warpgate.platform.processes import Processes, Terminal
from warpgate.platform.sockets import Sockets

SOCKETS: Sockets
INTERFACES: Interfaces
FILES: Files
PROCESSES: Processes
TERMINAL: Terminal

if sys.platform == "win32":
    from warpgate.platform.windows import WindowsInterfaces, WindowsSockets
    from warpgate.platform.windows_files import WindowsFiles
    from warpgate.platform.windows_processes import WindowsProcesses, WindowsTerminal

    SOCKETS, INTERFACES = WindowsSockets(), WindowsInterfaces()
    FILES, PROCESSES, TERMINAL = WindowsFiles(), WindowsProcesses(), WindowsTerminal()
elif sys.platform == "linux" or sys.platform == "android":
    from warpgate.platform.linux import LinuxInterfaces, LinuxSockets
    from warpgate.platform.linux_host import LinuxFiles, LinuxProcesses
    from warpgate.platform.posix_processes import PosixTerminal

    SOCKETS, INTERFACES = LinuxSockets(), LinuxInterfaces()
    FILES, PROCESSES, TERMINAL = LinuxFiles(), LinuxProcesses(), PosixTerminal()
else:
    from warpgate.platform.bsd import (
        AppleInterfaces,
        AppleSockets,
        BsdInterfaces,
        BsdSockets,
        FreeBsdInterfaces,
    )
    from warpgate.platform.posix_files import AppleFiles, PosixFiles
    from warpgate.platform.posix_processes import PosixProcesses, PosixTerminal

    if sys.platform == "darwin":
        SOCKETS, INTERFACES, FILES = AppleSockets(), AppleInterfaces(), AppleFiles()
    else:
        SOCKETS, FILES = BsdSockets(), PosixFiles()
        INTERFACES = FreeBsdInterfaces() if sys.platform.startswith("freebsd") else BsdInterfaces()
    PROCESSES, TERMINAL = PosixProcesses(), PosixTerminal()
