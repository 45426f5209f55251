"""Serves rows with different adapters in one batch: each row gathers its own low-rank pair from a stack of pairs.

Stacks, with S sets and rank r (the widest pair's; narrower ones are padded with zeros): a linear layer has ``a``
(S, inputs, r) and ``b`` (S, r, outputs); an embedding ``a`` (S, tokens, r); a layer of E experts ``a``
(S, E, r, inputs) and ``b`` (S, E, outputs, r). The base has no place in them: its rows get the base's result plus zero.

A row's slot, and the factor by which it is enhanced (:mod:`agents.inference.knowbias.enhancement`), travel with the
row's cache: a :class:`RowSlot` is its last entry, so that whatever mlx-lm does to the batch (merge, extend, split,
filter) happens to the slots too. :class:`RoutedModel` removes that entry before it calls the model.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import KVCache, make_prompt_cache
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchGLU, SwitchLinear, SwitchMLP

from agents.inference.adapters.kv_cache import RoomyCache, RowCache
from agents.inference.adapters.pairs import LowRankPair

EMBEDDINGS = (nn.Embedding, nn.QuantizedEmbedding)
SWITCHES = (SwitchLinear, QuantizedSwitchLinear)
EXPERTS = (SwitchGLU, SwitchMLP)
"""Expert layers. With :data:`SORTED_FROM` or more indices they sort tokens by expert before they call their
:data:`SWITCHES`."""
SORTED_FROM = 64
"""mlx-lm's own limit: expert indices (tokens times experts a token) from which an expert layer sorts."""


class Rows:
    """The current forward pass: the place of each row's set in the stacks, (rows,).

    ``order`` is the place by slot; the base's slot 0 has none, and its rows are marked in ``bare``, (rows,), which is
    None when there are none. ``by_expert`` holds place and mark of each sorted index while an expert layer has its
    tokens sorted by expert. ``factors`` are the rows' enhancement factors, (rows,); None when all are 1.
    """

    def __init__(self) -> None:
        self.order: dict[int, int] = {0: 0}
        self.places = mx.zeros((1,), mx.uint32)
        self.bare: mx.array | None = None
        self.factors: mx.array | None = None
        self.by_expert: tuple[mx.array, mx.array | None] | None = None

    def begin(self, slots: Sequence[int]) -> None:
        """Set the rows' places for a forward pass. A slot that is not in the stacks is served in place."""
        self.places = mx.array([self.order.get(slot, 0) for slot in slots], mx.uint32)
        self.bare = mx.array([slot == 0 for slot in slots]) if 0 in slots else None


class RowSlot:
    """Entry of a prompt cache with the slot and the factor of each row; it holds no tokens."""

    nbytes = 0
    state: tuple[mx.array, ...] = ()

    def __init__(self, rows: Sequence[tuple[int, float]]) -> None:
        self.rows = list(rows)

    @property
    def slots(self) -> list[int]:
        """Slots, by row."""
        return [slot for slot, _ in self.rows]

    @property
    def factors(self) -> list[float]:
        """Factors of the enhancement, by row."""
        return [factor for _, factor in self.rows]

    def merge(self, entries: Sequence["RowSlot"]) -> "RowSlot":
        """All rows of ``entries`` in one."""
        return RowSlot([row for entry in entries for row in entry.rows])

    def extend(self, other: "RowSlot") -> None:
        """Add the rows of another entry."""
        self.rows += other.rows

    def filter(self, keep: Any) -> None:
        """Keep only the rows of these numbers."""
        self.rows = [self.rows[int(index)] for index in keep]

    def extract(self, index: int) -> "RowSlot":
        """One row."""
        return RowSlot([self.rows[index]])

    def prepare(self, **_: Any) -> None:
        """Padding does not matter here."""

    def finalize(self) -> None:
        """Padding does not matter here."""

    def empty(self) -> bool:
        """True: it holds no tokens."""
        return True

    def is_trimmable(self) -> bool:
        """True: it can be cut to any length."""
        return True

    def trim(self, tokens: int) -> int:
        """Do nothing: there is nothing to cut."""
        return tokens


