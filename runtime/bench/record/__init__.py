"""Benches of the record: how fast it is read and filled, and what writing it costs a turn."""
