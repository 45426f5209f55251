"""Which advisors are on, and what they are given: ``NERVE_WML_*``, ``KIKI_FLOW_*`` and ``[agents.<advisor>]``."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import msgspec

from agents.advisors import flow, nerve
from agents.router.advice import AdvisorSettings
from bus import metrics
from schemas.errors import SetupError
from schemas.services import ADVISORS

PREFIXES = {nerve.NAME: "NERVE_WML", flow.NAME: "KIKI_FLOW"}
_PACKAGES = {nerve.NAME: nerve.MODULE, flow.NAME: flow.MODULE}


def enabled() -> dict[str, AdvisorSettings]:
    """The advisors whose ``<PREFIX>_ENABLED`` is 1, with their ``<PREFIX>_ALPHA``.

    Raises:
        SetupError: an alpha is no number in 0..1.
    """
    return {name: _asked(PREFIXES[name]) for name in ADVISORS if os.environ.get(f"{PREFIXES[name]}_ENABLED") == "1"}


def served() -> tuple[str, ...]:
    """The enabled advisors that this machine can run; one that is not installed is counted, and logged once."""
    found = []
    for name in enabled():
        if _installed(_PACKAGES[name]):
            found.append(name)
        else:
            metrics.degraded(f"advisor.{name}", f"{PREFIXES[name]}_ENABLED is 1 and {name} is not installed")
    return tuple(found)


def given(name: str, *, domains: tuple[str, ...]) -> dict[str, Any]:
    """What the environment says of an advisor's own settings."""
    prefix = PREFIXES[name]
    trusted = {"trust_pickle": os.environ.get(f"{prefix}_TRUST_PICKLE") == "1"}
    if name == nerve.NAME:
        return {**trusted, "domains": domains, "checkpoint": _path(f"{prefix}_CHECKPOINT_PATH")}
    return {**trusted, "weights": _path(f"{prefix}_WEIGHTS_PATH")}


def _asked(prefix: str) -> AdvisorSettings:
    text = os.environ.get(f"{prefix}_ALPHA")
    if text is None:
        return AdvisorSettings()
    try:
        return msgspec.convert({"alpha": text}, AdvisorSettings, strict=False)
    except msgspec.ValidationError as error:
        raise SetupError(
            f"{prefix}_ALPHA is '{text}', expected a number from 0 to 1.", param=f"{prefix}_ALPHA"
        ) from error


def _path(variable: str) -> Path | None:
    text = os.environ.get(variable)
    return Path(text).expanduser() if text else None


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
