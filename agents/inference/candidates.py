"""The seed and the temperature of each candidate of a request, so that the candidates differ."""

from schemas.chat import Sampling

_SEEDS = 2**63


def seed_of(sampling: Sampling, candidate: int) -> int:
    """The seed of candidate number ``candidate``, from 0."""
    return (sampling.seed + candidate) % _SEEDS


def temperature_of(sampling: Sampling, candidate: int, *, candidate_temperature: float) -> float:
    """The request's temperature; for later candidates of a greedy request ``candidate_temperature``."""
    return candidate_temperature if candidate and not sampling.temperature else sampling.temperature
