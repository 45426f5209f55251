"""The algebra of low-rank pairs, and adapters that must not be used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.inference.adapters.files import Adapter, change, combine, read_adapter
from agents.inference.adapters.pairs import LowRankPair
from schemas.errors import StageFailed


def random_pair(random: np.random.Generator, rank: int, *, experts: int) -> LowRankPair:
    a, b = ((5, rank), (rank, 3)) if not experts else ((experts, rank, 5), (experts, 3, rank))
    return LowRankPair(a=mx.array(random.standard_normal(a)), b=mx.array(random.standard_normal(b)))


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.floats(0.0, 1.0)), min_size=1, max_size=4),
    st.sampled_from([0, 2]),
    st.integers(0, 1000),
)
def test_combination_changes_as_much_as_the_weighted_sum(
    parts: list[tuple[int, float]], experts: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    adapters = [
        (Adapter(name=str(i), sha256="", pairs={"m": random_pair(random, rank, experts=experts)}), weight)
        for i, (rank, weight) in enumerate(parts)
    ]
    expected = sum((change(adapter.pairs["m"]) * weight for adapter, weight in adapters), mx.array(0.0))
    np.testing.assert_allclose(change(combine(adapters)["m"]), expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=30)
@given(st.integers(1, 4), st.sampled_from([0, 2]), st.integers(0, 1000))
def test_the_norm_is_that_of_the_whole_change(rank: int, experts: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    pairs = {module: random_pair(random, rank, experts=experts) for module in "ab"}
    expected = np.sqrt(sum(float(np.square(np.array(change(low_rank))).sum()) for low_rank in pairs.values()))
    np.testing.assert_allclose(Adapter(name="x", sha256="", pairs=pairs).norm, expected, rtol=1e-4)


def test_adapters_of_different_modules_stand_side_by_side() -> None:
    random = np.random.default_rng(0)
    first, second = (Adapter(name=m, sha256="", pairs={m: random_pair(random, 2, experts=0)}) for m in "ab")
    assert set(combine([(first, 1.0), (second, 0.5)])) == {"a", "b"}
    assert combine([]) == {}


NAN = {"model.layers.0.self_attn.q_proj.lora_a": np.full((576, 4), np.nan, np.float32)}
ZEROS = {"model.layers.0.self_attn.q_proj.lora_b": np.zeros((4, 576), np.float32)}
WIDE = {"model.layers.0.self_attn.q_proj.lora_a": np.ones((577, 4), np.float32)}
ELSEWHERE = {f"model.layers.99.self_attn.q_proj.lora_{x}": np.ones((4, 4), np.float32) for x in "ab"}
ALONE = {"model.layers.0.mlp.up_proj.lora_a": np.ones((576, 4), np.float32)}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"tensors": NAN}, "not finite"),
        ({"tensors": ZEROS}, "all zeros"),
        ({"tensors": WIDE}, "do not fit the model"),
        ({"tensors": ELSEWHERE}, "not a module of this model"),
        ({"tensors": ALONE}, "do not come in pairs"),
        ({"fine_tune_type": "dora"}, "fine_tune_type is 'dora'"),
        ({"lora_parameters": {"rank": 4, "alpha": 16}}, "no lora_parameters.scale"),
    ],
)
def test_unusable_adapters_say_why(
    changed: dict[str, Any], why: str, write_adapter: Callable[..., Path], tmp_path: Path, loaded: Any
) -> None:
    folder = write_adapter(tmp_path, "bad", **changed)
    with pytest.raises(StageFailed, match=why) as caught:
        read_adapter(folder.name, folder, dict(loaded.model.named_modules()))
    assert caught.value.code == "adapter_failed"


def test_truncated_file_says_why(write_adapter: Callable[..., Path], tmp_path: Path, loaded: Any) -> None:
    folder = write_adapter(tmp_path, "cut")
    weights = folder / "adapters.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(StageFailed, match="cannot be read"):
        read_adapter(folder.name, folder, dict(loaded.model.named_modules()))
