"""Importing this module registers the built-in strategies, in the order in which reports list them."""

import warpgate.plugins.direct
import warpgate.plugins.reverse
import warpgate.plugins.udp_punch
import warpgate.plugins.tcp_punch  # noqa: F401, I001 - the order is the point
