"""How probable the model finds given continuations of a prompt."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx


def choice_logprobs(model: Any, cache: Sequence[Any], last: int, choices: Sequence[Sequence[int]]) -> list[float]:
    """Total natural-log probability of each of ``choices`` (token ids, none empty) in one batched pass.

    ``cache`` holds the prompt up to but without its token ``last``. It is copied, not changed.
    """
    width = max(map(len, choices))
    inputs = [[last, *choice[:-1], *[0] * (width - len(choice))] for choice in choices]
    targets = [[*choice, *[0] * (width - len(choice))] for choice in choices]
    counted = [[1.0] * len(choice) + [0.0] * (width - len(choice)) for choice in choices]
    copies = [layer.merge([layer] * len(choices)) for layer in cache]
    logits = model(mx.array(inputs), cache=copies).astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    taken = mx.take_along_axis(logprobs, mx.array(targets)[..., None], axis=-1)[..., 0]
    totals: Any = mx.sum(taken * mx.array(counted), axis=-1).tolist()
    return [float(total) for total in totals]
