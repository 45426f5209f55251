"""A turn after its end: its waterfall, how it was decided, and a rerun of it."""
