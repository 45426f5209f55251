"""One pass over what all candidates, or all endings, of a request share."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx


class SharedPrefill:
    """Processes all of ``tokens``, ``step`` at a time, so that decoding goes on in between.

    ``cache`` holds the first ``known`` tokens already.
    """

    def __init__(self, model: Any, tokens: Sequence[int], *, cache: list[Any], known: int = 0, step: int) -> None:
        self._model, self._step = model, step
        self._left = list(tokens[known:])
        self.cache = cache

    def advance(self) -> bool:
        """One step. Returns whether the tokens are done."""
        if self._left:
            self._model(mx.array([self._left[: self._step]]), cache=self.cache)
            mx.eval([layer.state for layer in self.cache])
            self._left = self._left[self._step :]
        return not self._left
