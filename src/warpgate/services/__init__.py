"""Clients of outside servers: STUN discovery, signalling, port mapping, relay, names."""
