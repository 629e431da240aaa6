"""The built-in strategies, in the order in which they start within their tick and reports list them."""

from __future__ import annotations

from warpgate.plugins.base import Plugin
from warpgate.plugins.direct import Direct
from warpgate.plugins.random_probe import RandomProbe
from warpgate.plugins.reverse import Reverse
from warpgate.plugins.tcp_punch import TcpPunch
from warpgate.plugins.turn import Turn
from warpgate.plugins.udp_punch import UdpPunch

BUILTIN: tuple[type[Plugin], ...] = (Direct, Reverse, UdpPunch, TcpPunch, RandomProbe, Turn)
