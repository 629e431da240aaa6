"""The UDP sockets of a node, and who gets what arrives at them."""
