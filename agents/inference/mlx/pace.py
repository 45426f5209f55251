"""How long prompts share the model's time with everything else: in pieces, whose length follows the measured rate."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

LEAST_TOKENS = 32
"""Tokens of a piece at least: a smaller one takes hardly less time, as each pass reads all weights."""

WHOLE_TOKENS = 64
"""So many tokens, the prompt of a short request or the end of a long one, are read at once, whatever the rate."""

ALONE = 2.0
"""A piece may take so many times its seconds when there is no other work: a GPU reads fewer pieces faster."""


FIRST_TOKENS = 2.0
"""Rows that wait for their first token get so many times what the last piece took, before the next one."""


class PrefillPace:
    """A piece has ``most`` tokens at most, and takes about ``seconds`` beside other work.

    Rows that wait for their first token go before the next piece, until they have had twice what the last one took. So
    a request of one token waits for hardly more than a piece, and a long prompt has at least a third of the time.
    """

    def __init__(self, *, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._rate: float | None = None
        self._owed = 0.0

    def length(self, *, alone: bool) -> int:
        """Tokens of the next piece."""
        if self._rate is None:
            return min(self._most, WHOLE_TOKENS)
        seconds = self._seconds * (ALONE if alone else 1.0)
        return min(self._most, max(LEAST_TOKENS, int(self._rate * seconds)))

    def cut(self, tokens: int, *, alone: bool) -> int:
        """How many of so many tokens are read at once: all, or a piece."""
        length = self.length(alone=alone)
        return tokens if tokens <= min(self._most, max(WHOLE_TOKENS, length)) else length

    def owes_first_tokens(self) -> bool:
        """Whether rows that wait for their first token go before the next piece."""
        return self._owed > 0.0

    @contextmanager
    def measure_piece(self, tokens: int) -> Iterator[None]:
        """Within this context a piece of so many tokens is read, and nothing else is computed. Few tell no rate."""
        started = perf_counter()
        yield
        seconds = perf_counter() - started
        self._owed = FIRST_TOKENS * seconds
        if tokens >= min(LEAST_TOKENS, self._most):
            self._rate = tokens / max(seconds, 1e-6)

    @contextmanager
    def measure_first_tokens(self) -> Iterator[None]:
        """Within this context rows come nearer to their first token."""
        started = perf_counter()
        yield
        self._owed -= perf_counter() - started
