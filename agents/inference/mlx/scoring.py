"""Scores given continuations of several prompts that share their beginning."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx


class Ballots:
    """Several endings of one prompt, each scored on the same choices, in batched passes between decoding steps.

    The endings are processed side by side up to their last tokens. The last tokens then give the logits: choices of one
    token each cost one more token a row.

    Args:
        cache: of one row, with the tokens that all endings share. It is copied, not changed.
        tails: token ids of each ending, none empty.
        choices: token ids of each choice, none empty.
    """

    def __init__(
        self,
        model: Any,
        cache: Sequence[Any],
        tails: Sequence[Sequence[int]],
        choices: Sequence[Sequence[int]],
    ) -> None:
        self._model, self._choices = model, choices
        self._last = [tail[-1] for tail in tails]
        width = max(map(len, tails)) - 1
        self._padding = [width + 1 - len(tail) for tail in tails]
        self._bodies = [[*tail[:-1], *[0] * pad] for tail, pad in zip(tails, self._padding, strict=True)]
        self._at, self._width = 0, width
        self._cache = [layer.merge([layer] * len(tails)) for layer in cache]
        if any(self._padding):
            for layer in self._cache:
                layer.prepare(lengths=[width - pad for pad in self._padding], right_padding=self._padding)
        self.scores: tuple[tuple[float, ...], ...] = ()

    def advance(self, length: int) -> bool:
        """Do one pass over ``length`` tokens of all rows together.

        Returns:
            Whether :attr:`scores` is complete: each choice's natural-log probability, by ending.
        """
        if self._at < self._width:
            end = min(self._width, self._at + max(1, length // len(self._bodies)))
            self._model(mx.array([body[self._at : end] for body in self._bodies]), cache=self._cache)
            mx.eval([layer.state for layer in self._cache])
            self._at = end
            return False
        if any(self._padding):
            for layer in self._cache:
                layer.finalize()
        self.scores = self._score()
        return True

    def _score(self) -> tuple[tuple[float, ...], ...]:
        if all(len(choice) == 1 for choice in self._choices):
            logprobs = self._logprobs([[last] for last in self._last], self._cache)[:, -1]
            values: Any = logprobs[:, mx.array([choice[0] for choice in self._choices])].tolist()
            return tuple(map(tuple, values))
        rows = range(len(self._last))
        row_caches = [[layer.extract(row) for row in rows for _ in self._choices] for layer in self._cache]
        cache = [layers[0].merge(layers) for layers in row_caches]
        width = max(map(len, self._choices))
        padded_choices = [[*choice, *[0] * (width - len(choice))] for choice in self._choices]
        logprobs = self._logprobs([[self._last[row], *choice[:-1]] for row in rows for choice in padded_choices], cache)
        targets = mx.array([choice for _ in rows for choice in padded_choices])
        mask = mx.array([[float(at < len(choice)) for at in range(width)] for _ in rows for choice in self._choices])
        target_logprobs = mx.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0]
        totals: Any = mx.sum(target_logprobs * mask, axis=-1).reshape(len(rows), len(self._choices)).tolist()
        return tuple(map(tuple, totals))

    def _logprobs(self, inputs: list[list[int]], cache: Sequence[Any]) -> mx.array:
        logits = self._model(mx.array(inputs), cache=cache).astype(mx.float32)
        logprobs: mx.array = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        return logprobs
