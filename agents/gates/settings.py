"""How the gates judge."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct


class GatesSettings(Struct, frozen=True, kw_only=True):
    """Settings of the gates. "Chosen" marks a number that this project set by judgement.

    Attributes:
        probes: JSONL of questions with choices of many domains, whose answers show what is unlearned; None takes those
            that are shipped.
        worker_timeout: seconds that the worker may take to read an adapter and compare it with all others; chosen.
        judge_timeout: seconds that one question may take; chosen.
        judges: questions that the worker is asked at once; chosen.
    """

    probes: Path | None = None
    worker_timeout: Annotated[float, Meta(gt=0.0)] = 600.0
    judge_timeout: Annotated[float, Meta(gt=0.0)] = 60.0
    judges: Annotated[int, Meta(ge=1, le=16)] = 4
