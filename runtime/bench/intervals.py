"""95 % confidence intervals of measured figures."""

import math
from collections.abc import Sequence

import numpy as np


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
