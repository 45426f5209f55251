"""Computes log-probabilities of given continuations from what an upstream sends. Pure.

They are exact when computed from the log-probabilities of a prompt that ends with the choice (vLLM's
``prompt_logprobs``). Otherwise they come from the likeliest first tokens: a choice gets the probability mass of the
tokens that begin it and no other choice. That orders labels that differ in their first token, ignores the rest, and is
reported as inexact.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from agents.inference.upstream.response import is_number
from schemas.errors import StageFailed
from schemas.findings import LikelyToken

_SPACES = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})
"""Raw pieces of byte-level and sentencepiece vocabularies, which some servers send instead of text."""


def first_token_scores(choices: Sequence[str], likeliest: Sequence[LikelyToken]) -> list[float]:
    """Log of the mass of the first tokens that begin one choice only.

    A choice that no such token begins gets the log-probability of the least likely token in the list, which is an upper
    bound of its own.

    Raises:
        StageFailed: none of the tokens begins exactly one choice.
    """
    masses = [0.0] * len(choices)
    for likely in likeliest:
        text = likely.token.translate(_SPACES).strip()
        matches = [index for index, choice in enumerate(choices) if text and choice.strip().startswith(text)]
        if len(matches) == 1:
            masses[matches[0]] += math.exp(likely.logprob)
    if not any(masses):
        raise StageFailed(f"none of the upstream's {len(likeliest)} likeliest tokens begins exactly one choice.")
    least = min(likely.logprob for likely in likeliest)
    return [math.log(mass) if mass else least for mass in masses]


def continuation_score(
    choice: str, prompt_logprobs: Sequence[Mapping[str, Any] | None], *, prompt_tokens: int
) -> float | None:
    """The choice's total log-probability, from the entries of a prompt that ends with it after ``prompt_tokens``
    others.

    None if the entries from there on do not spell the choice, because the tokenizer joined it to the text before it.
    """
    total, spelt = 0.0, ""
    for entry in prompt_logprobs[prompt_tokens:]:
        own = next(iter((entry or {}).values()), None)  # with prompt_logprobs = 0 there is only the prompt's own token
        if own is None or not is_number(own.get("logprob")):
            return None
        total += float(own["logprob"])
        spelt += str(own.get("decoded_token") or "")
    return total if spelt.translate(_SPACES).strip() == choice.strip() else None
