"""Attention of single tokens by NumPy, against MLX's."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.rope_utils import initialize_rope

from agents.inference.int8.attention import Rotary, attend
from agents.inference.int8.kernel import Floats

WIDTH = 64


def new_floats(*shape: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("base", [10_000.0, 1_000_000.0])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_rotating_is_mlx_lms_rope(base: float, scale: float) -> None:
    rope = nn.RoPE(WIDTH, traditional=False, base=base, scale=scale)
    rotary = Rotary(rope)
    assert Rotary.fits(rope, WIDTH)
    for positions in [(0, 1, 7, 30), (1, 2, 8, 31), (500, 3, 2047, 8000), (0,), (4, 4, 4, 4)]:
        heads = new_floats(len(positions), 5, WIDTH, seed=sum(positions))
        expected = rope(mx.array(heads)[:, :, None], offset=mx.array(positions))[:, :, 0]
        # MLX computes angles in float32: at position 8,000 they are off by some 2e-4
        np.testing.assert_allclose(rotary.rotate(heads, positions), expected, atol=1e-5 + 5e-7 * max(positions))


def test_rotating_keeps_lengths_and_turns_all_but_the_first_position() -> None:
    heads = new_floats(2, 3, WIDTH, seed=1)
    turned = Rotary(nn.RoPE(WIDTH)).rotate(heads, (0, 11))
    np.testing.assert_array_equal(turned[0], heads[0])
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(heads, axis=-1), rtol=1e-5)
    assert np.abs(turned[1] - heads[1]).max() > 0.1


def test_other_kinds_of_rope_do_not_fit() -> None:
    scaling: Any = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
    assert not Rotary.fits(initialize_rope(WIDTH, 10_000.0, False, scaling, 8192), WIDTH)
    assert not Rotary.fits(nn.RoPE(WIDTH, traditional=True), WIDTH)
    assert not Rotary.fits(nn.RoPE(WIDTH // 2), WIDTH), "it leaves half of a head as it is"


@pytest.mark.parametrize("pairs", [1, 3, 9])
@pytest.mark.parametrize("lengths", [(1,), (12,), (12, 1, 5, 11), (4, 4)])
def test_attention_is_mlx_s_for_rows_of_different_lengths(pairs: int, lengths: tuple[int, ...]) -> None:
    rows, heads, slots, scale = len(lengths), 9, max(lengths), WIDTH**-0.5
    queries = new_floats(rows, heads, WIDTH, seed=0) * 3
    keys, values = (new_floats(rows, pairs, slots, WIDTH, seed=seed) for seed in (1, 2))
    mask = mx.array([[slot >= slots - length for slot in range(slots)] for length in lengths])
    expected = mx.fast.scaled_dot_product_attention(
        *map(mx.array, (queries[:, :, None], keys, values)), scale=scale, mask=mask[:, None, None]
    )
    attended = attend(queries, keys, values, lengths, scale=scale)
    assert attended.shape == (rows, heads * WIDTH)
    np.testing.assert_allclose(attended, np.array(expected).reshape(rows, -1), atol=2e-5)


def test_slots_that_a_row_does_not_use_change_nothing() -> None:
    queries, keys, values = new_floats(2, 4, WIDTH, seed=0), *(new_floats(2, 2, 8, WIDTH, seed=seed) for seed in (1, 2))
    before = attend(queries, keys, values, (8, 3), scale=0.1)
    keys[1, :, :5], values[1, :, :5] = 1e6, -1e6
    np.testing.assert_array_equal(attend(queries, keys, values, (8, 3), scale=0.1), before)
    keys[1, :, 5] += 1.0
    assert np.abs(attend(queries, keys, values, (8, 3), scale=0.1) - before)[1].max() > 1e-3
