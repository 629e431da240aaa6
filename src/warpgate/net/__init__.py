"""The only place that touches sockets: the Network seam, its implementations, interfaces, links."""
