"""S1 to S4, the gate on forgetting, the budget, and latent samples."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.dream import invariants
from agents.dream.budget import Meter
from agents.dream.latents import draw_samples, interpolate
from agents.shared.adapters.low_rank import Factors
from schemas.dream import Budget
from schemas.errors import StageFailed
from tests.agents.shared.adapters.samples import factors, seeds


def expect_refusal(name: str) -> object:
    return pytest.raises(StageFailed, match=rf"^{name}: ")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.1e6, -1.1e6])
def test_s2_refuses_numbers_that_are_not_finite_or_too_large(value: float) -> None:
    sound = factors(1)
    invariants.check_finite({"m": sound})
    wrong = sound.right.copy()
    wrong[1, 1] = value
    with expect_refusal("S2"):  # type: ignore[attr-defined]
        invariants.check_finite({"m": Factors(sound.left, wrong)})


@given(st.floats(0, 1), st.floats(0, 1))
def test_s1_refuses_a_fall_of_retained_accuracy(before: float, after: float) -> None:
    if after >= before - 0.02:
        invariants.check_retained(before, after)
    elif after < before - 0.02 - 1e-6:
        with expect_refusal("S1"):  # type: ignore[attr-defined]
            invariants.check_retained(before, after)


def test_s1_refuses_what_is_not_a_number() -> None:
    with expect_refusal("S1"):  # type: ignore[attr-defined]
        invariants.check_retained(0.5, math.nan)


def test_s3_refuses_no_unknown_and_too_many_modules() -> None:
    modules = [f"model.layers.{number}.q_proj" for number in range(65)]
    invariants.check_hierarchy(modules[:64], modules)
    for wrong in ([], modules, ["elsewhere"]):
        with expect_refusal("S3"):  # type: ignore[attr-defined]
            invariants.check_hierarchy(wrong, modules)


def test_s4_refuses_priors_outside_their_range_or_sum() -> None:
    invariants.check_priors({"a": 1.0, "b": 0.5})
    for wrong in ({"a": 1.0, "b": 0.51}, {"a": -0.1}, {"a": 1.1}, {"a": math.nan}):
        with expect_refusal("S4"):  # type: ignore[attr-defined]
            invariants.check_priors(wrong)


def test_a_budget_is_spent_once() -> None:
    meter = Meter(budget=Budget(flops=100.0, wall_time_s=1e6, energy_j=1e6), watts=1.0)
    meter.charge(60.0)
    assert meter.flops_left == 40.0
    with pytest.raises(StageFailed) as caught:
        meter.charge(60.0)
    assert (caught.value.code, caught.value.param) == ("budget_exceeded", "episode.budget.flops")
    assert meter.flops_left == 0.0


@pytest.mark.parametrize("name", ["wall_time_s", "energy_j"])
def test_time_and_energy_run_out(name: str) -> None:
    budget = {"flops": 1.0, "wall_time_s": 1e6, "energy_j": 1e6} | {name: 0.0}
    meter = Meter(budget=Budget(**budget), watts=50.0)
    assert meter.seconds_left == 0.0
    with pytest.raises(StageFailed) as caught:
        meter.charge(0.0)
    assert caught.value.param == f"episode.budget.{name}"


@given(seeds, st.floats(0, 1))
def test_interpolation_stays_on_the_arc_between_two_vectors(seed: int, share: float) -> None:
    start, end = np.random.default_rng(seed).standard_normal((2, 16))
    unit = [vector / np.linalg.norm(vector) for vector in (start, end)]
    point = interpolate(unit[0], unit[1], share)
    assert np.linalg.norm(point) == pytest.approx(1.0, abs=1e-6)
    whole = np.arccos(unit[0] @ unit[1])
    assert np.arccos(np.clip(unit[0] @ point, -1, 1)) == pytest.approx(share * whole, abs=1e-5)


def test_samples_are_drawn_from_the_episodes_id() -> None:
    ring = [{"phono": [1.0, 0.0], "sem": [1.0]}, {"phono": [0.0, 1.0]}, {"phono": [-1.0, 0.0]}]
    once, again = draw_samples(ring, episode_id="de-1"), draw_samples(ring, episode_id="de-1")
    assert once == again != draw_samples(ring, episode_id="de-2")
    assert [sample.species for sample in once] == ["phono"]
    assert once[0].provenance.startswith("recombine:de-1:")
