"""Benches of the memory: what recall finds."""
