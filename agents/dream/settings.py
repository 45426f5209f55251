"""How the dream agent consolidates."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct


class DreamSettings(Struct, frozen=True, kw_only=True):
    """Settings of the dream agent. "Chosen" marks a number that this project set by judgement.

    Attributes:
        retained: JSONL of questions with choices that a swap must not unlearn; None takes the one that is shipped.
        shrink: what downscale multiplies an adapter's change by; as dream-of-kiki's default.
        density: share of each change that TIES keeps (the paper's 20 %).
        merge_scale: what the merged change is multiplied by (the paper's lambda).
        directions: leading singular directions of the frozen weights that restructure protects; chosen.
        passes: number of times that each record is replayed.
        learning_rate: of replay's Adam steps; chosen.
        watts: power that the machine is assumed to draw while a dream episode runs, to estimate energy; chosen.
        judge_timeout: seconds that one question of the retained set may take.
        judges: questions of the retained set that the worker is asked at once.
        silence: seconds without a beat of a training after which the worker counts as dead; must be longer than a step.
        tries: times that an episode is begun while the worker or the broker is away, with growing pauses of at most 10
            s.
        worker_timeout: seconds that the worker may take to export, stage or exchange an adapter.
        gates_timeout: seconds that the gates may take to compare the new weights with every other adapter; chosen.
    """

    retained: Path | None = None
    shrink: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.99
    density: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.2
    merge_scale: Annotated[float, Meta(gt=0.0)] = 1.0
    directions: Annotated[int, Meta(ge=1, le=128)] = 16
    passes: Annotated[int, Meta(ge=1, le=100)] = 1
    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 1e-4
    watts: Annotated[float, Meta(gt=0.0)] = 65.0
    judge_timeout: Annotated[float, Meta(gt=0.0)] = 60.0
    judges: Annotated[int, Meta(ge=1, le=16)] = 4
    silence: Annotated[float, Meta(gt=0.0)] = 60.0
    tries: Annotated[int, Meta(ge=1, le=100)] = 15
    worker_timeout: Annotated[float, Meta(gt=0.0)] = 120.0
    gates_timeout: Annotated[float, Meta(gt=0.0)] = 900.0
