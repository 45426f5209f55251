"""Settings of the embedder."""

from pathlib import Path

from msgspec import Struct


class EmbedderSettings(Struct, frozen=True, kw_only=True):
    """Which model embeds, and how.

    Attributes:
        model: folder of the sentence-transformers model.
        model_name: what clients call it; the folder's name when empty.
        memory_model: folder of the model that the memory uses in its place; None without such a one.
        batch_wait: seconds that a text waits for other callers' texts, while there are several; 0 never waits.
        batch_size: texts that are embedded together at most, in forward passes of 8 by length.
        cache_size: embeddings kept for repeated texts.
        max_tokens: tokens of a text that are embedded; the rest is cut off.
        threads: threads of a forward pass; None takes half the processors, at most four.
        ahead: whether a turn's candidates are embedded while their event is on the way to the stage that compares them.
            Turn it off with several embedders on one bus: another one may get the request and embed them again.
    """

    model: Path
    model_name: str = ""
    memory_model: Path | None = None
    batch_wait: float = 0.002
    batch_size: int = 32
    cache_size: int = 4096
    max_tokens: int = 384
    threads: int | None = None
    ahead: bool = True
