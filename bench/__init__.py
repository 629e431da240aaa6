"""One script a question; each prints what was measured as a ratio against a limit, or a peer."""
