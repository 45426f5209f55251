"""The budget's unit: the reader's tokens."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from agents.memory.tokens import token_counter


def test_tokens_are_the_models_own(small_model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(small_model / "tokenizer.json"))
    for text in ("", "The capital of France is Paris.", "<|im_end|>", "Ça va ? " * 20):
        assert token_counter(small_model / "tokenizer.json")(text) == len(
            tokenizer.encode(text, add_special_tokens=False).ids
        )


@pytest.mark.parametrize("name", [None, "missing.json"])
def test_without_a_tokenizer_characters_are_counted(tmp_path: Path, name: str | None) -> None:
    count = token_counter(tmp_path / name if name else None)
    assert [count(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]
