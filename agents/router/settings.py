"""Settings of the router."""

from pathlib import Path

from msgspec import Struct

from agents.router.advice import AdvisorSettings


class RouterSettings(Struct, frozen=True, kw_only=True):
    """What the router loads and how it decides.

    Attributes:
        checkpoint: folder with ``weights.safetensors`` and ``meta.json``; None takes the shipped one.
        threshold: score that opens the gate; None takes the trained one.
        max_adapters: adapters of a turn at most, 1 to 4.
        min_share: an adapter takes part when its score is at least this share of the best one.
        embed_timeout: seconds that the embedding of a prompt may take.
        concurrency: turns that are routed at the same time.
        advisors: who is asked for advice before the domains are chosen, by name (``nerve-wml``, ``kiki-flow``).
    """

    checkpoint: Path | None = None
    threshold: float | None = None
    max_adapters: int = 4
    min_share: float = 0.3
    embed_timeout: float = 30.0
    concurrency: int = 32
    advisors: dict[str, AdvisorSettings] = {}
