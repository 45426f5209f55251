"""The temperature and the seed of each candidate."""

import pytest

from agents.inference.candidates import SEEDS, seed_of, temperature_of
from schemas.chat import Sampling


@pytest.mark.parametrize(
    ("sampling", "temperatures"),
    [
        (Sampling(), [0.0, 0.8, 0.8]),
        (Sampling(temperature=0.3), [0.3, 0.3, 0.3]),
    ],
    ids=["none named", "named"],
)
def test_the_first_candidate_has_the_temperature_of_the_request(sampling: Sampling, temperatures: list[float]) -> None:
    assert [temperature_of(sampling, index, candidate_temperature=0.8) for index in range(3)] == temperatures


def test_candidates_have_seeds_of_their_own() -> None:
    assert [seed_of(Sampling(seed=SEEDS - 1), index) for index in range(3)] == [SEEDS - 1, 0, 1]
