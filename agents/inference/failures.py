"""Errors that several modules of the worker raise."""

import contextlib
from collections.abc import Iterator

from agents.shared.adapters.rules import UnfitAdapter
from agents.shared.adapters.verdicts import KeptVerdict
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


def verdict_error(name: str, verdict: KeptVerdict | None) -> StageFailed:
    """The error of an adapter whose weights the gates have not passed."""
    if verdict is not None and verdict.state == "refused":
        return StageFailed(
            f"adapter '{name}' was refused by the gates: {verdict.message}.", code="adapter_refused", param="adapters"
        )
    return StageFailed(
        f"adapter '{name}' waits for the verdict of the gates: 'kiki adapters ls' shows it.",
        code="adapter_not_judged",
        param="adapters",
    )


@contextlib.contextmanager
def name_faults(name: str) -> Iterator[None]:
    """Raise a rule that an adapter breaks as the error of the adapter of that name.

    Raises:
        StageFailed: code ``adapter_failed``.
    """
    try:
        yield
    except UnfitAdapter as fault:
        raise adapter_error(name, fault.message) from fault
