"""nerve-wml: ``NerveWmlAdvisor.advise(tokens[B, 16]) -> {domain index: probability} | None``.

Its tokens are 16 numbers. Nothing published says how a query becomes tokens, so this is micro-kiki's own choice: the
query's unit vector is cut into 16 equal runs, and each token is a run's mean, scaled so that a random unit vector gives
numbers of size 1.
"""

import importlib
import math

from agents.advisors.agent import Advise
from agents.advisors.settings import NerveWmlSettings
from schemas.advisors import AdviseReply, AdviseRequest
from schemas.errors import SetupError

NAME = "nerve-wml"
MODULE = "bridge.kiki_nerve_advisor"
TOKENS = 16


def tokens(embedding: tuple[float, ...]) -> list[float]:
    """The 16 tokens of an embedding of at least 16 numbers."""
    run_length = len(embedding) // TOKENS
    scale = math.sqrt(len(embedding) * run_length)
    return [sum(embedding[at * run_length : (at + 1) * run_length]) / run_length * scale for at in range(TOKENS)]


def load(settings: NerveWmlSettings) -> Advise:
    """Load the installed package with its checkpoint.

    Raises:
        SetupError: the package or the checkpoint is missing, or the checkpoint may not be read.
    """
    checkpoint = settings.checkpoint
    if checkpoint is None or not checkpoint.is_dir():
        raise SetupError(f"nerve-wml has no checkpoint at {checkpoint}: set NERVE_WML_CHECKPOINT_PATH.", param=NAME)
    if not settings.trust_pickle:
        raise SetupError(
            f"{checkpoint} holds pickles, which run code when they are read: set NERVE_WML_TRUST_PICKLE=1 if you "
            "trust who made it.",
            param=NAME,
        )
    try:
        module = importlib.import_module(MODULE)
    except ImportError as error:
        raise SetupError(f"nerve-wml is not installed ({error}): install it beside micro-kiki.", param=NAME) from error
    import torch

    advisor = module.NerveWmlAdvisor(enabled=True, checkpoint_path=checkpoint, n_domains=len(settings.domains))

    def advise(request: AdviseRequest) -> AdviseReply:
        if len(request.embedding) < TOKENS:
            return AdviseReply()
        weights = advisor.advise(torch.tensor([tokens(request.embedding)]), current_route=request.scores)
        if not weights:
            return AdviseReply()
        return AdviseReply(domains={settings.domains[index]: float(weight) for index, weight in weights.items()})

    return advise
