"""Errors that several modules of the worker raise."""

from schemas.errors import StageFailed


def failed(name: str, why: str) -> StageFailed:
    """The error of an adapter that cannot be used."""
    return StageFailed(f"adapter '{name}' cannot be used: {why}.", code="adapter_failed", param="adapters")
