"""Nodes and pipes: the engine that runs strategies, proves keys, picks one link and hands it to the user."""
