"""The router: chooses a prompt's domains, the adapters that answer it, and how much cognition it gets."""
