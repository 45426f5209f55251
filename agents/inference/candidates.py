"""The seed and the temperature of each candidate of a request, so that the candidates differ; which go on."""

from collections.abc import Sequence

from schemas.chat import Sampling
from schemas.findings import Candidate

SEEDS = 2**63
"""Seeds are counted modulo this."""


def seed_of(sampling: Sampling, candidate: int) -> int:
    """The seed of candidate number ``candidate``, from 0."""
    return (sampling.seed + candidate) % SEEDS


def temperature_of(sampling: Sampling, candidate: int, *, candidate_temperature: float) -> float:
    """The request's temperature; for later candidates of a greedy request ``candidate_temperature``."""
    return candidate_temperature if candidate and not sampling.temperature else sampling.temperature


def select_usable(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Of candidates whose time was over, those that hold anything; the first of them all when none does."""
    usable = [candidate for candidate in candidates if candidate.text or candidate.reasoning or candidate.tool_calls]
    return tuple(usable or candidates[:1])
