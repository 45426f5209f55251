"""95 % confidence intervals of measured figures, and of the ratio of two arms that are compared in pairs."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 4000
"""Bootstrap samples of the interval."""

Arm = Callable[[int], Awaitable[float]]
"""Runs the arm for the pair of that number and returns its seconds."""


def wilson_interval(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson interval of the share ``right / count``."""
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


def bootstrap_interval(values: Sequence[float], *, draws: int = 2000) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean; the same values give the same interval."""
    data = np.asarray(values, dtype=np.float64)
    samples = np.random.default_rng(0).integers(0, len(data), size=(draws, len(data)))
    low, high = np.quantile(data[samples].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class PairedRatio:
    """Medians in seconds, and the geometric mean of first / second over the pairs with its 95 % interval."""

    first: float
    second: float
    ratio: float
    low: float
    high: float
    pairs: int


async def compare(first: Arm, second: Arm, *, pairs: int, tick: Callable[[], None] = lambda: None) -> PairedRatio:
    """Run both arms ``pairs`` times, by turns, so that other load meets both alike; the arm that begins changes from
    pair to pair."""
    seconds: list[tuple[float, float]] = []
    for number in range(pairs):
        if number % 2 == 0:
            first_seconds = await first(number)
            second_seconds = await second(number)
        else:
            second_seconds = await second(number)
            first_seconds = await first(number)
        seconds.append((first_seconds, second_seconds))
        tick()
    return paired_ratio(seconds)


def paired_ratio(seconds: Sequence[tuple[float, float]]) -> PairedRatio:
    """The pairs' ratio; needs at least two pairs."""
    both = np.asarray(seconds, dtype=np.float64)
    logs = np.log(both[:, 0] / both[:, 1])
    low, high = bootstrap_interval(logs.tolist(), draws=DRAWS)
    middle = np.median(both, axis=0)
    return PairedRatio(
        first=float(middle[0]),
        second=float(middle[1]),
        ratio=float(np.exp(logs.mean())),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        pairs=len(logs),
    )
