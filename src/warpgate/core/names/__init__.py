"""Destinations, names, and the keys that are known behind them."""
