"""Domains, aliases, defaults, router corpus and weights: data, found through :mod:`importlib.resources`."""
