"""Importing this module registers the built-in strategies, in the order in which reports list them."""

# ruff: noqa: F401, I001 - imported for their registration; the order is the point
import warpgate.plugins.direct
import warpgate.plugins.reverse
import warpgate.plugins.udp_punch
import warpgate.plugins.tcp_punch
import warpgate.plugins.turn
