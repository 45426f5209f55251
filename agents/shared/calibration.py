"""Label scores without the model's own preference: contextual calibration (arXiv 2102.09690).

A model prefers some labels whatever it is asked. Its scores under the same prompt without content ("N/A") measure that
preference; subtracting them leaves what the content says.
"""

import math
from collections.abc import Mapping

BLANK = "N/A"
"""Stands for the content in a content-free prompt."""


def calibrated(scores: Mapping[str, float], prior: Mapping[str, float]) -> dict[str, float]:
    """Natural-log probabilities over the labels (they sum to 1), with the prior divided out.

    Args:
        scores: total natural-log probability of each label after the real prompt.
        prior: the same after the content-free prompt; the same labels.
    """
    raw = {label: score - prior[label] for label, score in scores.items()}
    top = max(raw.values())
    total = top + math.log(sum(math.exp(value - top) for value in raw.values()))
    return {label: value - total for label, value in raw.items()}
