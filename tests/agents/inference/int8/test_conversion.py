"""Rounding to int8, converting models, and the file that keeps what was rounded."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models import llama, qwen2

from agents.inference.int8 import conversion
from agents.inference.int8.conversion import convert, find_groups, find_largest, quantise, wide_weight
from agents.inference.int8.layers import Int8Embedding, Int8Head, Int8Linear, Int8Matrix
from tests.agents.inference import hybrid

TOKENS = mx.array([[3, 14, 15, 92, 65, 35]])


def build(*, quantised: bool = False, tied: bool = False, family: Any = qwen2, seed: int = 3) -> Any:
    """A small random model with biases in its attention."""
    mx.random.seed(seed)
    arguments = {
        "model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "vocab_size": 128,
        "tie_word_embeddings": tied,
    }  # fmt: skip
    model = family.Model(family.ModelArgs.from_dict(arguments))
    if quantised:
        nn.quantize(model, group_size=32, bits=4)
    mx.eval(model.parameters())
    return model


def widen(matrix: Int8Matrix) -> Any:
    numbers, scales, factors = (np.array(part) for part in (matrix.numbers, matrix.scales, matrix.factors))
    return numbers * scales[:, None].astype(np.float64) * factors


@st.composite
def weights(draw: st.DrawFn) -> Any:
    """Weights of any size, with outliers, small columns, and rows and columns of zeros."""
    outputs, inputs = draw(st.integers(1, 40)), draw(st.integers(1, 70))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    matrix = random.standard_normal((outputs, inputs)) * 10.0 ** draw(st.integers(-6, 4))
    matrix *= 10.0 ** random.uniform(-3, 3, inputs) if draw(st.booleans()) else 1.0
    for _ in range(draw(st.integers(0, 3))):
        matrix[random.integers(outputs), random.integers(inputs)] *= 1000.0
    if draw(st.booleans()):
        matrix[random.integers(outputs)] = 0.0
    if draw(st.booleans()):
        matrix[:, random.integers(inputs)] = 0.0
    return matrix.astype(np.float32)


@given(weights(), st.integers(1, 3), st.sampled_from([mx.float32, mx.bfloat16]))
def test_a_weight_is_rounded_by_half_a_step_at_most(matrix: Any, layers: int, kind: Any) -> None:
    given_weights = [mx.array(part).astype(kind) for part in np.array_split(matrix, layers) if len(part)]
    original = np.concatenate([np.array(part.astype(mx.float32)) for part in given_weights]).astype(np.float64)
    rounded = quantise(given_weights)
    numbers, scales, factors = (np.array(part) for part in (rounded.numbers, rounded.scales, rounded.factors))
    assert numbers.dtype == np.int8
    assert numbers.min() >= -127
    steps = scales[:, None].astype(np.float64) * factors
    assert (np.abs(widen(rounded) - original) <= steps / 2 + 1e-6 * np.abs(original)).all()
    assert not (scales.view(np.uint32) & 0xFFFF).any(), "bfloat16 holds every scale"
    assert np.isfinite(scales).all()
    assert (scales > 0).all()
    assert not widen(rounded)[original == 0.0].any()


@given(st.lists(st.floats(2.0**-120, 2.0**120, width=32), min_size=1, max_size=20))
def test_scales_are_rounded_up_by_one_unit_at_most(numbers: list[float]) -> None:
    original = np.array(numbers, np.float32)
    rounded = conversion.round_up_to_bfloat16(original)
    assert (rounded >= original).all()
    assert (rounded < original * (1 + 2.0**-7)).all()
    np.testing.assert_array_equal(conversion.round_up_to_bfloat16(rounded), rounded)


def test_chunks_of_a_matrix_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = mx.array(np.random.default_rng(0).standard_normal((50, 30)), mx.float32)
    whole = quantise([matrix])
    monkeypatch.setattr(conversion, "CHUNK", 7 * 30)
    for first, second in zip((whole.numbers, whole.scales, whole.factors), _parts(quantise([matrix])), strict=True):
        np.testing.assert_array_equal(first, second)


def _parts(matrix: Int8Matrix) -> tuple[mx.array, mx.array, mx.array]:
    return matrix.numbers, matrix.scales, matrix.factors


@pytest.mark.parametrize("tied", [False, True])
def test_every_linear_layer_is_replaced_and_the_answers_stay_close(tied: bool) -> None:
    model = build(tied=tied)
    before, largest = np.array(model(TOKENS)), find_largest(model)
    convert(model)
    assert largest.weight.shape == (128, 64)
    assert not any(type(module) in (nn.Linear, nn.Embedding) for _, module in model.named_modules())
    assert type(model.model.embed_tokens) is Int8Embedding
    assert tied or type(model.lm_head) is Int8Head
    assert type(model.model.layers[1].mlp.down_proj) is Int8Linear
    assert "bias" in model.model.layers[0].self_attn.q_proj
    assert "bias" not in model.model.layers[0].self_attn.o_proj
    error = np.abs(np.array(model(TOKENS)) - before)
    assert 0.0 < error.max() < 0.05 * before.std()
    assert not list(find_groups(model)), "what is int8 is not converted again"
    assert find_largest(model) is None


@pytest.mark.parametrize("family", [llama, qwen2])
def test_layers_with_the_same_input_share_a_matrix_in_one_memory(family: Any) -> None:
    model = build(family=family)
    convert(model)
    for block in model.layers:
        attention, mlp = block.self_attn, block.mlp
        for siblings, product in (
            ((attention.q_proj, attention.k_proj, attention.v_proj), block._parts._queries_keys_values),
            ((mlp.gate_proj, mlp.up_proj), block._parts._gate_up),
        ):
            begin = 0
            for layer in siblings:
                end = begin + layer.weight.shape[0]
                rows = product._numbers[begin:end]
                assert np.shares_memory(np.asarray(layer.weight), rows)
                assert np.shares_memory(layer.product._kernel._weight.array, rows)
                assert np.asarray(layer.weight).ctypes.data == rows.ctypes.data
                begin = end
            assert begin == len(product._numbers)


def test_quantised_layers_are_converted_by_what_they_mean() -> None:
    model = build(quantised=True)
    modules = {path: module for path, module in model.named_modules() if hasattr(module, "bits")}
    assert len(modules) == 16, "seven layers in each of two blocks, the embedding and the head"
    wide = {path: np.array(wide_weight(module)) for path, module in modules.items()}
    before = np.array(model(TOKENS))
    convert(model)
    converted = dict(model.named_modules())
    for path, weight in wide.items():
        layer = converted[path]
        assert isinstance(layer, (Int8Linear, Int8Head, Int8Embedding))
        error = np.abs(np.array(wide_weight(layer)) - weight)
        matrix = layer.product.matrix
        steps = np.array(matrix.scales)[:, None] * np.array(matrix.factors)
        assert (error <= steps / 2 + 1e-6).all(), path
    assert np.abs(np.array(model(TOKENS)) - before).max() < 0.05 * before.std()


def widen_layers(model: Any) -> None:
    """Put a dense layer with the same weights in the place of each int8 layer."""
    for _, parent in model.named_modules():
        for name, layer in parent.children().items():
            if isinstance(layer, (Int8Linear, Int8Head)):
                parent[name] = nn.Linear(1, 1, bias="bias" in layer)
                parent[name].update({"weight": wide_weight(layer), **({"bias": layer.bias} if "bias" in layer else {})})
            elif isinstance(layer, Int8Embedding):
                parent[name] = nn.Embedding(1, 1)
                parent[name].weight = wide_weight(layer)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_model_of_another_family_is_converted_layer_by_layer(quantised: bool, training: bool) -> None:
    model, tokens = hybrid.build(quantized=quantised), mx.array([list(range(3, 43))])
    convert(model)
    assert sum(isinstance(module, Int8Linear) for _, module in model.named_modules()) > 20
    model.train(training)
    logits = np.array(model(tokens))
    widen_layers(model)
    assert not any(isinstance(module, Int8Linear) for _, module in model.named_modules())
    np.testing.assert_allclose(logits, model(tokens), atol=1e-3)


def refuse_rounding(weights: Sequence[mx.array], *, exact: bool) -> Int8Matrix:
    raise AssertionError("rounded again")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file written for the model of :func:`build`."""
    convert(build(), tmp_path / "int8" / "weights.safetensors")
    return tmp_path / "int8" / "weights.safetensors"


