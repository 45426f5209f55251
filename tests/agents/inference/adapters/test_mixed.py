"""Different adapters in one batch give each row what it would get alone, on a small Qwen3.6 and on all its modules."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import ArraysCache, KVCache, make_prompt_cache

from agents.inference.adapters.bank import AdapterBank
from agents.inference.adapters.mixed import SORTED_FROM, MixedExperts, RoutedModel, RowSlot
from agents.inference.adapters.stacks import BASE, Seat
from schemas.errors import StageFailed
from schemas.findings import AdapterUse
from tests.agents.inference import hybrid

Array = np.ndarray[Any, Any]
SETS = (
    (),
    (AdapterUse(name="narrow"),),
    (AdapterUse(name="wide"),),
    (AdapterUse(name="narrow", weight=0.5), AdapterUse(name="ends", weight=1.0)),
)
SHARED = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=["dense", "quantised", "tied", "tied-quantised"])
def model(request: pytest.FixtureRequest) -> Any:
    return hybrid.build(quantized="quantised" in request.param, tied="tied" in request.param)


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hybrid")
    hybrid.write(path, model, "narrow", kinds=hybrid.KINDS, seed=1, rank=2, size=0.15)
    hybrid.write(path, model, "wide", kinds=hybrid.KINDS, seed=2, rank=5, size=0.1)
    hybrid.write(path, model, "huge", kinds=("mlp.gate",), seed=6, rank=2, size=1e30)
    hybrid.write(path, model, "ends", kinds=("embed_tokens", "lm_head"), seed=3, rank=3, size=0.2)
    return path


@pytest.fixture(scope="module")
def bank(model: Any, folder: Path) -> AdapterBank:
    return AdapterBank(model, folder, budget=64 * 1024**2)


@pytest.fixture(autouse=True)
def _base_again(bank: AdapterBank) -> Iterator[None]:
    yield
    bank.mount((BASE,))


def tokens(rows: int, length: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).integers(0, hybrid.VOCABULARY, (rows, length)))


def logits_alone(bank: AdapterBank, model: Any, seat: Seat, row: mx.array) -> Array:
    bank.mount((seat,))
    return np.array(model(row[None])[0])


def test_the_small_model_has_all_17_kinds_and_both_caches(model: Any) -> None:
    assert len(hybrid.KINDS) == 17
    assert all(hybrid.paths(model, (kind,)) for kind in hybrid.KINDS)
    assert {type(layer) for layer in make_prompt_cache(model)} == {ArraysCache, KVCache}


@SHARED
@given(st.lists(st.integers(0, 3), min_size=2, max_size=5), st.integers(1, 20), st.integers(0, 100))
def test_each_row_is_what_it_would_be_alone(
    bank: AdapterBank, model: Any, rows: list[int], length: int, seed: int
) -> None:
    inputs = tokens(len(rows), length, seed)
    seats = [bank.seat(uses) for uses in SETS]
    routed = RoutedModel(model, bank.rows)
    first, *later = [routed.make_cache(seats[row].slot) for row in rows]
    cache = [layer.merge([layer, *more]) for layer, *more in zip(first, *later, strict=True)]
    bank.mount(seats)
    logits = np.array(routed(inputs, cache=cache))
    for index, row in enumerate(rows):
        expected = logits_alone(bank, model, seats[row], inputs[index])
        np.testing.assert_allclose(logits[index], expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("keep", [[0, 3, 4], [4], [1, 2, 3, 4], [0, 1]])
def test_staying_rows_are_not_changed_by_leaving_and_joining_rows(
    bank: AdapterBank, model: Any, keep: list[int]
) -> None:
    inputs, seats = tokens(6, 7), [bank.seat(uses) for uses in SETS]
    row_seats = [seats[row % len(seats)] for row in range(6)]
    routed = RoutedModel(model, bank.rows)

    def begin_rows(rows: Sequence[int]) -> list[Any]:
        caches = zip(*[routed.make_cache(row_seats[row].slot) for row in rows], strict=True)
        merged_caches = [layers[0].merge(layers) for layers in caches]
        mx.eval(routed(inputs[mx.array(list(rows))][:, :5], cache=merged_caches))
        return merged_caches

    bank.mount(seats)
    cache = begin_rows(range(5))
    for layer, joining in zip(cache, begin_rows([5]), strict=True):
        layer.filter(keep)
        layer.extend(joining)
    rows = [*keep, 5]
    logits = np.array(routed(inputs[mx.array(rows)][:, 5:], cache=cache))
    for number, row in enumerate(rows):
        expected = logits_alone(bank, model, row_seats[row], inputs[row])[5:]
        np.testing.assert_allclose(logits[number], expected, rtol=2e-3, atol=2e-3)


def test_adapter_sets_really_differ(bank: AdapterBank, model: Any) -> None:
    """Otherwise the property above could not fail."""
    row = tokens(1, 8)[0]
    results = [logits_alone(bank, model, bank.seat(uses), row) for uses in SETS]
    for index, result in enumerate(results):
        assert all(np.abs(result - earlier).max() > 0.05 for earlier in results[:index])


def test_both_orders_of_the_experts_were_tested() -> None:
    experts_per_token = hybrid.CONFIG["num_experts_per_tok"]
    assert 2 * 1 * experts_per_token < SORTED_FROM <= 5 * 20 * experts_per_token


@pytest.mark.parametrize("kind", [*hybrid.KINDS, "embed_tokens"])
def test_every_kind_of_module_is_changed_and_restored(bank: AdapterBank, model: Any, tmp_path: Path, kind: str) -> None:
    hybrid.write(tmp_path, model, "one", kinds=(kind,), seed=4, rank=2, size=0.5)
    hybrid.write(tmp_path, model, "two", kinds=(kind,), seed=5, rank=2, size=0.5)
    single, row = AdapterBank(model, tmp_path, budget=64 * 1024**2), tokens(1, 8)[0]
    base = np.array(model(row[None])[0])
    first_seat, second_seat = (single.seat((AdapterUse(name=name),)) for name in ("one", "two"))
    assert not np.array_equal(
        logits_alone(single, model, first_seat, row), logits_alone(single, model, second_seat, row)
    )
    single.mount((first_seat, second_seat))
    assert np.array_equal(logits_alone(single, model, BASE, row), base)


def test_base_rows_beside_adapters_are_the_base(bank: AdapterBank, model: Any) -> None:
    inputs, (base, narrow) = tokens(2, 3), [bank.seat(uses) for uses in SETS[:2]]
    bank.mount((BASE,))
    routed = RoutedModel(model, bank.rows)
    expected = np.array(model(inputs))[0]
    bank.mount((base, narrow))
    first, second = routed.make_cache(base.slot), routed.make_cache(narrow.slot)
    logits = np.array(routed(inputs, cache=[a.merge([a, b]) for a, b in zip(first, second, strict=True)]))
    np.testing.assert_allclose(logits[0], expected, rtol=1e-6, atol=1e-6)


def test_a_seat_that_is_taken_is_not_given_away(model: Any, folder: Path) -> None:
    bank = AdapterBank(model, folder, budget=64 * 1024**2, seats=2)
    first, second = bank.seat(SETS[1]), bank.seat(SETS[2])
    third = bank.seat(SETS[3], busy_slots={first.slot})
    assert (first.slot, second.slot, third.slot) == (1, 2, 2)
    assert bank.seat(SETS[1]) == first
    bank.mount((BASE,))


def test_a_bad_adapter_leaves_the_others_side_by_side(bank: AdapterBank, model: Any) -> None:
    seats = [bank.seat(uses) for uses in SETS[:3]]
    bank.mount(seats)
    with pytest.raises(StageFailed, match="not registered"):
        bank.seat((AdapterUse(name="nobody"),))
    with pytest.raises(StageFailed, match="cannot be used"):
        bank.seat((AdapterUse(name="huge"),))
    layer = model.language_model.model.layers[0].mlp
    assert isinstance(layer.switch_mlp, MixedExperts)
    bank.mount((BASE,))
    assert not isinstance(layer.switch_mlp, MixedExperts)


def test_slots_and_factors_follow_their_rows() -> None:
    batch = RowSlot([(1, 1.0)]).merge([RowSlot([(1, 1.0)]), RowSlot([(2, 1.5)])])
    batch.extend(RowSlot([(3, 2.0), (0, 1.0)]))
    batch.filter([3, 1])
    assert (batch.slots, batch.factors) == ([0, 2], [1.0, 1.5])
    assert batch.extract(1).rows == [(2, 1.5)]
