"""kiki-flow: ``KikiFlowBridge.route_advisory(query) -> weights of 32 stacks | None``; each query advances its state."""

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

from agents.advisors.agent import Advise
from agents.advisors.settings import KikiFlowSettings
from schemas.advisors import AdviseReply, AdviseRequest
from schemas.errors import SetupError
from schemas.flow import STACKS

NAME = "kiki-flow"
MODULE = "kiki_flow_core.track3_deploy.kiki_flow_bridge"

Spread = Callable[[Sequence[float]], dict[str, float]]
"""Gives the probabilities by niche domain that weights by stack stand for."""


def load(settings: KikiFlowSettings, *, spread: Spread) -> Advise:
    """Load the installed package with its weights, in its initial state.

    Raises:
        SetupError: the package or the weights are missing, or the weights may not be read.
    """
    weights = settings.weights
    if weights is None or not weights.is_file():
        raise SetupError(f"kiki-flow has no weights at {weights}: set KIKI_FLOW_WEIGHTS_PATH.", param=NAME)
    if weights.suffix != ".safetensors" and not settings.trust_pickle:
        raise SetupError(
            f"{weights} is no safetensors file, and other formats may run code when they are read: set "
            "KIKI_FLOW_TRUST_PICKLE=1 if you trust who made it.",
            param=NAME,
        )
    try:
        module = importlib.import_module(MODULE)
    except ImportError as error:
        raise SetupError(f"kiki-flow is not installed ({error}): install it beside micro-kiki.", param=NAME) from error
    bridge = module.KikiFlowBridge(
        weights,
        state_dim=settings.state_dim,
        embed_dim=settings.embed_dim,
        hidden=settings.hidden,
        n_stacks=STACKS,
        use_stub_encoder=settings.stub_encoder,
    )
    if not bridge.enabled:
        raise SetupError(f"kiki-flow does not load {weights}: set KIKI_FLOW_ENABLED=1; its log says why.", param=NAME)

    def advise(request: AdviseRequest) -> AdviseReply:
        stack_weights = bridge.route_advisory(request.text)
        return AdviseReply() if stack_weights is None else _reply(stack_weights, spread)

    return advise


def _reply(stack_weights: Any, spread: Spread) -> AdviseReply:
    """The weights to record, and the probabilities by domain to blend: none when a weight is negative or all are 0."""
    weights = [float(weight) for weight in stack_weights]
    payload = {f"stack_{index:02d}": weight for index, weight in enumerate(weights)}
    are_probabilities = min(weights) >= 0.0 and math.fsum(weights) > 0.0
    return AdviseReply(domains=spread(weights) if are_probabilities else {}, payload=payload)
