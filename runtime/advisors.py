"""Which advisors are on, and their settings: ``NERVE_WML_*``, ``KIKI_FLOW_*``, ``[agents.router.advisors]``."""

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
"""How the names of each advisor's environment variables begin."""

_PACKAGES = {nerve.NAME: nerve.MODULE, flow.NAME: flow.MODULE}


def find_enabled(settings: Settings) -> dict[str, AdvisorSettings]:
    """The advisors whose ``<PREFIX>_ENABLED`` is 1 and those of ``[agents.router.advisors]``, with their settings.

    Any other service that a table names is asked on the bus as well. An advisor's ``<PREFIX>_ALPHA`` is its weight,
    unless the table of the file has one.

    Raises:
        SetupError: a weight or a deadline is no number in its range.
    """
    tables = settings.agents.get("router", {}).get("advisors", {})
    names = [name for name in ADVISORS if name in tables or os.environ.get(f"{PREFIXES[name]}_ENABLED") == "1"]
    names += [name for name in tables if name not in ADVISORS]
    return {name: _parse_settings(name, tables.get(name, {})) for name in names}


def find_runnable(settings: Settings) -> tuple[str, ...]:
    """The enabled advisors that this machine can run; one that is not installed is counted, and logged once."""
    runnable = []
    for name in [name for name in find_enabled(settings) if name in _PACKAGES]:
        if _is_installed(_PACKAGES[name]):
            runnable.append(name)
        else:
            metrics.count_degraded(
                f"advisor.{name}", f"{name} is on and not installed here; it may run elsewhere on the bus"
            )
    return tuple(runnable)


def read_environment(name: str, *, domains: tuple[str, ...]) -> dict[str, Any]:
    """The defaults of an advisor's own settings: what the environment names, and for nerve-wml the ``domains``."""
    prefix = PREFIXES[name]
    common = {"trust_pickle": os.environ.get(f"{prefix}_TRUST_PICKLE") == "1"}
    if name == nerve.NAME:
        return {**common, "domains": domains, "checkpoint": _read_path(f"{prefix}_CHECKPOINT_PATH")}
    return {**common, "weights": _read_path(f"{prefix}_WEIGHTS_PATH")}


def _parse_settings(name: str, table: dict[str, Any]) -> AdvisorSettings:
    variable = f"{PREFIXES[name]}_ALPHA" if name in PREFIXES else ""
    alpha = os.environ.get(variable)
    values = {**({} if alpha is None else {"alpha": alpha}), **table}
    try:
        return msgspec.convert(values, AdvisorSettings, strict=False)
    except msgspec.ValidationError as error:
        source = f" ({variable} is '{alpha}')" if variable else ""
        raise SetupError(
            f"advisor '{name}': {error}{source}.", param=variable or f"agents.router.advisors.{name}"
        ) from error


def _read_path(variable: str) -> Path | None:
    text = os.environ.get(variable)
    return Path(text).expanduser() if text else None


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
