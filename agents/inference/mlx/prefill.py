"""Processes the tokens that all candidates, or all ballots, of a request share."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx


class SharedPrefill:
    """Processes ``tokens``, ``step`` of them at a time, so that decoding goes on in between.

    ``cache`` holds the first ``known_tokens`` of them already.
    """

    def __init__(
        self, model: Any, tokens: Sequence[int], *, cache: list[Any], known_tokens: int = 0, step: int
    ) -> None:
        self._model, self._step = model, step
        self._remaining = list(tokens[known_tokens:])
        self.cache = cache

    def advance(self) -> bool:
        """Process one step. Returns whether all tokens are done."""
        if self._remaining:
            self._model(mx.array([self._remaining[: self._step]]), cache=self.cache)
            mx.eval([layer.state for layer in self.cache])
            self._remaining = self._remaining[self._step :]
        return not self._remaining