def test_the_file_is_used_the_second_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [path.name for path in file.parent.iterdir()] == ["weights.safetensors"], "no temporary file stays"
    first, second = build(), build()
    convert(first)
    written = file.stat().st_mtime_ns
    monkeypatch.setattr(conversion, "quantise", refuse_rounding)
    convert(second, file)
    np.testing.assert_array_equal(first(TOKENS), second(TOKENS))
    assert file.stat().st_mtime_ns == written
    with pytest.raises(AssertionError, match="rounded again"):
        convert(build())


def cut_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def cut_end(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5000])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def raise_recipe(file: Path) -> None:
    arrays: Any = mx.load(str(file))
    mx.save_safetensors(str(file), arrays, metadata={"recipe": "0"})


def drop_group(file: Path) -> None:
    arrays: Any = mx.load(str(file))
    kept = {name: array for name, array in arrays.items() if not name.startswith("lm_head.")}
    mx.save_safetensors(str(file), kept, metadata={"recipe": conversion.RECIPE})


@pytest.mark.parametrize("damage", [cut_header, cut_end, empty, raise_recipe, drop_group])
def test_a_file_that_cannot_be_used_is_written_again(
    damage: Callable[[Path], None], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, model = build(), build()
    convert(expected)
    damage(file)
    convert(model, file)
    np.testing.assert_array_equal(model(TOKENS), expected(TOKENS))
    monkeypatch.setattr(conversion, "quantise", refuse_rounding)
    again = build()
    convert(again, file)
    np.testing.assert_array_equal(again(TOKENS), expected(TOKENS))


def test_a_file_that_cannot_be_written_is_counted_and_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(conversion, "count_degraded", lambda path, error: counted.append(f"{path}: {error}"))
    (tmp_path / "file").write_bytes(b"")
    expected, model = build(), build()
    convert(expected)
    convert(model, tmp_path / "file" / "weights.safetensors")
    np.testing.assert_array_equal(model(TOKENS), expected(TOKENS))
    (reason,) = counted
    assert reason.startswith("inference.int8: ")
    assert "cannot be written" in reason
