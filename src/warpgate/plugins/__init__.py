"""Traversal strategies, one file each; `base` says what one is."""
