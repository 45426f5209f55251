"""Writes texts under a grammar, token by token, as far as the grammar lets it."""

import random
from typing import Any

import mlx.core as mx
import numpy as np

from agents.inference.mlx.processors import Grammars

LONGEST = 16
"""Bytes of the longest token that is tried."""


class Writer:
    """Chooses tokens in the model's place."""

    def __init__(self, tokenizer: Any) -> None:
        self.grammars = Grammars(tokenizer, eos=[tokenizer.eos_token_id])
        self._end, self._size = int(tokenizer.eos_token_id), len(tokenizer)
        table, _ = self.grammars._tables(None)
        self._texts = [table.decode_bytes([token]) for token in range(self._size)]
        self._tokens = {text: token for token, text in enumerate(self._texts) if text}

    def follow(self, grammar: str, text: str) -> tuple[str, bool]:
        """The beginning of ``text`` that the grammar lets through, and whether the answer may end there."""
        process, context, rest = self.grammars.constraint(grammar), [0], text.encode()
        while True:
            is_allowed = self._allow(process, context)
            sizes = range(min(len(rest), LONGEST), 0, -1)
            token = next((self._tokens[rest[:size]] for size in sizes if self._is_free(rest[:size], is_allowed)), None)
            if token is None:
                return text[: len(text) - len(rest.decode(errors="ignore"))], bool(is_allowed[self._end])
            context.append(token)
            rest = rest[len(self._texts[token]) :]

    def accepts(self, grammar: str, text: str) -> bool:
        """Whether the whole text is an answer."""
        return self.follow(grammar, text) == (text, True)

    def wander(self, grammar: str, *, seed: int, liked: tuple[str, ...], tokens: int) -> tuple[str, bool]:
        """An answer of at most so many tokens, drawn at random with a liking for some, and whether it ended."""
        draw, process, context, text = random.Random(seed), self.grammars.constraint(grammar), [0], b""
        favourites = [self._tokens[word.encode()] for word in liked]
        for _ in range(tokens):
            is_allowed = self._allow(process, context)
            free = [token for token in favourites if is_allowed[token]] or list(np.flatnonzero(is_allowed))
            if is_allowed[self._end]:
                return text.decode(), True
            context.append(int(draw.choice(free)))
            text += self._texts[context[-1]]
        return text.decode(errors="ignore"), False

    def _allow(self, process: Any, context: list[int]) -> np.ndarray:
        logits = process(mx.array(context), mx.zeros((1, self._size)))
        is_allowed: np.ndarray = np.isfinite(np.array(logits[0]))
        return is_allowed

    def _is_free(self, text: bytes, is_allowed: np.ndarray) -> bool:
        return text in self._tokens and bool(is_allowed[self._tokens[text]])
