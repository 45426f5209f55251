"""The embedding model as a library: loaded from a folder, it turns texts into unit vectors. The calls block.

The embedder calls it on a thread of its own; the router's training and evaluation use it without a runtime.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.errors import SetupError

PASS = 8
"""Texts of one forward pass. Those of a call are sorted by length first, so that none is padded by much."""

Floats = npt.NDArray[np.float32]

CHARS_A_TOKEN = 8
"""A text is cut to this many characters per token before it is tokenised, so that a huge one costs little."""


def load_model(path: Path, *, max_tokens: int = 384) -> Any:
    """The sentence-transformers model of a local folder, on the CPU.

    Raises:
        SetupError: the folder does not hold such a model.
    """
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = SentenceTransformer(str(path), device="cpu", local_files_only=True)
    except (OSError, ValueError) as error:
        raise SetupError(
            f"{path} is no sentence-transformers model ({error}); 'kiki models verify' mends the default one.",
            param="embedder",
        ) from error
    model.max_seq_length = min(max_tokens, int(model.max_seq_length or max_tokens))
    return model


def count_tokens(model: Any, texts: Sequence[str]) -> list[int]:
    """The tokens of each text. One that :func:`encode` cuts has more than the model's ``max_seq_length``."""
    most = int(model.max_seq_length)
    limit = CHARS_A_TOKEN * most
    rows = model.tokenizer([text[:limit] for text in texts], truncation=False, verbose=False)["input_ids"]
    return [max(len(row), most + 1 if len(text) > limit else 0) for row, text in zip(rows, texts, strict=True)]


def encode(model: Any, texts: Sequence[str]) -> Floats:
    """``[n, width]`` unit vectors, in order."""
    limit = CHARS_A_TOKEN * int(model.max_seq_length)
    vectors: Floats = model.encode(
        [text[:limit] for text in texts],
        batch_size=PASS,
        normalize_embeddings=True,
        show_progress_bar=False,
        convert_to_numpy=True,
    ).astype(np.float32)
    return vectors
