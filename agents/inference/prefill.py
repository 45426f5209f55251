"""One pass over a prompt that all candidates, or all choices, of a request share."""

from typing import Any

import mlx.core as mx


class SharedPrefill:
    """Processes all tokens of the prompt but the last, ``step`` at a time, so that decoding goes on in between.

    ``cache`` holds the first ``known`` tokens already.
    """

    def __init__(self, model: Any, tokens: tuple[int, ...], *, cache: list[Any], known: int = 0, step: int) -> None:
        self._model, self._step = model, step
        self._left = list(tokens[known:-1])
        self.last = tokens[-1]
        self.cache = cache

    def advance(self) -> bool:
        """One step. Returns whether the prompt is done."""
        if self._left:
            self._model(mx.array([self._left[: self._step]]), cache=self.cache)
            mx.eval([layer.state for layer in self.cache])
            self._left = self._left[self._step :]
        return not self._left
