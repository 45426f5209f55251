"""Counts the tokens of a text, as the model that will read it does."""

from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer

from bus import metrics

CHARACTERS = 4
"""Characters that stand for a token where no tokenizer can be read."""


def token_counter(path: Path | None) -> Callable[[str], int]:
    """A function that counts tokens with the ``tokenizer.json`` in ``path``, or estimates them without one."""
    if path is None:
        return _estimate
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception
        metrics.count_degraded("memory.tokenizer", f"{path} cannot be read ({error}): tokens are estimated.")
        return _estimate
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _estimate(text: str) -> int:
    return -(-len(text) // CHARACTERS)