class RoutedModel:
    """The model as mlx-lm's generator sees it; its caches carry their rows' slots.

    ``ending``: all rows end with the tokens that the next call is given, so that this call is skipped and returns
    zeros. mlx-lm begins a step before it returns the tokens of the step before, and the result of the last one is never
    used.
    """

    def __init__(self, model: Any, rows: Rows) -> None:
        self._model, self._rows = model, rows
        self._zero_logits = mx.zeros((1, 1, 1))
        self.ending = False

    def make_cache(self, slot: int = 0, layers: Sequence[Any] | None = None, *, factor: float = 1.0) -> list[Any]:
        """A cache of one row: a fresh one, or with ``layers`` that already hold tokens."""
        entries = layers or make_prompt_cache(self._model)
        if all(type(layer) in (KVCache, RowCache) for layer in entries):
            entries = [RowCache.from_state(layer.state) for layer in entries]
        return [*entries, RowSlot([(slot, factor)])]

    def __call__(self, inputs: mx.array, *, cache: Sequence[Any]) -> mx.array:
        """Logits of ``inputs`` (rows, tokens), each row with its own adapters."""
        if self.ending:
            self.ending = False
            return mx.repeat(self._zero_logits, len(inputs), axis=0)
        *layers, entry = cache
        slots, factors = entry.slots, entry.factors
        places = layers[0].places if isinstance(layers[0], RoomyCache) else None
        if places is not None and not places.is_ordered:
            inputs = inputs[mx.array(places.numbers)]
            slots, factors = [slots[row] for row in places.numbers], [factors[row] for row in places.numbers]
        self._rows.begin(slots)
        self._rows.factors = mx.array(factors) if any(factor != 1.0 for factor in factors) else None
        logits: mx.array = self._model(inputs, cache=layers)
        self._rows.factors = None  # a caller of the model itself has no rows with a factor
        if self._zero_logits.shape[-1] != logits.shape[-1]:
            self._zero_logits = mx.zeros((1, 1, logits.shape[-1]), logits.dtype)
        return logits if places is None or places.is_ordered else logits[mx.array(places.of)]


class _MixedModule(nn.Module):  # type: ignore[misc]
    base: Any

    def __init__(self, base: Any, rows: Rows) -> None:
        super().__init__()
        self.base = base
        self._rows = rows
        self.drop()

    @property
    def nbytes(self) -> int:
        """Bytes of the stack."""
        return int(self.a.nbytes + self.b.nbytes)

    def hold(self, a: mx.array, b: mx.array) -> None:
        """Use another stack of pairs."""
        self.a, self.b = a, b

    def drop(self) -> None:
        """Let the stack go."""
        self.a = self.b = mx.zeros((0,))

    def _low_rank_change(self, x: mx.array, a: mx.array, b: mx.array) -> mx.array:
        """The change that each row's pair makes to ``x`` (rows, ..., inputs)."""
        places = self._rows.places
        flat = x.reshape(places.size, -1, x.shape[-1])
        change = mx.gather_mm(mx.gather_mm(flat, a, rhs_indices=places), b, rhs_indices=places)
        return _clear(change, self._rows.bare).reshape(*x.shape[:-1], -1).astype(x.dtype)


class MixedLinear(_MixedModule):
    """A dense or quantised linear layer."""

    def __call__(self, x: mx.array) -> mx.array:
        """``x``: (rows, ..., inputs)."""
        y: mx.array = self.base(x)
        return y + self._low_rank_change(x, self.a, self.b)


