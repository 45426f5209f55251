"""What rounding a model's weights to int8 changes: the probabilities of given texts, and the likeliest tokens."""

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import msgspec
import numpy as np
from mlx_lm.models.cache import KVCache, make_prompt_cache
from numpy.typing import NDArray

from agents.inference.adapters.kv_cache import RoomyCache, RowCache
from agents.inference.int8.layers import WIDEN_FROM
from agents.inference.mlx import loading
from agents.inference.settings import InferenceSettings
from schemas.errors import SetupError

OnAdvance = Callable[[int], None]
"""Called with how many more tokens were read."""

Window = Sequence[int]
"""Tokens of a text: one that is given, and those whose probabilities are read."""

WINDOW = 1024
"""Tokens that are read in one window at most."""

PASS = 128
"""Tokens in one float32 pass: their logits are 78 MB for a vocabulary of 152,000."""

ALL = "all"
"""The figures of all texts together."""


@dataclass(frozen=True)
class TokenScores:
    """What a model makes of windows: natural-log probabilities of their tokens but the first, and the likeliest tokens
    in those places; (windows, tokens)."""

    log_probabilities: NDArray[np.float64]
    likeliest: NDArray[np.int64]

    def select(self, part: slice) -> "TokenScores":
        """Those of some windows."""
        return TokenScores(self.log_probabilities[part], self.likeliest[part])


class Fidelity(msgspec.Struct, frozen=True, kw_only=True):
    """How near int8 is to float32 on texts of one kind.

    ``ratio`` is the perplexity with int8 weights over that with float32 weights, ``agreement`` the share of tokens in
    whose place both find the same token the likeliest.
    """

    kind: str
    tokens: int
    float32_perplexity: float
    int8_perplexity: float
    ratio: float
    agreement: float


def measure_fidelity(
    settings: InferenceSettings,
    texts: Mapping[str, Sequence[str]],
    *,
    tokens: int,
    on_advance: OnAdvance = lambda _: None,
) -> list[Fidelity]:
    """Read about ``tokens`` tokens, as many of each kind of ``texts``, with float32 weights and then with int8.

    Each token is predicted from the text's own tokens before it in the window. ``on_advance`` hears of each token
    twice.

    Returns:
        The figures of each kind, then of :data:`ALL`.

    Raises:
        SetupError: the model cannot be loaded so, or a kind has too few tokens.
    """
    bundle = _load(settings, "float32")
    amount = -(-tokens // len(texts))
    encode = bundle.encoder.encode_plain
    tokens_of = {kind: [token for text in part for token in encode(text)] for kind, part in texts.items()}
    windows = {kind: cut_windows(part, amount, kind) for kind, part in tokens_of.items()}
    all_windows = [window for part in windows.values() for window in part]
    float32 = read_passes(bundle.model, all_windows, on_advance)
    del bundle, encode
    _free()
    int8 = read_steps(_load(settings, "int8").model, all_windows, on_advance)
    _free()
    figures, end = [], 0
    for kind, part in windows.items():
        begin, end = end, end + len(part)
        figures.append(compare_scores(kind, float32.select(slice(begin, end)), int8.select(slice(begin, end))))
    return [*figures, compare_scores(ALL, float32, int8)]


def cut_windows(text: Sequence[int], amount: int, kind: str) -> list[Window]:
    """Windows of equal length, spread evenly over the tokens of a text, in which at least ``amount`` tokens are read.

    Raises:
        SetupError: the text is too short.
    """
    count = -(-amount // WINDOW)
    length = -(-amount // count) + 1
    if len(text) < count * length:
        raise SetupError(f"the {kind} have {len(text)} tokens: {count * length} are needed.", param="tokens")
    starts = [number * len(text) // count for number in range(count)]
    return [text[start : start + length] for start in starts]


def read_passes(model: Any, windows: Sequence[Window], on_advance: OnAdvance = lambda _: None) -> TokenScores:
    """One window after the other, many tokens in a pass, as a prompt is read."""
    rows = []
    for window in windows:
        cache, parts = make_prompt_cache(model), []
        for start in range(0, len(window) - 1, PASS):
            targets = np.array(window[start + 1 : start + 1 + PASS])
            inputs = mx.array([list(window[start : start + len(targets)])])
            parts.append(_score(model(inputs, cache=cache)[0], targets))
            on_advance(len(targets))
        rows.append(_concatenate(parts))
    return _stack(rows)


def read_steps(model: Any, windows: Sequence[Window], on_advance: OnAdvance = lambda _: None) -> TokenScores:
    """Windows of equal length side by side, one token of each in a pass, as answers are decoded.

    A pass has fewer tokens than from which on int8 products are computed by widened weights.
    """
    batches = []
    for start in range(0, len(windows), WIDEN_FROM - 1):
        tokens, steps = np.array(windows[start : start + WIDEN_FROM - 1]), []
        cache = _make_cache(model, len(tokens))
        for place in range(tokens.shape[1] - 1):
            logits = model(mx.array(tokens[:, place : place + 1]), cache=cache)[:, 0]
            steps.append(_score(logits, tokens[:, place + 1]))
            on_advance(len(tokens))
        by_place = _stack(steps)
        batches.append(TokenScores(by_place.log_probabilities.T, by_place.likeliest.T))
    return _concatenate(batches)


def compare_scores(kind: str, float32: TokenScores, int8: TokenScores) -> Fidelity:
    """The figures of the same windows, read by both."""
    losses = [-float(scores.log_probabilities.mean()) for scores in (float32, int8)]
    return Fidelity(
        kind=kind,
        tokens=float32.likeliest.size,
        float32_perplexity=math.exp(losses[0]),
        int8_perplexity=math.exp(losses[1]),
        ratio=math.exp(losses[1] - losses[0]),
        agreement=float((float32.likeliest == int8.likeliest).mean()),
    )


def _load(settings: InferenceSettings, weights: Literal["float32", "int8"]) -> loading.ModelBundle:
    bundle = loading.load(msgspec.structs.replace(settings, cpu_weights=weights))
    if bundle.weights != weights:
        raise SetupError("int8 weights are a CPU's: this machine takes the weights as stored.", param="cpu_weights")
    return bundle


def _free() -> None:
    gc.collect()
    mx.clear_cache()


def _make_cache(model: Any, rows: int) -> list[Any]:
    """The cache of a batch, as the worker has it where all layers keep keys and values."""
    layers: list[Any] = make_prompt_cache(model)
    if all(type(layer) is KVCache for layer in layers):
        return [RoomyCache.of([RowCache() for _ in range(rows)]) for _ in layers]
    return layers


def _score(logits: mx.array, targets: NDArray[np.int64]) -> TokenScores:
    """Of ``logits`` (tokens, vocabulary) and the tokens that came; (tokens,)."""
    numbers, places = np.asarray(logits.astype(mx.float32)), np.arange(len(targets))
    likeliest = numbers.argmax(axis=-1)
    largest = numbers[places, likeliest]
    totals = np.log(np.exp(numbers - largest[:, None]).sum(axis=-1, dtype=np.float64))
    return TokenScores((numbers[places, targets] - largest).astype(np.float64) - totals, likeliest)


def _stack(parts: Sequence[TokenScores]) -> TokenScores:
    return TokenScores(
        np.stack([part.log_probabilities for part in parts]), np.stack([part.likeliest for part in parts])
    )


def _concatenate(parts: Sequence[TokenScores]) -> TokenScores:
    return TokenScores(
        np.concatenate([part.log_probabilities for part in parts]), np.concatenate([part.likeliest for part in parts])
    )
