"""Settings of the router."""

from pathlib import Path

from msgspec import Struct

from agents.router.advice import AdvisorSettings


class RouterSettings(Struct, frozen=True, kw_only=True):
    """What the router loads and how it embeds.

    Attributes:
        embedder: folder of the sentence-transformers model.
        checkpoint: folder with ``weights.safetensors`` and ``meta.json``; None takes the shipped one.
        threshold: score that opens the gate; None takes the trained one.
        max_adapters: adapters of a turn at most, 1 to 4.
        min_share: an adapter takes part when its score is at least this share of the best one; ours.
        batch_wait: seconds that a prompt waits for others', while several ask at once; 0 never waits.
        batch_size: texts in one forward pass at most.
        cache_size: embeddings kept for repeated texts.
        max_tokens: tokens of a text that are embedded; the rest is cut off.
        threads: threads of the embedder; None takes half the processors, at most four.
        concurrency: turns in hand at once.
        ahead: whether a turn's candidates are embedded while they travel to who compares them. With several routers on
            one bus another one may be asked to compare them and embeds them again: there, turn it off.
        advisors: who is asked for advice before the domains are chosen, by name (``nerve-wml``, ``kiki-flow``).
    """

    embedder: Path
    checkpoint: Path | None = None
    threshold: float | None = None
    max_adapters: int = 4
    min_share: float = 0.3
    batch_wait: float = 0.002
    batch_size: int = 32
    cache_size: int = 4096
    max_tokens: int = 384
    threads: int | None = None
    concurrency: int = 32
    ahead: bool = True
    advisors: dict[str, AdvisorSettings] = {}
