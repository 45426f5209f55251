"""A turn afterwards: its waterfall, how it was decided, and the same turn once more."""
