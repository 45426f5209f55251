"""Benches of the memory that grow or rebuild its stores."""
