"""Reading texts with float32 and with int8 weights, on the small model, and a few texts on the default one."""

import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from msgspec.structs import replace

from agents.inference.int8.kernel import Int8Product, KernelUnavailable, allocate
from agents.inference.probing import fidelity
from agents.inference.probing.fidelity import (
    TokenScores,
    compare_scores,
    cut_windows,
    measure_fidelity,
    read_passes,
    read_steps,
)
from agents.inference.settings import InferenceSettings
from runtime.models import prepare
from runtime.settings import DEFAULT_MODEL
from schemas.errors import SetupError

ROOT = Path(__file__).parents[4]
TEXTS = {
    "documents": [(ROOT / "README.md").read_text(encoding="utf-8")],
    "code": [Path(fidelity.__file__).read_text(encoding="utf-8")],
}


@pytest.fixture(scope="module")
def _with_kernel() -> None:
    try:
        Int8Product(allocate((64, 64), np.int8), np.ones(64, np.float32))
    except KernelUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("_with_kernel")
def test_int8_reads_nearly_as_float32_does(
    settings: InferenceSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fidelity, "WINDOW", 25)  # eight windows side by side
    steps: list[int] = []
    figures = measure_fidelity(replace(settings, int8_folder=tmp_path), TEXTS, tokens=200, on_advance=steps.append)
    assert [(row.kind, row.tokens) for row in figures] == [("documents", 100), ("code", 100), ("all", 200)]
    assert sum(steps) == 400
    for row in figures:
        assert row.ratio == pytest.approx(1, abs=0.1)
        assert 0.85 <= row.agreement <= 1
        assert 1 < row.float32_perplexity < 1000
    assert figures[-1].ratio != 1
    assert (tmp_path / "weights.safetensors").exists()


def test_a_model_agrees_with_itself_whether_it_reads_by_passes_or_by_steps(
    settings: InferenceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agents.inference.mlx.loading import load

    monkeypatch.setattr(fidelity, "PASS", 16)
    monkeypatch.setattr(fidelity, "WIDEN_FROM", 3)
    bundle = load(replace(settings, cpu_weights="float32"))
    windows = cut_windows(bundle.encoder.encode_plain(TEXTS["documents"][0]), 40, "documents")
    windows = [windows[0][:14], windows[0][14:28], windows[0][27:41]]
    scores, steps = read_passes(bundle.model, windows), read_steps(bundle.model, windows)
    assert scores.likeliest.shape == (3, 13)
    figures = compare_scores("documents", scores, steps)
    assert figures.agreement == 1
    assert figures.ratio == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(steps.log_probabilities, scores.log_probabilities, atol=1e-2)
    itself = compare_scores("documents", scores, scores)
    assert (itself.ratio, itself.agreement) == (1, 1)


class Counter:
    """Finds the token after each one the likeliest, by as much as makes it half the probability."""

    layers = ()

    def __call__(self, tokens: mx.array, cache: Any) -> mx.array:
        """Logits over four tokens."""
        return mx.array(np.eye(4, dtype=np.float32)[(np.array(tokens) + 1) % 4] * np.log(3))


@pytest.mark.parametrize("read", [read_passes, read_steps])
def test_the_scores_are_those_of_the_next_tokens(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "PASS", 2)
    scores: TokenScores = read(Counter(), [[0, 1, 2, 0], [3, 3, 0, 1]])
    assert scores.likeliest.tolist() == [[1, 2, 3], [0, 0, 1]]
    expected = np.log([[1 / 2, 1 / 2, 1 / 6], [1 / 6, 1 / 2, 1 / 2]])
    np.testing.assert_allclose(scores.log_probabilities, expected, rtol=1e-6)


def test_perplexity_and_agreement_are_those_of_the_textbook() -> None:
    exact = TokenScores(np.log([[0.5, 0.5]]), np.array([[1, 2]]))
    rounded = TokenScores(np.log([[0.25, 0.25]]), np.array([[1, 3]]))
    figures = compare_scores("code", exact, rounded)
    assert (figures.float32_perplexity, figures.int8_perplexity, figures.ratio) == pytest.approx((2, 4, 2))
    assert (figures.tokens, figures.agreement) == (2, 0.5)


def test_windows_are_spread_over_the_text_and_do_not_overlap() -> None:
    text = random.Random(0).sample(range(10_000), 5_000)
    windows = cut_windows(text, 2_500, "code")
    assert [len(window) for window in windows] == [835] * 3
    tokens = [token for window in windows for token in window]
    assert len(set(tokens)) == len(tokens)
    assert windows[0][0] == text[0]
    assert windows[2][-1] in text[-1_000:]


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(SetupError, match="the code have 99 tokens: 101 are needed"):
        cut_windows(range(99), 100, "code")


def test_a_machine_that_takes_weights_as_stored_is_refused(
    settings: InferenceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stored:
        weights = "stored"

    monkeypatch.setattr("agents.inference.mlx.loading.load", lambda _: Stored())
    with pytest.raises(SetupError, match="a CPU's"):
        measure_fidelity(settings, TEXTS, tokens=200)


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("_with_kernel")
def test_int8_keeps_the_default_models_perplexity_and_choices() -> None:
    settings = InferenceSettings(model=prepare(DEFAULT_MODEL), model_name=DEFAULT_MODEL)
    texts = {
        "documents": [(ROOT / "docs" / "guarantees.md").read_text()],
        "code": [(ROOT / "agents" / "router" / "selection.py").read_text()],
    }
    figures = {row.kind: row for row in measure_fidelity(settings, texts, tokens=620)}
    assert figures[fidelity.ALL].tokens >= 600
    assert abs(figures[fidelity.ALL].ratio - 1) < 0.01
    assert figures[fidelity.ALL].agreement >= 0.96
