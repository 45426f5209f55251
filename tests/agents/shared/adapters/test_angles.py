"""Angles between adapters: exact, by module, kind and layer, and what the gate takes of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.shared.adapters.angles import Comparison, Products, compare_adapters, gram
from agents.shared.adapters.files import AdapterFile
from agents.shared.adapters.low_rank import Factors
from schemas.errors import InvalidInput
from tests.agents.shared.adapters.samples import experts, factors, seeds
from tests.agents.shared.adapters.written import KINDS, LAYERS, RANK, random_changes, random_factors, write_mlx

QKV = "linear_attn.in_proj_qkv"


def compare(tmp_path: Path, first: dict[str, Factors], second: dict[str, Factors]) -> Comparison:
    files = [AdapterFile(write_mlx(tmp_path / name, part)) for name, part in (("new", first), ("prior", second))]
    return compare_adapters(files)[0, 1]


def degrees(first: list[Factors], second: list[Factors]) -> float:
    """From whole matrices, in float64."""
    a, b = (np.concatenate([(p.left @ p.right).ravel() for p in part]).astype(np.float64) for part in (first, second))
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


@given(seeds, experts, st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_gram_is_the_inner_products_of_the_whole_matrices(seed: int, batch: tuple[int, ...], ranks: list[int]) -> None:
    parts = [factors(seed + place, batch, rank=rank) for place, rank in enumerate(ranks)]
    flat = [part.change.astype(np.float64).ravel() for part in parts]
    np.testing.assert_allclose(gram(parts), [[a @ b for b in flat] for a in flat], rtol=1e-4, atol=1e-2)


def test_the_angles_are_those_of_the_whole_matrices(tmp_path: Path) -> None:
    first, second = random_changes(1), random_changes(2)
    second = {module: Factors(part.left, part.right + 0.5 * first[module].right) for module, part in second.items()}
    second = {module: Factors(first[module].left, part.right) for module, part in second.items()}
    comparison = compare(tmp_path, first, second)
    for module in first:
        assert comparison.by_module[module] == pytest.approx(degrees([first[module]], [second[module]]), abs=0.1)
    for kind, angle in comparison.by_kind.items():
        paths = [f"layers.{layer}.{kind}" for layer in range(LAYERS)]
        expected = degrees([first[path] for path in paths], [second[path] for path in paths])
        assert angle == pytest.approx(expected, abs=0.1)
    for layer, angle in comparison.by_layer.items():
        paths = [f"layers.{layer}.{kind}" for kind in KINDS]
        expected = degrees([first[path] for path in paths], [second[path] for path in paths])
        assert angle == pytest.approx(expected, abs=0.1)
    assert comparison.overall == pytest.approx(degrees(list(first.values()), list(second.values())), abs=0.1)
    assert set(comparison.by_kind) == set(KINDS)
    assert set(comparison.by_layer) == set(range(LAYERS))


def test_one_copied_projection_does_not_hide_in_the_average(tmp_path: Path) -> None:
    first, second = random_changes(1), random_changes(2)
    second[f"layers.1.{QKV}"] = first[f"layers.1.{QKV}"]
    comparison = compare(tmp_path, first, second)
    assert comparison.overall > 60
    assert comparison.smallest[0] == pytest.approx(0.0, abs=0.1)
    assert comparison.smallest[1] == f"layers.1.{QKV}"


def test_a_kind_of_few_numbers_is_judged_over_all_layers(tmp_path: Path) -> None:
    """Of one output and one lora_a for all, the angle of a single module says little, of all layers something."""
    kind = "mlp.shared_expert_gate"
    first, second = random_changes(1), random_changes(2)
    first[f"layers.1.{kind}"] = second[f"layers.1.{kind}"]
    comparison = compare(tmp_path, first, second)
    assert comparison.by_module[f"layers.1.{kind}"] < 1
    assert comparison.smallest[0] > 30
    for layer in range(LAYERS):
        first[f"layers.{layer}.{kind}"] = second[f"layers.{layer}.{kind}"]
    comparison = compare(tmp_path / "all", first, second)
    assert comparison.smallest[0] == pytest.approx(0.0, abs=0.1)
    assert comparison.smallest[1] == kind


def test_a_change_that_is_hardly_there_is_not_judged_by_itself(tmp_path: Path) -> None:
    module = f"layers.1.{QKV}"
    first, second = random_changes(1), random_changes(2)
    first[module] = Factors(second[module].left, second[module].right * 1e-4)
    comparison = compare(tmp_path, first, second)
    assert comparison.by_module[module] < 1
    assert comparison.smallest[0] > 30
    first[module] = Factors(second[module].left, second[module].right * 0.1)
    assert compare(tmp_path / "felt", first, second).smallest[1] == module


def test_adapters_that_begin_from_one_lora_a_are_not_taken_for_copies(tmp_path: Path) -> None:
    """mlx-lm begins every training from one seed, so that honest adapters share their lora_a nearly."""
    rng_left = {kind: random_factors(7, kind).left for kind in KINDS if ".switch_mlp." not in kind}
    for seed in range(20):
        pair = [
            {
                module: replace(part, left=rng_left.get(module.split(".", 2)[2], part.left))
                for module, part in random_changes(100 + 2 * seed + which).items()
            }
            for which in range(2)
        ]
        assert compare(tmp_path / str(seed), *pair).smallest[0] > 30


def test_modules_of_one_adapter_alone_widen_the_overall_angle_only(tmp_path: Path) -> None:
    same = random_changes(1)
    comparison = compare(tmp_path, same, {module: part for module, part in same.items() if "layers.0." not in module})
    assert comparison.smallest[0] == pytest.approx(0.0, abs=0.1)
    assert comparison.overall > 30
    assert set(comparison.by_layer) == {1, 2}
    apart = compare(
        tmp_path / "apart",
        {"layers.0.mlp.gate": same["layers.0.mlp.gate"]},
        {f"layers.0.{QKV}": same[f"layers.0.{QKV}"]},
    )
    assert (apart.smallest, apart.overall, apart.by_module) == ((90.0, ""), 90.0, {})


def test_an_opposite_change_is_180_degrees(tmp_path: Path) -> None:
    first = random_changes(1)
    opposite = {module: Factors(part.left, -part.right) for module, part in first.items()}
    assert compare(tmp_path, first, opposite).smallest[0] == pytest.approx(180.0, abs=0.2)


def test_all_pairs_are_compared_in_one_reading(tmp_path: Path) -> None:
    changes = [random_changes(seed) for seed in range(3)]
    files = [AdapterFile(write_mlx(tmp_path / str(place), part)) for place, part in enumerate(changes)]
    seen = []
    together = compare_adapters(files, on_advance=lambda: seen.append(1))
    assert set(together) == {(0, 1), (0, 2), (1, 2)}
    assert len(seen) == len(changes[0])
    for (i, j), comparison in together.items():
        alone = compare_adapters([files[i], files[j]])[0, 1]
        assert comparison.by_module == pytest.approx(alone.by_module, abs=0.05)
        assert comparison.overall == pytest.approx(alone.overall, abs=0.05)


def test_adapters_of_different_bases_are_refused_by_module(tmp_path: Path) -> None:
    module = "layers.0.mlp.gate"
    wide = {module: Factors(np.ones((49, RANK)), np.ones((RANK, 8)))}
    with pytest.raises(InvalidInput, match=rf"'new' changes {module} as \(48, 8\) and 'prior' as \(49, 8\)"):
        compare(tmp_path, random_changes(1), wide)


def test_a_change_of_nothing_is_at_90_degrees() -> None:
    assert Products(inner=0.0, first=0.0, second=4.0).degrees == 90.0
