"""Processes the tokens that all candidates, or all ballots, of a request share."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

ScoredToken = tuple[int, float, list[tuple[int, float]]]
"""A token of a text, its natural-log probability there, and the likeliest tokens at its place with theirs."""


class SharedPrefill:
    """Processes ``tokens`` piece by piece, so that decoding goes on in between.

    ``cache`` holds the first ``known_tokens`` of them already; ``done`` counts what it holds.
    """

    def __init__(self, model: Any, tokens: Sequence[int], *, cache: list[Any], known_tokens: int = 0) -> None:
        self._model = model
        self._tokens, self.known_tokens = list(tokens), known_tokens
        self.cache, self.done = cache, known_tokens

    def advance(self, length: int) -> bool:
        """Process the next ``length`` tokens. Returns whether all are done."""
        chunk = self._tokens[self.done : self.done + length]
        if chunk:
            logits = self._model(mx.array([chunk]), cache=self.cache)
            self._read_logits(logits)
            mx.eval([layer.state for layer in self.cache])
            self.done += len(chunk)
        return self.done == len(self._tokens)

    def _read_logits(self, logits: mx.array) -> None:
        """Look at the logits (1, tokens, vocabulary) of a piece; without a look they are never computed."""


class ScoredPrefill(SharedPrefill):
    """Says as well how likely each token is after those before it.

    Args:
        tokens: the text, whose last token is scored and not processed.
        top: how many of the likeliest tokens to name at each place.
    """

    def __init__(self, model: Any, tokens: Sequence[int], *, cache: list[Any], top: int = 0) -> None:
        super().__init__(model, tokens[:-1], cache=cache)
        self._targets, self._top = list(tokens[1:]), top
        self.scored_tokens: list[ScoredToken] = []
        """The text's tokens from its second on, as far as they are done."""

    def _read_logits(self, logits: mx.array) -> None:
        rows = logits[0].astype(mx.float32)
        rows = rows - mx.logsumexp(rows, axis=-1, keepdims=True)
        targets = self._targets[self.done : self.done + len(rows)]
        own: Any = mx.take_along_axis(rows, mx.array(targets)[:, None], axis=-1)[:, 0].tolist()
        self.scored_tokens += zip(targets, own, _find_likeliest(rows, self._top), strict=True)


def _find_likeliest(rows: mx.array, top: int) -> list[list[tuple[int, float]]]:
    """The ``top`` likeliest tokens of each row of log-probabilities (rows, vocabulary), the likeliest first."""
    if not top:
        return [[] for _ in range(len(rows))]
    best = mx.argpartition(-rows, kth=top - 1, axis=-1)[:, :top]
    values = np.asarray(mx.take_along_axis(rows, best, axis=-1))
    return [
        sorted(zip(tokens, map(float, logprobs), strict=True), key=lambda pair: (-pair[1], pair[0]))
        for tokens, logprobs in zip(np.asarray(best).tolist(), values, strict=True)
    ]
