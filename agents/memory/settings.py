"""Settings of the memory."""

from pathlib import Path

from msgspec import Struct


class MemorySettings(Struct, frozen=True, kw_only=True):
    """Where the memory lives, what counts as relevant and how much of it a turn is shown.

    Attributes:
        data_dir: holds ``atlas/``, ``trace/`` and ``memory.lock``; one process owns it.
        vector_size: floats in an embedding; 768 for all-mpnet-base-v2.
        relevance_floor: cosine of question and question below which nothing is recalled. Ours: with mpnet,
            questions that depend on an earlier one were read at 0.50 to 0.65, greetings and thanks below 0.2.
        recency_weight: share of recency in the fused score, 0..1; ours.
        recency_half_life: seconds after which an episode's recency has halved; ours.
        max_hits: episodes that a turn is shown at most.
        character_budget: characters of recalled questions and answers together.
        hit_characters: characters of one question, and of one answer; longer ones are cut in the middle.
        candidates: episodes that the store is asked for before fusion, at least ``max_hits``.
        recall_timeout: seconds after which a turn goes on without recall.
        concurrency: turns in hand at once.
        projection_batch: episodes that are projected together at most, with one sync to disk.
        lock_timeout: seconds to wait for a process that is just ending and still holds ``data_dir``.
        status_interval: seconds between two readings of the gauges.
        graph_buffer: bytes that the graph store may keep in memory.
    """

    data_dir: Path
    vector_size: int = 768
    relevance_floor: float = 0.4
    recency_weight: float = 0.1
    recency_half_life: float = 7 * 86400.0
    max_hits: int = 4
    character_budget: int = 2400
    hit_characters: int = 600
    candidates: int = 32
    recall_timeout: float = 1.0
    concurrency: int = 16
    projection_batch: int = 16
    lock_timeout: float = 3.0
    status_interval: float = 2.0
    graph_buffer: int = 128 * 1024**2
