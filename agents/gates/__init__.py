"""Judges proposed adapters: health, angles to the adapters that are served, and what these unlearn beside it."""
