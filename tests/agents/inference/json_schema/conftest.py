"""The small model's tokenizer, with which grammars are tried without the model."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.agents.inference.json_schema.writer import Writer


@pytest.fixture(scope="session")
def writer(small_model: Path) -> Writer:
    """Writes under grammars."""
    return Writer(AutoTokenizer.from_pretrained(small_model))
