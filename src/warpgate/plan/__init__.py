"""Pure decisions: what kind of NAT this is, which ports to try, which strategies can work."""
