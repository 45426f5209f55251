"""A sampler for each row, with its own random stream, so that results do not depend on other rows in the batch."""

from collections.abc import Callable

import mlx.core as mx
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, greedy_sampler

from schemas.chat import Sampling

Sampler = Callable[[mx.array], mx.array]
"""Log-probabilities (rows, vocabulary) to token ids (rows,)."""

LEAST_TEMPERATURE = 1e-3
"""Below, the likeliest token is as good as certain, and dividing by less leaves no finite number in 16 bits."""

LEAST_TOP_P = 1e-6
"""Below, the likeliest token stands alone, and 32 bits may hold no such share of the mass."""


def make_sampler(sampling: Sampling, *, temperature: float, seed: int) -> Sampler:
    """top_p, min_p and top_k on the log-probabilities, then temperature, then a draw from the row's stream; the
    likeliest token where one of them leaves no other."""
    if temperature < LEAST_TEMPERATURE or sampling.top_p < LEAST_TOP_P:
        greedy: Sampler = greedy_sampler  # one object for all greedy rows, which are then sampled in one call
        return greedy
    return _RowSampler(sampling, temperature, seed)


class _RowSampler:
    def __init__(self, sampling: Sampling, temperature: float, seed: int) -> None:
        self._sampling, self._temperature = sampling, temperature
        self._key = mx.random.key(seed)

    def __call__(self, logprobs: mx.array) -> mx.array:
        sampling = self._sampling
        if sampling.top_p < 1.0:
            logprobs = apply_top_p(logprobs, sampling.top_p)
        if sampling.min_p > 0.0:
            logprobs = apply_min_p(logprobs, sampling.min_p)
        if 0 < sampling.top_k < logprobs.shape[-1]:
            logprobs = apply_top_k(logprobs, sampling.top_k)
        self._key, draw_key = mx.random.split(self._key)
        return mx.random.categorical(logprobs / self._temperature, key=draw_key)
