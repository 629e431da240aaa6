"""Nodes and pipes: the search that runs strategies, proves keys, picks one link and hands it to the user."""
