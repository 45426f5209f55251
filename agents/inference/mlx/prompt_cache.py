"""Caches processed prompts, so that the longest known beginning of a new prompt is not processed again.

The key is the tenant, the set of adapters (with the digests of their files), the enhancement's factor and the token
ids; a worker has one model. mlx-lm's ``LRUPromptCache`` finds the longest prefix and drops the oldest. Caches that can
be cut (keys and values) also serve prompts that leave a known one half-way; those that cannot (recurrent states, as in
Qwen3.6) only where a known one ends, so that these are kept at the end of the prompt as well as at the end of the
answer.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, KVCache, LRUPromptCache, QuantizedKVCache, can_trim_prompt_cache

GROUP = 64
"""Numbers that share one scale in a quantised cache."""

MAX_ENTRIES = 4096


class PrefixCache:
    """The cached prompts: ``max_bytes`` at most, 0 caches none; ``bits`` 8 quantises keys and values, None does not."""

    def __init__(self, *, max_bytes: int, bits: int | None = None) -> None:
        self._max_bytes, self._bits = max_bytes, bits
        self.forget()

    @property
    def nbytes(self) -> int:
        """Bytes of all cached prompts."""
        return int(self._entries.nbytes)

    def __len__(self) -> int:
        return len(self._entries)

    def forget(self) -> None:
        """Drop everything."""
        self._entries = LRUPromptCache(max_size=MAX_ENTRIES, max_bytes=self._max_bytes)

    def find(self, key: Hashable, tokens: Sequence[int]) -> tuple[list[Any] | None, int]:
        """A copy of the caches of the longest known prefix of ``tokens``, and its length; None and 0 without one."""
        if not self._max_bytes:
            return None, 0
        layers, rest = self._entries.fetch_nearest_cache(key, list(tokens))
        known_tokens = len(tokens) - len(rest)
        if layers is None or not known_tokens:
            return None, 0
        return [_dequantized(layer) for layer in layers], known_tokens

    def keep(self, key: Hashable, tokens: Sequence[int], layers: Sequence[Any]) -> None:
        """Copy and keep the caches that hold exactly ``tokens``."""
        if not self._max_bytes or not tokens or any(layer.empty() for layer in layers):
            return
        compact = [_compact(layer, self._bits) for layer in layers]
        if sum(layer.nbytes for layer in compact) > self._max_bytes:
            return
        mx.eval([layer.state for layer in compact])
        self._entries.insert_cache(key, list(tokens), compact)


@dataclass(frozen=True, kw_only=True)
class CacheCost:
    """Bytes of cache that a row needs: ``fixed`` for the row, and ``token`` for each token."""

    fixed: int
    token: int

    def of(self, tokens: int) -> int:
        """Bytes of a row of so many tokens."""
        return self.fixed + self.token * tokens


def measure_cost(layers: Sequence[Any]) -> CacheCost:
    """The cost of a row, read from the caches of one row that hold at least one token."""
    growing = [layer for layer in layers if isinstance(layer, KVCache)]
    states = [layer for layer in layers if not isinstance(layer, KVCache)]
    token = sum((layer.keys.nbytes + layer.values.nbytes) // layer.keys.shape[2] for layer in growing)
    return CacheCost(fixed=sum(layer.nbytes for layer in states), token=token)


def cannot_be_cut(layers: Sequence[Any]) -> bool:
    """Whether these caches cannot be cut to a shorter prompt."""
    return not can_trim_prompt_cache(list(layers))


def _compact(layer: Any, bits: int | None) -> Any:
    """A copy without room to grow and without a share in the batch's buffers."""
    if isinstance(layer, KVCache):
        keys, values = layer.keys_and_values()
        layer_copy = KVCache.from_state((_own_copy(keys), _own_copy(values), layer.offset))
        fits = keys.shape[-1] % GROUP == 0 and values.shape[-1] % GROUP == 0
        return layer_copy.to_quantized(group_size=GROUP, bits=bits) if bits is not None and fits else layer_copy
    if isinstance(layer, ArraysCache):
        layer_copy = ArraysCache(len(layer.cache))
        layer_copy.cache = [None if array is None else _own_copy(array) for array in layer.cache]
        return layer_copy
    return layer


def _dequantized(layer: Any) -> Any:
    if not isinstance(layer, QuantizedKVCache):
        return layer
    keys, values = layer.keys_and_values()
    options = {"group_size": layer.group_size, "bits": layer.bits}
    return KVCache.from_state((mx.dequantize(*keys, **options), mx.dequantize(*values, **options), layer.offset))


def _own_copy(array: mx.array) -> mx.array:
    """A copy in a buffer of its own: a slice would keep the whole batch's buffer alive."""
    return mx.contiguous(array) * mx.array(1, array.dtype)
