"""Whole blocks of the small model outside MLX, against the same int8 layers one by one."""

import copy
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from agents.inference.adapters.mixed import RoutedModel, Rows
from agents.inference.int8 import layers as int8_layers
from agents.inference.int8.blocks import Hidden, WholeBlock
from agents.inference.int8.kernel import Floats
from agents.inference.int8.layers import WIDEN_FROM

EXACT, ROUNDED = 1e-3, 0.15
"""Limits of :func:`distance` for products in float32, and for the kernel's, which rounds what each layer is given."""

TEXT = (
    "The capital of France is Paris, and the capital of Italy is Rome. A river flows through each of them: "
    "the Seine and the Tiber. Both of them are older than the states whose capitals they are today, and both grew."
)


@pytest.fixture(scope="module")
def model(int8_bundle: Any) -> Any:
    return int8_bundle.model


@pytest.fixture(scope="module")
def tokens(int8_bundle: Any) -> list[int]:
    ids: list[int] = int8_bundle.encoder.encode_plain(TEXT)
    assert len(ids) >= 40
    return ids


@pytest.fixture
def widens_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every product one of float32, so that nothing but the arithmetic of the blocks can differ."""
    monkeypatch.setattr(int8_layers, "WIDEN_FROM", 1)
    monkeypatch.setattr(int8_layers, "SHARPENED", 10**6)


def distance(logits: Any, reference: Any) -> float:
    """How far logits lie apart, as a share of their spread: the largest over tokens."""
    ours, theirs = (np.array(array, np.float64).reshape(-1, array.shape[-1]) for array in (logits, reference))
    spread = np.linalg.norm(theirs - theirs.mean(axis=-1, keepdims=True), axis=-1)
    return float((np.linalg.norm(ours - theirs, axis=-1) / spread).max())


def begin_rows(routed: RoutedModel, prompts: Sequence[Sequence[int]]) -> list[Any]:
    """Caches of rows that have read their prompts, each by itself."""
    rows = []
    for prompt in prompts:
        cache = routed.make_cache()
        mx.eval(routed(mx.array([list(prompt)]), cache=cache))
        rows.append(cache)
    return [layers[0].merge(layers) for layers in zip(*rows, strict=True)]


def decode(routed: RoutedModel, caches: list[Any], following: Sequence[Sequence[int]]) -> Floats:
    """Logits (rows, tokens, vocabulary) of tokens that are read one after the other."""
    steps = [np.array(routed(mx.array(column)[:, None], cache=caches)) for column in np.array(following).T.tolist()]
    return np.concatenate(steps, axis=1)


@pytest.mark.parametrize(
    ("length", "widen_from", "limit"), [(WIDEN_FROM + 8, WIDEN_FROM, EXACT), (3, 1, EXACT), (3, WIDEN_FROM, ROUNDED)]
)
def test_whole_blocks_give_the_logits_of_their_layers(
    model: Any, tokens: list[int], length: int, widen_from: int, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_layers, "WIDEN_FROM", widen_from)
    prompt = mx.array([tokens[:length], tokens[-length:]])
    whole = np.array(model(prompt))
    monkeypatch.setattr(WholeBlock, "_is_plain", False)
    assert 0.0 < distance(whole, model(prompt)) < limit


def test_blocks_are_computed_as_wholes_when_they_serve(
    model: Any, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[type] = []
    first = type(model.layers[0]).__mro__[2]
    theirs = first.__call__

    def count_call(self: Any, x: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(type(x))
        return theirs(self, x, *arguments, **options)

    monkeypatch.setattr(first, "__call__", count_call)
    model(mx.array([tokens[:5]]))
    assert calls == []
    model.train()
    model(mx.array([tokens[:5]]))
    model.eval()
    assert calls == [mx.array] * len(model.layers)


class WrappedLayer(nn.Module):  # type: ignore[misc]
    """A layer as an adapter wraps it; adds ``change``."""

    def __init__(self, base: Any, change: float) -> None:
        super().__init__()
        self.base, self.change = base, change
        self.kinds: list[type] = []

    def __call__(self, x: mx.array) -> mx.array:
        self.kinds.append(type(x))
        y: mx.array = self.base(x) + self.change
        return y


@pytest.mark.usefixtures("widens_all")
@pytest.mark.parametrize("place", ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"])
def test_a_wrapped_module_is_called_by_mlx_lms_own_block(model: Any, tokens: list[int], place: str) -> None:
    prompt, (parent, name) = mx.array([tokens[:12]]), place.split(".")
    before = np.array(model(prompt))
    holder = model.layers[7][parent]
    base = holder[name]
    wrapper = WrappedLayer(base, 0.0)
    try:
        holder[name] = wrapper
        neutral = np.array(model(prompt))
        wrapper.change = 2.0
        changed = np.array(model(prompt))
    finally:
        holder[name] = base
    assert wrapper.kinds == [mx.array, mx.array], "arrays of MLX, although other blocks pass on a Hidden"
    assert distance(neutral, before) < EXACT
    assert distance(changed, before) > 0.05
    np.testing.assert_array_equal(model(prompt), before)


def decode_alone(model: Any, prompt: Sequence[int], following: Sequence[int], *, merges: bool) -> Floats:
    """Merged rows take the block's own attention, a single one's cache MLX's."""
    routed = RoutedModel(model, Rows())
    if merges:
        return decode(routed, begin_rows(routed, [prompt]), [following])
    cache = make_prompt_cache(model)
    model(mx.array([list(prompt)]), cache=cache)
    return np.concatenate([np.array(model(mx.array([[token]]), cache=cache)) for token in following], axis=1)


