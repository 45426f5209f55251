"""What int8 costs the answers of a model that gets it by itself: a short reading on this project's own pages."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from agents.inference.adapters.mixed import RoutedModel, Rows
from agents.inference.mlx.loading import load
from agents.inference.settings import InferenceSettings
from runtime.models import int8_folder, prepare

WINDOWS, CONTEXT, SCORED = 8, 64, 64
"""Texts, and of each of them the tokens that are read at once and those that are scored one after the other."""

Reading = tuple[list[float], list[int]]


def read_pages(encoder: Any) -> list[list[int]]:
    """Windows from different pages."""
    pages = sorted(Path(__file__).parents[4].glob("docs/*.md"))
    lengths = CONTEXT + SCORED
    tokens = [encoder.encode_plain(page.read_text(encoding="utf-8")[2000:4000])[:lengths] for page in pages]
    windows = [window for window in tokens if len(window) == lengths][:WINDOWS]
    assert len(windows) == WINDOWS
    return windows


def read_step_by_step(settings: InferenceSettings, weights: str) -> Reading:
    """Log-probabilities of the scored tokens, and the best token in the place of each, as rows of one batch decode."""
    bundle = load(settings)
    assert bundle.weights == weights
    windows, routed = read_pages(bundle.encoder), RoutedModel(bundle.model, Rows())
    rows = []
    for window in windows:
        cache = routed.make_cache()
        mx.eval(routed(mx.array([window[: CONTEXT - 1]]), cache=cache), [layer.state for layer in cache])
        rows.append(cache)
    caches = [layers[0].merge(layers) for layers in zip(*rows, strict=True)]
    logprobs: list[float] = []
    best: list[int] = []
    for position in range(CONTEXT, CONTEXT + SCORED):
        logits = routed(mx.array([[window[position - 1]] for window in windows]), cache=caches)[:, 0]
        targets = mx.array([[window[position]] for window in windows])
        scores: Any = mx.take_along_axis(logits, targets, axis=1)[:, 0] - mx.logsumexp(logits, axis=1)
        logprobs += scores.tolist()
        best += _as_list(logits.argmax(axis=1))
    return logprobs, best


def _as_list(array: Any) -> Sequence[int]:
    numbers: list[int] = array.tolist()
    return numbers


def test_int8_keeps_the_perplexity_and_the_best_tokens_of_half_a_billion_weights() -> None:
    model = prepare("qwen2.5-coder-0.5b-instruct")
    readings = []
    for weights in ("float32", "int8"):
        settings = InferenceSettings(
            model=model,
            model_name="qwen",
            cpu_weights="float32" if weights == "float32" else "int8",
            int8_folder=int8_folder(model, ""),
        )
        readings.append(read_step_by_step(settings, weights))
        gc.collect()
        mx.clear_cache()
    (exact_logprobs, exact_best), (logprobs, best) = readings
    assert len(logprobs) == WINDOWS * SCORED == 512
    perplexity, exact_perplexity = (float(np.exp(-np.mean(scores))) for scores in (logprobs, exact_logprobs))
    agreement = float(np.mean(np.array(best) == np.array(exact_best)))
    print(f"perplexity {perplexity:.4f} for {exact_perplexity:.4f}, agreement {agreement:.4f}")
    assert 1.0 < exact_perplexity < 100.0
    assert abs(perplexity / exact_perplexity - 1) < 0.01
    assert agreement >= 0.96
    assert logprobs != exact_logprobs
