"""Errors that several modules of the worker raise."""

from schemas.errors import StageFailed


def adapter_error(name: str, reason: str) -> StageFailed:
    """The error of an adapter that cannot be used."""
    return StageFailed(f"adapter '{name}' cannot be used: {reason}.", code="adapter_failed", param="adapters")
