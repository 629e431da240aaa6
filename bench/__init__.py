"""One script a question; each prints what was measured as a ratio against a limit of design section 2 or a peer."""
