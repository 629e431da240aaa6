"""The one place that asks which system this is: whatever differs is behind the names here.

    SOCKETS      options, errors, and what the system tells of a connection
    INTERFACES   addresses, default routes, and signs that they have changed

Each system has a file, which says where its facts come from. A subject's own file (`sockets.py`, `interfaces.py`) says
what there is to ask, and what holds on a system nothing is known of. docs/platforms.md says what was run where.
"""

from __future__ import annotations

import sys

from warpgate.platform.interfaces import Interfaces
from warpgate.platform.sockets import Sockets

if sys.platform == "linux" or sys.platform == "android":
    from warpgate.platform.linux import LinuxInterfaces, LinuxSockets

    SOCKETS: Sockets = LinuxSockets()
    INTERFACES: Interfaces = LinuxInterfaces()
elif sys.platform != "win32":
    from warpgate.platform.bsd import BsdInterfaces, BsdSockets

    SOCKETS = BsdSockets()
    INTERFACES = BsdInterfaces()
else:
    SOCKETS = Sockets()
    INTERFACES = Interfaces()
