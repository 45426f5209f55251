"""95 % confidence intervals of measured figures, of the ratio of two arms that are compared in pairs, and of figures
that are cross-validated: constants are chosen on all groups but one and judged on the one left out.
"""

import math
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

DRAWS = 4000
"""Bootstrap samples of the interval."""

Choice = TypeVar("Choice", bound=Hashable)
"""What cross-validation chooses."""

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


@dataclass(frozen=True)
class Fold(Generic[Choice]):
    """One group left out: the choice that was best on the others, and the values that it gives here."""

    group: str
    choice: Choice
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return float(np.mean(self.values))


@dataclass(frozen=True)
class CrossValidated(Generic[Choice]):
    """The mean over all values of all folds, with 95 % bootstrap intervals over single values and over groups."""

    folds: tuple[Fold[Choice], ...]
    mean: float
    by_value: tuple[float, float]
    by_group: tuple[float, float]


def cross_validate(values: Mapping[Choice, Mapping[str, Sequence[float]]]) -> CrossValidated[Choice]:
    """Choose by the mean over the other groups' values; of equal choices the first. ``values`` are by choice and group.

    Raises:
        ValueError: there are fewer than two groups.
    """
    groups = list(next(iter(values.values()), {}))
    if len(groups) < 2:
        raise ValueError("cross-validation needs at least two groups")
    folds = tuple(_judge(values, group) for group in groups)
    pooled = [value for fold in folds for value in fold.values]
    return CrossValidated(folds, float(np.mean(pooled)), bootstrap_interval(pooled, draws=DRAWS), group_interval(folds))


def group_interval(folds: Sequence[Fold[Choice]]) -> tuple[float, float]:
    """The 95 % interval of the mean over all values when whole groups are drawn."""
    sums = np.array([sum(fold.values) for fold in folds])
    counts = np.array([len(fold.values) for fold in folds])
    drawn = np.random.default_rng(0).integers(0, len(folds), size=(DRAWS, len(folds)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _judge(values: Mapping[Choice, Mapping[str, Sequence[float]]], group: str) -> Fold[Choice]:
    def mean_of_others(choice: Choice) -> float:
        return float(np.mean([value for name, rows in values[choice].items() if name != group for value in rows]))

    best = max(values, key=mean_of_others)
    return Fold(group, best, tuple(values[best][group]))
