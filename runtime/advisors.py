"""Which advisors are on and what they are given: ``NERVE_WML_*``, ``KIKI_FLOW_*``, ``[agents.<advisor>]``."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import msgspec

from agents.advisors import flow, nerve
from agents.router.advice import AdvisorSettings
from bus import metrics
from runtime.settings import Settings
from schemas.advisors import ADVISORS
from schemas.errors import SetupError

PREFIXES = {nerve.NAME: "NERVE_WML", flow.NAME: "KIKI_FLOW"}
_PACKAGES = {nerve.NAME: nerve.MODULE, flow.NAME: flow.MODULE}


def enabled(settings: Settings) -> dict[str, AdvisorSettings]:
    """Those whose ``<PREFIX>_ENABLED`` is 1, with their ``<PREFIX>_ALPHA``, and those of ``[agents.router.advisors]``.

    Raises:
        SetupError: there is no such advisor, or a weight or a deadline is no number in its range.
    """
    listed = settings.agents.get("router", {}).get("advisors", {})
    if unknown := sorted(set(listed) - set(ADVISORS)):
        choices = ", ".join(ADVISORS)
        raise SetupError(f"there is no advisor '{unknown[0]}': choose from {choices}.", param="agents.router.advisors")
    asked = {name: os.environ.get(f"{PREFIXES[name]}_ENABLED") == "1" for name in ADVISORS}
    return {name: _asked(name, listed.get(name, {})) for name in ADVISORS if asked[name] or name in listed}


def served(settings: Settings) -> tuple[str, ...]:
    """The enabled advisors that this machine can run; one that is not installed is counted, and logged once."""
    found = []
    for name in enabled(settings):
        if _installed(_PACKAGES[name]):
            found.append(name)
        else:
            metrics.degraded(f"advisor.{name}", f"{name} is on and not installed here; it may run elsewhere on the bus")
    return tuple(found)


def given(name: str, *, domains: tuple[str, ...]) -> dict[str, Any]:
    """What the environment says of an advisor's own settings."""
    prefix = PREFIXES[name]
    trusted = {"trust_pickle": os.environ.get(f"{prefix}_TRUST_PICKLE") == "1"}
    if name == nerve.NAME:
        return {**trusted, "domains": domains, "checkpoint": _path(f"{prefix}_CHECKPOINT_PATH")}
    return {**trusted, "weights": _path(f"{prefix}_WEIGHTS_PATH")}


def _asked(name: str, listed: dict[str, Any]) -> AdvisorSettings:
    variable = f"{PREFIXES[name]}_ALPHA"
    alpha = os.environ.get(variable)
    said = {**({} if alpha is None else {"alpha": alpha}), **listed}
    try:
        return msgspec.convert(said, AdvisorSettings, strict=False)
    except msgspec.ValidationError as error:
        raise SetupError(f"advisor '{name}': {error} ({variable} is '{alpha}').", param=variable) from error


def _path(variable: str) -> Path | None:
    text = os.environ.get(variable)
    return Path(text).expanduser() if text else None


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
