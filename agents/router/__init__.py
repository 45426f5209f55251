"""The router: which domains a prompt belongs to, which adapters answer, and how much cognition it gets."""