class MixedEmbedding(_MixedModule):
    """An embedding, also where it is the output layer."""

    def __call__(self, x: mx.array) -> mx.array:
        """``x``: token ids (rows, tokens)."""
        places = self._rows.places
        y: mx.array = self.base(x)
        change = mx.gather_mm(self.a[places[:, None], x], self.b, rhs_indices=places)
        return y + _clear(change, self._rows.bare).astype(y.dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        """``x``: (rows, tokens, width) to logits."""
        y: mx.array = self.base.as_linear(x)
        return y + self._low_rank_change(x, self.b.swapaxes(-1, -2), self.a.swapaxes(-1, -2))


class MixedSwitch(_MixedModule):
    """A linear layer of experts: place and expert together are the index of the pair."""

    def hold(self, a: mx.array, b: mx.array) -> None:
        """Use another stack of pairs; places and experts become one axis."""
        self._experts = a.shape[1]
        super().hold(a.flatten(0, 1).swapaxes(-1, -2), b.flatten(0, 1).swapaxes(-1, -2))

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """``indices``: experts (rows, tokens, chosen), or (tokens,) in their order."""
        y: mx.array = self.base(x, indices, sorted_indices=sorted_indices)
        rows = self._rows.by_expert if sorted_indices else (self._rows.places, self._rows.bare)
        assert rows is not None, "only a MixedExperts sorts, and it sets by_expert"
        places, bare = rows
        pairs = places.reshape(-1, *[1] * (indices.ndim - 1)) * self._experts + indices
        change = mx.gather_mm(mx.gather_mm(x, self.a, rhs_indices=pairs), self.b, rhs_indices=pairs)
        return y + _clear(change, bare).astype(y.dtype)


class MixedExperts(nn.Module):  # type: ignore[misc]
    """Around an expert layer: tells its linear layers the place of each token once the tokens are sorted by expert."""

    def __init__(self, base: Any, rows: Rows) -> None:
        super().__init__()
        self.base = base
        self._rows = rows

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """``x``: (rows, tokens, width); ``indices``: (rows, tokens, chosen)."""
        if indices.size >= SORTED_FROM:
            _, tokens, experts_per_token = indices.shape
            order = mx.argsort(indices.flatten())
            rows, bare = order // (tokens * experts_per_token), self._rows.bare
            self._rows.by_expert = self._rows.places[rows], None if bare is None else bare[rows]
        output: mx.array = self.base(x, indices)
        self._rows.by_expert = None
        return output


def wrap(base: Any, rows: Rows) -> _MixedModule:
    """The wrapper of a module that holds stacks."""
    kinds: tuple[tuple[tuple[Any, ...], type[_MixedModule]], ...] = (
        (SWITCHES, MixedSwitch),
        (EMBEDDINGS, MixedEmbedding),
    )
    return next((kind for bases, kind in kinds if isinstance(base, bases)), MixedLinear)(base, rows)


def stack_pairs(pairs: Sequence[LowRankPair | None]) -> tuple[mx.array, mx.array]:
    """The stacks of a module's pairs, in their order; None is a pair of zeros, and narrower pairs are padded."""
    present = [pair for pair in pairs if pair is not None]
    axes = _rank_axes(present[0])
    rank = max(pair.rank for pair in present)
    a_shape, b_shape = list(present[0].a.shape), list(present[0].b.shape)
    a_shape[axes[0]] = b_shape[axes[1]] = rank
    nothing = mx.zeros(a_shape, present[0].a.dtype), mx.zeros(b_shape, present[0].b.dtype)
    a = [nothing[0] if pair is None else _padded(pair.a, axes[0], rank) for pair in pairs]
    b = [nothing[1] if pair is None else _padded(pair.b, axes[1], rank) for pair in pairs]
    return mx.stack(a), mx.stack(b)


def take_part(pair: LowRankPair, a: mx.array, b: mx.array) -> LowRankPair:
    """The pair as part ``a``, ``b`` of the stacks. One of another type than the stacks keeps its own tensors."""
    if (pair.a.dtype, pair.b.dtype) != (a.dtype, b.dtype):
        return pair
    if pair.rank < a.shape[_rank_axes(pair)[0]]:
        first, second = _rank_axes(pair)
        a, b = mx.split(a, [pair.rank], axis=first)[0], mx.split(b, [pair.rank], axis=second)[0]
    return LowRankPair(a=a, b=b, stacked=True)


def _rank_axes(pair: LowRankPair) -> tuple[int, int]:
    """Where the rank is in ``a`` and in ``b``."""
    return (1, 2) if pair.a.ndim == 3 else (1, 0)


def _clear(change: mx.array, bare: mx.array | None) -> mx.array:
    """The change, zeros where ``bare`` marks it along the first axis; a product with zero would keep infinities."""
    if bare is None:
        return change
    return mx.where(bare.reshape(-1, *[1] * (change.ndim - 1)), mx.zeros((), change.dtype), change)


def _padded(array: mx.array, axis: int, size: int) -> mx.array:
    missing = size - array.shape[axis]
    return mx.pad(array, [(0, missing if i == axis else 0) for i in range(array.ndim)]) if missing else array
