"""Leave-one-group-out cross-validation: constants are chosen on all groups but one and judged on the one left out.

A figure for constants that were chosen on the same questions says too much; this one says what to expect of others.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from runtime.bench.intervals import bootstrap_interval

DRAWS = 2000
"""Bootstrap samples of an interval."""

Choice = TypeVar("Choice", bound=Hashable)


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
