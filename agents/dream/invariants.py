"""What must hold before a consolidated adapter is put into use: S1 to S4 of dream-of-kiki's framework C.

S1  retained accuracy is not below that of the adapter before it by more than 0.02
S2  every number is finite and at most 1e6 in magnitude
S3  the modules are known to the model, and lie in at most 64 layers
S4  priors lie in 0..1 and sum to at most 1.5

Whether it overwrites another adapter is for the gates to say (:mod:`agents.gates`).
"""

import re
from collections.abc import Collection, Mapping

import numpy as np

from agents.shared.adapters.low_rank import Weights
from schemas.errors import StageFailed

MAX_WEIGHT = 1e6
MAX_REGRESSION = 0.02
MAX_LAYERS = 64
MAX_PRIORS = 1.5

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)(?:\.|$)")


def check_finite(weights: Weights) -> None:
    """Check S2: the numbers.

    Raises:
        StageFailed: code ``invariant_broken``, ``param`` S2.
    """
    for path, factors in weights.items():
        for side in (factors.left, factors.right):
            if not np.all(np.isfinite(side)):
                raise invariant_error("S2", f"{path} holds a number that is not finite")
            if np.max(np.abs(side), initial=0.0) > MAX_WEIGHT:
                raise invariant_error("S2", f"{path} holds a number above {MAX_WEIGHT:.0e}")


def check_retained(before: float, after: float) -> None:
    """Check S1: the retained accuracies, in 0..1.

    Raises:
        StageFailed: code ``invariant_broken``, ``param`` S1.
    """
    if not after >= before - MAX_REGRESSION - 1e-9:
        raise invariant_error(
            "S1", f"retained accuracy falls from {before:.3f} to {after:.3f}, more than {MAX_REGRESSION}"
        )


def check_hierarchy(modules: Collection[str], known_modules: Collection[str]) -> None:
    """Check S3: the modules.

    Raises:
        StageFailed: code ``invariant_broken``, ``param`` S3.
    """
    if not modules:
        raise invariant_error("S3", "no module is left")
    if unknown := sorted(set(modules) - set(known_modules)):
        raise invariant_error("S3", f"{unknown[0]} is not a module that the adapter had")
    layers = {int(match[1]) for module in modules if (match := _LAYER.search(module))}
    if len(layers) > MAX_LAYERS:
        raise invariant_error("S3", f"{len(layers)} layers are changed; at most {MAX_LAYERS} may be")


def check_priors(prior_values: Mapping[str, float]) -> None:
    """Check S4: the priors.

    Raises:
        StageFailed: code ``invariant_broken``, ``param`` S4.
    """
    for name, prior in prior_values.items():
        if not 0.0 <= prior <= 1.0:
            raise invariant_error("S4", f"the prior of {name} is {prior}, outside 0..1")
    if sum(prior_values.values()) > MAX_PRIORS:
        raise invariant_error("S4", f"the priors sum to {sum(prior_values.values()):.3f}, more than {MAX_PRIORS}")


def invariant_error(name: str, why: str) -> StageFailed:
    """The error of a swap that is refused."""
    return StageFailed(f"{name}: {why}; the adapter stays as it was.", code="invariant_broken", param=name)