@pytest.mark.usefixtures("widens_all")
@pytest.mark.parametrize("merges", [False, True])
def test_tokens_one_by_one_give_the_logits_of_a_prompt(model: Any, tokens: list[int], merges: bool) -> None:
    logits = decode_alone(model, tokens[:6], tokens[6:12], merges=merges)
    assert distance(logits, np.array(model(mx.array([tokens[:12]])))[:, 6:]) < EXACT


@pytest.mark.parametrize("merges", [False, True])
def test_the_kernels_rounding_changes_few_best_tokens(model: Any, tokens: list[int], merges: bool) -> None:
    logits = decode_alone(model, tokens[:6], tokens[6:30], merges=merges)
    expected = np.array(model(mx.array([tokens])))[:, 6:30]
    assert 0.0 < distance(logits, expected) < ROUNDED
    assert (logits.argmax(-1) == expected.argmax(-1)).mean() > 0.9


@pytest.mark.usefixtures("widens_all")
def test_rows_of_different_lengths_decode_together_as_they_do_alone(model: Any, tokens: list[int]) -> None:
    routed = RoutedModel(model, Rows())
    prompts, following = [tokens[:25], tokens[3:7], tokens[10:22]], [tokens[25:28], tokens[7:10], tokens[22:25]]
    together = decode(routed, begin_rows(routed, prompts), following)
    for row, (prompt, next_tokens) in enumerate(zip(prompts, following, strict=True)):
        alone = np.array(model(mx.array([prompt + next_tokens])))[:, -3:]
        assert distance(together[row : row + 1], alone) < EXACT, row
        assert distance(together[(row + 1) % 3], alone) > 0.3, "the rows differ"


@pytest.mark.usefixtures("widens_all")
def test_rows_that_join_and_leave_change_no_other(model: Any, tokens: list[int]) -> None:
    routed = RoutedModel(model, Rows())
    prompts = [tokens[:9], tokens[5:25], tokens[2:6], tokens[8:20]]
    caches = begin_rows(routed, prompts[:3])
    decode(routed, caches, [tokens[9:11], tokens[25:27], tokens[6:8]])
    for cache, joining in zip(caches, begin_rows(routed, prompts[3:]), strict=True):
        cache.filter([1, 2])
        cache.extend(joining)
    logits = decode(routed, caches, [tokens[27:29], tokens[8:10], tokens[20:22]])
    for row, (first, last) in enumerate([(5, 29), (2, 10), (8, 22)]):
        expected = np.array(model(mx.array([tokens[first:last]])))[:, -2:]
        assert distance(logits[row : row + 1], expected) < EXACT, row


def test_a_copy_of_the_caches_goes_on_by_itself(model: Any, tokens: list[int]) -> None:
    routed = RoutedModel(model, Rows())
    caches = begin_rows(routed, [tokens[:9], tokens[5:12]])
    twins = copy.deepcopy(caches)
    first = decode(routed, caches, [tokens[9:12], tokens[12:15]])
    other = decode(routed, twins, [tokens[30:33], tokens[33:36]])
    again = decode(routed, begin_rows(routed, [tokens[:9], tokens[5:12]]), [tokens[9:12], tokens[12:15]])
    np.testing.assert_array_equal(first, again)
    assert distance(other, first) > 0.1


def test_a_hidden_state_is_the_array_it_was_made_of() -> None:
    x = mx.array(np.random.default_rng(0).standard_normal((2, 3, 4)), mx.float32)
    hidden = Hidden.of(x)
    assert hidden.tokens.shape == (6, 4)
    assert Hidden.of(hidden) is hidden
    np.testing.assert_array_equal(hidden.array, x)
