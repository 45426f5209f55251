"""Random changes for the tests of what works on adapters."""

import numpy as np
from hypothesis import strategies as st

from agents.shared.adapters.low_rank import Factors

seeds = st.integers(0, 2**32 - 1)
experts = st.sampled_from([(), (3,)])


def factors(seed: int, batch: tuple[int, ...] = (), *, rows: int = 12, rank: int = 3, columns: int = 9) -> Factors:
    random = np.random.default_rng(seed)
    return Factors(
        random.standard_normal((*batch, rows, rank)).astype(np.float32),
        random.standard_normal((*batch, rank, columns)).astype(np.float32),
    )
