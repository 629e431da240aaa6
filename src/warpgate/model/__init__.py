"""Values: endpoints, candidates, NAT profiles, identities, addresses. Nothing here does I/O."""
