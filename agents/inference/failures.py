"""Errors that several modules of the worker raise."""

from schemas.errors import StageFailed


def adapter_error(name: str, reason: str) -> StageFailed:
    """The error of an adapter that cannot be used."""
    return StageFailed(f"adapter '{name}' cannot be used: {reason}.", code="adapter_failed", param="adapters")


def missing_adapter_error(name: str) -> StageFailed:
    """The error of a name under which there is no adapter."""
    return StageFailed(
        f"adapter '{name}' is not registered: 'kiki adapters ls' lists those that are.",
        code="adapter_not_found",
        param="name",
    )
