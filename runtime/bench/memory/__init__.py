"""Benches of the memory."""
