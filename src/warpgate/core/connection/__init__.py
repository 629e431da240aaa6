"""QUIC on a path: the machine, its library, and the flow that carries it."""
